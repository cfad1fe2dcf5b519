"""What stands in the state is read in full or refused with a message: records of any age, and damage anywhere.

`ROTATOR_EXAMPLES` sets how many are tried of each kind: ROTATOR_EXAMPLES=5000 python -m pytest tests/test_bad_state.py
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import sqlite3
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from typing import Any

import click
import pytest
from builders import NOW
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes.stage import Stage
from test_store import TEXTS, TIMES, an_outlook, full_record

from rotator.assembly import assemble
from rotator.cli import cli
from rotator.config import load
from rotator.errors import NeedsPerson, StateUnavailable
from rotator.model import Event, Order, OrderKind, Record
from rotator.rhythm import Sample
from rotator.store import Store
from rotator.store_tables import document_of, metadata, parse_record

EXAMPLES = int(os.environ.get("ROTATOR_EXAMPLES", "60"))
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.integers(0, 2**63 - 1),
    bool: st.booleans(),
    type(None): st.none(),
    type(NOW): TIMES,
    timedelta: st.timedeltas(timedelta(0), timedelta(days=4000)),
}


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of the model, with every field of every part drawn."""
    if kind in PLAIN:
        return PLAIN[kind]
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return st.builds(kind, **{name: anything(hint) for name, hint in typing.get_type_hints(kind).items()})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    inner = [anything(each) for each in typing.get_args(kind) if each is not ...]
    match typing.get_origin(kind):
        case types.UnionType:
            return st.one_of(*inner)
        case origin if origin is tuple:
            return st.lists(inner[0], max_size=2).map(tuple)
        case origin if origin is Mapping:
            return st.dictionaries(*inner, max_size=2)
    raise AssertionError(f"no values of {kind} are known")


RECORDS = anything(Record).map(lambda record: dataclasses.replace(record, policy="ci", document=1, orders=()))
quick = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


# Records


@quick
@given(RECORDS)
def test_every_field_of_a_record_comes_back(record: Record) -> None:
    assert parse_record("ci", document_of(record)) == record


def optional(kind: Any) -> set[str]:
    no = dataclasses.MISSING
    return {f.name for f in dataclasses.fields(kind) if f.default is not no or f.default_factory is not no}


@st.composite
def younger(draw: st.DrawFn, value: Any, kind: Any = Record) -> Any:
    """The document without some of the fields that have a default, as a version wrote it that did not know them."""
    if isinstance(value, dict) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        gone = optional(kind) - {"document"}
        kept = {name: item for name, item in value.items() if name not in gone or draw(st.booleans())}
        return {name: draw(younger(item, hints[name])) for name, item in kept.items()}
    parts = [each for each in typing.get_args(kind) if each not in (..., str, type(None))]
    if isinstance(value, dict) and parts:
        inner = parts[0]
        within = typing.get_origin(kind) is Mapping
        return {k: draw(younger(v, inner)) for k, v in value.items()} if within else draw(younger(value, inner))
    return [draw(younger(item, parts[0])) for item in value] if isinstance(value, list) and parts else value


@quick
@given(st.data())
def test_a_document_without_what_was_added_later_is_read_and_loses_nothing(data: st.DataObject) -> None:
    document = json.loads(document_of(data.draw(st.one_of(st.just(full_record()), RECORDS))))
    old = data.draw(younger(document))
    assert json.loads(document_of(parse_record("ci", json.dumps(old)))) == old


WRONG: list[Any] = [
    *(None, True, -1, 0, 2**63, 10**30, 1.5, 1e308, "", "x", [], {}, [[]], {"x": 1}, "P999999999D", "-PT1S", "1e999"),
    *("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2026-11-23T04:05:50", "2026-11-23", 1763870750),
]


@st.composite
def damaged(draw: st.DrawFn, value: Any) -> Any:
    """The JSON value with something in it dropped, added or replaced."""
    if not value or not isinstance(value, dict | list) or draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(WRONG))
    if isinstance(value, list):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(damaged(value[at])), *value[at + 1 :]]
    key = draw(st.sampled_from(sorted(value)))
    what = draw(st.sampled_from(["inside", "inside", "inside", "drop", "add"]))
    if what == "inside":
        return {**value, key: draw(damaged(value[key]))}
    return {name: item for name, item in value.items() if name != key} if what == "drop" else {**value, "later": 1}


@quick
@given(st.data())
def test_a_damaged_document_is_read_or_refused(data: st.DataObject) -> None:
    sound = document_of(full_record())
    if data.draw(st.booleans()):
        text = json.dumps(data.draw(damaged(json.loads(sound))))
    else:
        cut = data.draw(st.integers(0, len(sound)))
        text = sound[:cut] + data.draw(st.text(max_size=3)) + sound[cut + data.draw(st.integers(0, 9)) :]
    try:
        record = parse_record("ci", text)
    except StateUnavailable:
        return
    assert parse_record("ci", document_of(record)) == record


@pytest.mark.parametrize(
    ("change", "to"),
    [
        pytest.param('"created_at": "2026-11-17T12:00:00Z"', '"created_at": "2026-11-17T12:00:00"', id="no zone"),
        pytest.param(
            '"created_at": "2026-11-17T12:00:00Z"', '"created_at": "9999-12-31T23:59:59Z"', id="the year 9999"
        ),
        pytest.param('"key_id": 104', f'"key_id": {2**63}', id="an id that no column holds"),
        pytest.param('"key_id": 104', '"key_id": "104"', id="an id in quotes"),
        pytest.param('"lost": 2', '"lost": -2', id="less than none"),
        pytest.param('"document": 1', '"document": 0', id="a format that never was"),
    ],
)
def test_a_record_that_nothing_could_be_reckoned_with_is_damaged(change: str, to: str) -> None:
    text = json.dumps(json.loads(document_of(full_record())))
    assert parse_record("ci", text)
    assert change in text
    with pytest.raises(StateUnavailable, match="the state's record of policy ci is damaged; restore the state"):
        parse_record("ci", text.replace(change, to, 1))


# Any value in any column

VALUES: list[Any] = [
    *(None, "", 0, -1, 2**62, 1e308, "x", "\x1b[2J", b"\xff\xfe", b"text", "{}", "[]", "null", "[1]", '{"do": "wait"}'),
    *("9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+00:00", "2026-11-23T00:00:00", "20261123", "101 yesterday"),
]
COMMANDS = (
    *(["status"], ["status", "--json"], ["why", "ci"], ["why", "101"], ["history"], ["history", "--json"], ["keys"]),
    *(["history", "--verify"], ["plan"], ["check", "--online"], ["pause", "ci"], ["resume"], ["a turn"]),
)


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, bytes]]:
    """A stage whose state has a row in every table, and that state."""
    stage = Stage(tmp_path_factory.mktemp("furnished"))
    stage.settle()
    with closing(Store(f"sqlite:///{stage.state}", ["ops"])) as store:
        store.add_order(Order(0, OrderKind.ROTATE, NOW, policy="ci"))
        store.tell([Event("test.heard", "so", "ci", 1, 101, "name", notify=True)], NOW)
        store.set_flags([101], [], [], NOW)
        store.add_samples([Sample(101, NOW, ("203.0.113.7",))])
        store.set_outlooks({"ci": an_outlook()})
        store.set_meta("usage_unseen", f"101 {NOW.isoformat()}")
        store.set_meta("renames", json.dumps({"ci": ["app"]}))
    with closing(sqlite3.connect(stage.state)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    yield stage, stage.state.read_bytes()
    stage.close()


def columns() -> list[tuple[str, str]]:
    return [(table.name, column.name) for table in metadata.sorted_tables for column in table.columns]


def put(stage: Stage, sound: bytes, table: str, column: str, value: object) -> None:
    """The sound state, but with this value in this column of every row."""
    for file in stage.folder.glob("rotator.db*"):
        file.unlink()
    stage.state.write_bytes(sound)
    with closing(sqlite3.connect(stage.state)) as connection, connection:
        connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))


def a_turn(stage: Stage) -> None:
    """What the service does when it starts: it polls, and takes one turn."""
    assembly = assemble(load(stage.config), threading.Event(), tell=lambda _: None)
    try:
        assembly.rounds.poll()
        assembly.rounds.obey()
        assembly.engine.turn("ci")
        assembly.notifier.send_for(30)
    finally:
        assembly.close()


def outcome(stage: Stage, words: list[str]) -> str:
    """What the command says when it refuses, or an empty text. Any other exception is none that a user may meet."""
    try:
        if words == ["a turn"]:
            a_turn(stage)
            return ""
        done = CliRunner().invoke(cli, [*words, "-c", str(stage.config)], prog_name="rotator", standalone_mode=False)
        if done.exception is not None:
            raise done.exception
    except (StateUnavailable, NeedsPerson, click.UsageError) as refused:
        return str(refused)
    return ""


@quick
@given(data=st.data())
def test_whatever_stands_in_a_column_every_command_answers(data: st.DataObject, furnished: tuple[Stage, bytes]) -> None:
    stage, sound = furnished
    table, column = data.draw(st.sampled_from(columns()))
    values = st.sampled_from(VALUES)
    if column in ("document", "event"):
        written = {"records": document_of(full_record()), "outlooks": json.dumps(an_outlook())}.get(table, "{}")
        values |= damaged(json.loads(written)).map(json.dumps)
    value = data.draw(values)
    commands = data.draw(st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=2, unique_by=tuple))
    try:
        put(stage, sound, table, column, value)
    except sqlite3.IntegrityError:  # NOT NULL: SQLite itself refuses it
        return
    before = documents(stage)
    for words in commands:
        if "of policy ci is damaged" in outcome(stage, words):
            assert documents(stage) == before


def documents(stage: Stage) -> list[object]:
    with closing(sqlite3.connect(stage.state)) as connection:
        connection.text_factory = bytes
        return connection.execute("SELECT * FROM records").fetchall()


STOPS = "It changes nothing outside until the state is mended; what stands there stays as it is."
DOES = {
    "outlooks": "`status` and `why` say so; the service does not look at it, and writes it anew.",
    "history": "`history` says so, and which command shows the place; what stands there stays as it is.",
}


def a_damage(fault: str, table: str, column: str, value: object, words: list[str], says: str) -> Any:
    mark = pytest.mark.fault("Input", fault, DOES.get(table, STOPS))
    return pytest.param(table, column, value, words, says, id=f"{fault}: {value!r}", marks=mark)


@pytest.mark.parametrize(
    ("table", "column", "value", "words", "says"),
    [
        a_damage(
            "A record in the state is no text",
            *("records", "document", b"\xff", ["status"], "the state's record of policy ci is damaged"),
        ),
        a_damage(
            "A record's count of writes in the state is no number",
            *("records", "version", "x", ["pause"], "the state's record of policy ci is damaged"),
        ),
        a_damage(
            "A decision in the state is none",
            *("outlooks", "document", "{}", ["status"], "the last decision about policy ci is damaged; a service that"),
        ),
        a_damage(
            "The time of an order in the state is none",
            *("orders", "at", "soon", ["status"], "an open order in the state is damaged; restore the state from"),
        ),
        a_damage(
            "The kind of an order in the state is none",
            *("orders", "kind", "dance", ["plan"], "an open order in the state is damaged"),
        ),
        a_damage(
            "The time of an order in the state has no zone",
            *("orders", "at", "2026-11-23T00:00:00", ["keys"], "an open order in the state is damaged"),
        ),
        a_damage(
            "A flag in the state has no time", "flags", "since", "x", ["a turn"], "a time in the state is damaged"
        ),
        a_damage(
            "A use of a key in the state has no time",
            *("uses", "used_at", "x", ["a turn"], "a time in the state is damaged"),
        ),
        a_damage(
            "An entry of the history has no time",
            *("history", "at", "x", ["history"], "entry 1 of the state's history is damaged; see: rotator history"),
        ),
        a_damage(
            "An entry of the history gives no reason that is text",
            *("history", "why", b"\xff", ["history"], "entry 1 of the state's history is damaged"),
        ),
        a_damage(
            "The state's version of its tables is no text",
            *("meta", "value", b"\xff", ["status"], "is no state: it is another program's database"),
        ),
    ],
)
def test_damage_is_named_with_what_to_do(
    table: str,
    column: str,
    value: object,
    words: list[str],
    says: str,
    furnished: tuple[Stage, bytes],
    person_sees: Callable[[str], None],
) -> None:
    put(*furnished, table, column, value)
    before = documents(furnished[0])
    said = outcome(furnished[0], words)
    assert says in said
    assert documents(furnished[0]) == before
    person_sees(f"rotator: {said}")


def test_a_damaged_entry_does_not_keep_the_chain_from_being_verified(furnished: tuple[Stage, bytes]) -> None:
    """It is what the message about the entry asks for."""
    stage, sound = furnished
    put(stage, sound, "history", "at", "x")
    done = CliRunner().invoke(cli, ["history", "--verify", "-c", str(stage.config)], standalone_mode=False)
    assert "the history breaks at entry 1" in done.output
