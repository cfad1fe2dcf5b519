"""The state on a real file: what was written survives, nothing is half written, nothing is misunderstood."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from builders import (
    APP,
    CI,
    DAY,
    NOW,
    ORG,
    PROJECT,
    VAULT,
    a_closed_name,
    a_failure,
    a_generation,
    a_live,
    a_record,
    a_retiring,
    a_rotation,
    an_adopted,
    an_intent,
    an_orphan,
    asked,
    held,
)
from disks import a_small_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from rotator.engine import outlook_of
from rotator.errors import NeedsPerson, RotatorError, StateUnavailable
from rotator.model import Absence, Check, Condemned, Do, Event, Generation, Offer, Order, OrderKind, Record, Step
from rotator.secret import Secret
from rotator.store import GENESIS, Store
from rotator.store_tables import document_of, parse_record
from rotator.transitions import Change

DATA = Path(__file__).parent / "data"
HEARD = Event("test.heard", "somebody said so", "ci", 1, 101, "ci-1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = a_store(path)
    yield opened
    opened.close()


def a_store(path: Path, *notify: str, create: bool = True) -> Store:
    return Store(f"sqlite:///{path}", notify, create=create)


def sql(path: Path, *statements: str) -> list[Any]:
    """What another program that can write the file might do."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


def written(record: Record, *events: Event) -> Callable[[Record], Change]:
    """The transition that puts `record` in the place of whatever there is."""
    return lambda _: Change(record, events)


def counted(record: Record) -> Change:
    return Change(replace(record, next_generation=record.next_generation + 1), (HEARD,))


# One record, many writers


def test_threads_with_a_store_each_lose_no_update(path: Path) -> None:
    stores = [a_store(path) for _ in range(4)]

    def work(store: Store) -> None:
        for _ in range(25):
            store.change("ci", NOW, counted)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert stores[0].record("ci").next_generation == 101
    assert len(stores[0].history("ci")) == 100
    assert stores[0].broken_at() is None
    for store in stores:
        store.close()


def test_processes_lose_no_update(path: Path) -> None:
    a_store(path).close()
    processes = [a_process(path, "for _ in range(40): store.change('ci', NOW, counted)") for _ in range(3)]

    assert [process.communicate(timeout=60) and process.returncode for process in processes] == [0, 0, 0]

    store = a_store(path)
    assert store.record("ci").next_generation == 121
    assert [entry.seq for entry in store.history()] == list(range(1, 121))
    assert store.broken_at() is None
    store.close()


def test_a_transition_sees_the_record_as_it_stands_and_none_means_no_change(store: Store) -> None:
    store.change("ci", NOW, counted)
    seen: list[int] = []

    def look(record: Record) -> None:
        seen.append(record.next_generation)

    assert store.change("ci", NOW, look) == store.record("ci")
    assert seen == [2]
    assert len(store.history()) == 1


def test_a_transition_that_fails_leaves_nothing_of_its_transaction(store: Store) -> None:
    def fail(record: Record) -> Change:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        store.change_many(NOW, {"one": counted, "two": fail})

    assert store.records() == {}
    assert store.head() == GENESIS
    store.change("one", NOW, counted)


def test_the_record_the_history_the_orders_and_the_notices_are_one_transaction(path: Path) -> None:
    store = a_store(path, "ops")
    number = store.add_order(an_order_for("ci"))
    sql(path, "CREATE TRIGGER full BEFORE INSERT ON notices BEGIN SELECT RAISE(ABORT, 'disk full'); END")

    def rotate(record: Record) -> Change:
        return Change(replace(record, lost=3), (replace(HEARD, notify=True),), (number,))

    with pytest.raises(StateUnavailable, match="disk full"):
        store.change("ci", NOW, rotate)
    assert [order.id for order in store.record("ci").orders] == [number]
    assert (store.records(), store.history(), store.notices("ops")) == ({}, [], [])

    sql(path, "DROP TRIGGER full")
    record = store.change("ci", NOW, rotate)
    assert record == store.record("ci")
    assert record.orders == ()
    assert len(store.history()) == len(store.notices("ops")) == 1
    store.close()


# The file


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_can_read_the_state(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = a_store(path)
        store.change("ci", NOW, counted)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


def test_a_state_that_others_can_read_is_closed_to_them(path: Path) -> None:
    with closing(a_store(path)) as first:
        first.change("ci", NOW, counted)
        for file in path.parent.iterdir():
            file.chmod(0o644)
        a_store(path).close()
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_what_is_written_is_on_the_disk_when_a_call_returns(store: Store, path: Path) -> None:
    with store._transaction(writing=False) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    assert sql(path, "PRAGMA journal_mode") == [("wal",)]


def test_the_wal_does_not_keep_the_size_that_a_long_reader_gave_it(store: Store, path: Path) -> None:
    wal = path.with_name(path.name + "-wal")
    long_word = replace(HEARD, why="x" * 100_000)
    with closing(a_store(path)) as reader, reader._transaction(writing=False) as connection:
        connection.exec_driver_sql("SELECT count(*) FROM history").scalar()
        store.tell([long_word] * 80, NOW)
        store.tell([HEARD], NOW)
        assert wal.stat().st_size > 6 * 2**20
    for _ in range(3):
        store.tell([HEARD], NOW)
    assert wal.stat().st_size <= 4 * 2**20


def test_a_process_killed_in_a_transaction_leaves_what_was_there_before(path: Path) -> None:
    with closing(a_store(path)) as store:
        store.change("ci", NOW, counted)
    process = a_process(
        path,
        """
        def die(record):
            change = counted(record)
            store._tell(connection, change.events, NOW)
            print("in it", flush=True)
            signal.pause()
        with store._transaction(writing=True) as connection:
            die(store._load(connection, "ci")[0])
        """,
    )
    kill_after_line(process, "in it")

    with closing(a_store(path)) as store:
        assert store.record("ci").next_generation == 2
        assert len(store.history()) == 1
        store.change("ci", NOW, counted)
        assert store.broken_at() is None


def test_what_was_committed_survives_a_kill(path: Path) -> None:
    process = a_process(
        path, "for _ in range(10): store.change('ci', NOW, counted)\nprint('done', flush=True)\nsignal.pause()"
    )
    kill_after_line(process, "done")

    with closing(a_store(path)) as store:
        assert store.record("ci").next_generation == 11


def test_reading_makes_no_state(path: Path) -> None:
    with pytest.raises(NeedsPerson, match=r"there is no state at .* yet; start the service first"):
        a_store(path, create=False)
    assert list(path.parent.iterdir()) == []


def test_reading_makes_no_state_of_an_empty_file(path: Path) -> None:
    path.touch(mode=0o644)
    with pytest.raises(NeedsPerson, match="there is no state"):
        a_store(path, create=False)
    assert path.read_bytes() == b""


def test_reading_changes_neither_the_file_nor_its_mode(path: Path) -> None:
    with closing(a_store(path)) as store:
        store.change("ci", NOW, counted)
    path.chmod(0o640)
    before = path.read_bytes()

    with closing(a_store(path, create=False)) as reader:
        assert reader.record("ci").next_generation == 2

    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_state_that_was_made_only_in_part_is_begun_again(path: Path) -> None:
    path.touch(mode=0o600)
    with closing(a_store(path)) as store:
        store.change("ci", NOW, counted)


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, create: bool) -> None:
    path.write_text("neon: {api_key: …}\n" * 100)
    before = path.read_bytes()
    with pytest.raises(NeedsPerson, match="it is not an SQLite file; move it away"):
        a_store(path, create=create)
    assert path.read_bytes() == before


@pytest.mark.parametrize("create", [True, False])
def test_the_database_of_another_program_is_refused_and_left_alone(path: Path, create: bool) -> None:
    sql(path, "CREATE TABLE customers (name TEXT)")
    with pytest.raises(NeedsPerson, match="another program's database"):
        a_store(path, create=create)
    assert sql(path, "SELECT name FROM sqlite_master") == [("customers",)]


def test_a_damaged_file_is_told_as_such(path: Path) -> None:
    a_store(path).close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    with pytest.raises(StateUnavailable, match="it is damaged: restore it from a backup"):
        a_store(path).records()


@pytest.mark.parametrize("create", [True, False])
def test_a_newer_schema_is_refused_and_nothing_changes(path: Path, create: bool) -> None:
    a_store(path).close()
    sql(
        path, "UPDATE meta SET value = '2' WHERE name = 'schema'", "DROP TABLE flags", "CREATE TABLE leases (token INT)"
    )
    before = sql(path, "SELECT sql FROM sqlite_master")

    with pytest.raises(
        NeedsPerson, match=r"newer rotator \(schema 2, this one reads up to 1\); run that version again"
    ):
        a_store(path, create=create)

    assert sql(path, "SELECT sql FROM sqlite_master") == before


def test_a_state_that_was_removed_while_in_use_is_not_written_to_any_more(store: Store, path: Path) -> None:
    store.change("ci", NOW, counted)
    path.unlink()

    with pytest.raises(StateUnavailable, match="was removed while it was in use; restart the service"):
        store.change("ci", NOW, counted)

    a_store(path).close()  # another one in its place
    with pytest.raises(StateUnavailable, match="was replaced"):
        store.tell([HEARD], NOW)


def test_a_folder_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NeedsPerson, match="cannot be opened: No such file or directory; make it and the folder"):
        a_store(tmp_path / "nowhere" / "state.db")


def test_a_state_elsewhere_is_not_supported_yet() -> None:
    with pytest.raises(NeedsPerson, match="use sqlite:///PATH"):
        Store("postgresql://host/database")


# While it cannot be written


def test_on_a_full_disk_nothing_is_half_written_and_all_goes_on_when_there_is_room(path: Path) -> None:
    store = a_store(path)
    store.change("ci", NOW, counted)
    # A limit of pages is how SQLite itself can be out of room; the message is that of a full disk.
    pages = sql(path, "PRAGMA page_count")[0][0]
    with store._engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    big = Event("test.big", "x" * 200_000, "ci")

    with pytest.raises(StateUnavailable, match="database or disk is full; check the disk's free space"):
        store.change("ci", NOW, lambda record: Change(replace(record, lost=9), (HEARD, big)))
    assert store.record("ci").lost == 0
    assert len(store.history()) == 1

    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    store.change("ci", NOW, lambda record: Change(replace(record, lost=9), (HEARD, big)))
    assert store.record("ci").lost == 9
    assert store.broken_at() is None
    store.close()


def test_on_a_small_disk_that_fills_up_nothing_is_half_written(tmp_path: Path) -> None:
    with a_small_disk(tmp_path / "disk", 512 * 1024) as disk:
        store = a_store(disk.folder / "state.db")
        store.change("ci", NOW, counted)
        disk.fill()
        with pytest.raises(StateUnavailable):
            fill(store)
        record, entries = store.record("ci"), store.history()
        assert record.next_generation == len(entries) + 1
        assert store.broken_at() is None

        disk.free()
        store.change("ci", NOW, counted)
        assert len(store.history()) == len(entries) + 1
        assert store.broken_at() is None
        store.close()


def fill(store: Store) -> None:
    """Write until there is no room: what is allocated already is used up first."""
    for _ in range(1000):
        store.change("ci", NOW, counted)


def test_a_state_that_cannot_be_written_can_still_be_read(store: Store, path: Path) -> None:
    store.change("ci", NOW, counted)
    sql(path, "CREATE TRIGGER stuck BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'readonly'); END")

    for _ in range(20):  # more often than there are connections
        with pytest.raises(StateUnavailable, match="readonly"):
            store.change("ci", NOW, counted)
    assert store.record("ci").next_generation == 2

    sql(path, "DROP TRIGGER stuck")
    assert store.change("ci", NOW, counted).next_generation == 3


# History


@pytest.fixture
def told(store: Store) -> Store:
    for number in range(1, 7):
        store.tell([replace(HEARD, generation=number)], NOW + number * timedelta(seconds=1))
    return store


@pytest.mark.parametrize(
    ("tampering", "found_at"),
    [
        pytest.param("UPDATE history SET why = 'nothing' WHERE seq = 3", 3, id="a changed reason"),
        pytest.param("UPDATE history SET at = '2020-01-01T00:00:00+00:00' WHERE seq = 3", 3, id="a changed time"),
        pytest.param("UPDATE history SET policy = NULL WHERE seq = 3", 3, id="a changed policy"),
        pytest.param("UPDATE history SET event = 'x' WHERE seq = 3", 3, id="a changed event"),
        pytest.param("UPDATE history SET key_id = 7 WHERE seq = 3", 3, id="a changed key"),
        pytest.param("UPDATE history SET key_id = x'ff' WHERE seq = 3", 3, id="a key that is no number"),
        pytest.param("UPDATE history SET key_name = 'y' WHERE seq = 3", 3, id="a changed name"),
        pytest.param("UPDATE history SET generation = 9 WHERE seq = 3", 3, id="a changed generation"),
        pytest.param("UPDATE history SET hash = 'sha256:0' WHERE seq = 3", 3, id="a changed hash"),
        pytest.param("DELETE FROM history WHERE seq = 1", 1, id="the first removed"),
        pytest.param("DELETE FROM history WHERE seq = 3", 3, id="one removed"),
        pytest.param(
            "DELETE FROM history WHERE seq = 3; UPDATE history SET seq = seq - 1 WHERE seq > 3", 3, id="closed the gap"
        ),
        pytest.param(
            "UPDATE history SET seq = 99 WHERE seq = 3; UPDATE history SET seq = 3 WHERE seq = 4;"
            "UPDATE history SET seq = 4 WHERE seq = 99",
            3,
            id="two in the other order",
        ),
        pytest.param(
            "INSERT INTO history SELECT 7, at, policy, event, key_id, key_name, generation, why, hash FROM history "
            "WHERE seq = 6",
            7,
            id="one added",
        ),
        pytest.param(
            "INSERT INTO history SELECT 0, at, policy, event, key_id, key_name, generation, why, hash FROM history "
            "WHERE seq = 6",
            1,
            id="one put before",
        ),
    ],
)
def test_the_chain_shows_where_it_was_tampered_with(told: Store, path: Path, tampering: str, found_at: int) -> None:
    assert told.broken_at() is None
    sql(path, *tampering.split(";"))
    assert told.broken_at() == found_at


def test_a_cut_end_shows_by_the_head_that_was_kept_elsewhere(told: Store, path: Path) -> None:
    head = told.head()
    sql(path, "DELETE FROM history WHERE seq > 4")
    assert told.broken_at() is None
    assert told.head() != head
    assert told.history()[3].hash == told.head()


def test_the_history_is_told_of_one_policy_or_of_all(store: Store) -> None:
    store.tell([HEARD, replace(HEARD, policy=None), replace(HEARD, policy="other")], NOW)

    assert [entry.policy for entry in store.history()] == ["ci", None, "other"]
    (entry,) = store.history("ci")
    assert (entry.seq, entry.at, entry.event, entry.key_id, entry.key_name) == (1, NOW, "test.heard", 101, "ci-1")
    assert store.newest_time() == NOW
    assert store.head() == store.history()[-1].hash


def test_an_empty_history_has_a_head_and_no_time(store: Store) -> None:
    assert (store.head(), store.newest_time(), store.broken_at()) == (GENESIS, None, None)


def test_a_damaged_entry_is_told_with_where_to_look(told: Store, path: Path) -> None:
    sql(path, "UPDATE history SET at = 'yesterday' WHERE seq = 2")
    with pytest.raises(StateUnavailable, match="entry 2 of the state's history is damaged; see: rotator history"):
        told.history()


def test_a_secret_in_a_reason_is_not_written_down(path: Path) -> None:
    secret = Secret("napi_" + "s3cret" * 8)
    with closing(a_store(path, "ops")) as store:
        store.tell([replace(HEARD, why=f"a plug-in said {secret.reveal()}", notify=True)], NOW)
        store.set_outlooks({"ci": an_outlook(why=f"it said {secret.reveal()}")})
        assert store.history()[0].why == store.notices("ops")[0].event.why == "a plug-in said [secret]"
        files = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret.reveal().encode() not in files


# Records


def full_record() -> Record:
    """A record with something in every field of every part."""
    live = a_live(
        4,
        APP,
        CI,
        scope=PROJECT,
        last_used_at=NOW - DAY,
        last_used_from=("203.0.113.7", "2001:db8::1"),
        longest_gap=timedelta(hours=5, microseconds=7),
        seen_at=NOW - DAY,
        absence=Absence(1, NOW - DAY, NOW),
        missing_reported=True,
    )
    retiring = a_retiring(3, APP, held=held(overdue=True), revocation=asked(failures=2, retry_at=NOW, error="Größe ✓"))
    orphan = an_orphan(5, VAULT, superseded={VAULT: NOW}, condemned=Condemned.NOW, check=Check.REFUSED)
    unfinished = a_generation(6, offers={CI.target: Offer(NOW, 3, NOW + DAY, "it did not answer")})
    return a_record(
        an_adopted(50, scope=ORG),
        retiring,
        live,
        orphan,
        unfinished,
        intent=an_intent(7, ended_at=NOW),
        rotation=a_rotation(urgent=True, ordered=True),
        failure=a_failure(),
        failure_notified_at=NOW,
        lost=2,
        lost_retry_at=NOW + DAY,
        offered={CI.target: NOW},
        gone={VAULT.target: "vault-1"},
        closed=(a_closed_name(1, offered=(APP.target,)), a_closed_name(2)),
        drifted=(APP.target,),
        spent=("sha256:1",),
        paused=True,
    )


TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(tzinfo=NOW.tzinfo))
MAYBE = st.none() | TIMES


@st.composite
def generations(draw: st.DrawFn) -> Generation:
    number = draw(st.integers(0, 2**31))
    targets = st.dictionaries(TEXTS, TIMES, max_size=3)
    return replace(
        a_generation(number % 20),
        number=number,
        key_id=draw(st.integers(1, 2**63 - 1)),
        name=draw(TEXTS),
        scope=draw(st.sampled_from([PROJECT, ORG])),
        fingerprint=draw(st.none() | TEXTS),
        check=draw(st.sampled_from(Check)),
        offers=draw(
            st.dictionaries(TEXTS, st.builds(Offer, TIMES, st.integers(0, 99), MAYBE, st.none() | TEXTS), max_size=3)
        ),
        receipts=draw(targets),
        superseded=draw(targets),
        live_since=draw(MAYBE),
        retiring_since=draw(MAYBE),
        last_used_at=draw(MAYBE),
        last_used_from=tuple(draw(st.lists(TEXTS, max_size=2))),
        longest_gap=draw(st.none() | st.timedeltas(timedelta(0), timedelta(days=4000))),
        condemned=draw(st.none() | st.sampled_from(Condemned)),
        revocation=draw(st.none() | st.builds(asked, TIMES, failures=st.integers(0, 9), error=st.none() | TEXTS)),
    )


RECORDS = st.builds(
    lambda found, **changes: a_record(*found, **changes),
    st.lists(generations(), max_size=3),
    paused=st.booleans(),
    lost=st.integers(0, 99),
    lost_retry_at=MAYBE,
    offered=st.dictionaries(TEXTS, TIMES, max_size=2),
    gone=st.dictionaries(TEXTS, TEXTS, max_size=2),
    drifted=st.lists(TEXTS, max_size=2).map(tuple),
    rotation=st.none() | st.builds(a_rotation, since=TIMES, urgent=st.booleans()),
    intent=st.none() | st.builds(an_intent, st.integers(1, 99), at=TIMES),
)


@settings(max_examples=80, deadline=None)
@given(RECORDS)
def test_whatever_is_in_a_record_comes_back_exactly(record: Record) -> None:
    assert parse_record("ci", document_of(record)) == record


def test_a_full_record_comes_back_exactly_from_the_file(store: Store, path: Path) -> None:
    store.change("ci", NOW, written(full_record()))
    with closing(a_store(path, create=False)) as other:
        assert other.record("ci") == other.records()["ci"] == full_record()


def test_the_first_format_of_a_record_is_still_read() -> None:
    """The file was written once, by the first version, and is never written again."""
    text = (DATA / "record-v1.json").read_text(encoding="utf-8")
    assert json.loads(text)["document"] == 1
    assert parse_record("ci", text) == full_record()


def test_a_record_says_in_which_format_it_is() -> None:
    assert json.loads(document_of(Record(policy="new")))["document"] == 1


def test_orders_are_not_part_of_the_document() -> None:
    order = Order(3, OrderKind.ROTATE, NOW, "ci")
    assert parse_record("ci", document_of(replace(full_record(), orders=(order,)))) == full_record()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"document": 2}, "was written by a newer rotator", id="a newer format"),
        pytest.param({"document": 2, "generations": "elsewhere"}, "was written by a newer rotator", id="quite another"),
        pytest.param({"frozen_until": "2027-01-01"}, "would forget what it does not know", id="an unknown field"),
        pytest.param({"intent": {"nonce": 1}}, "would forget what it does not know", id="an unknown field in a part"),
        pytest.param({"generations": 7}, "is damaged; restore the state from a backup", id="another shape"),
        pytest.param({"lost": "many"}, "is damaged", id="another type"),
        pytest.param({"policy": "other"}, "is damaged", id="the record of another policy"),
    ],
)
def test_a_record_that_is_not_understood_in_full_is_refused_and_stays_as_it_is(
    store: Store, path: Path, change: dict[str, Any], problem: str
) -> None:
    store.change("ci", NOW, written(full_record()))
    document = json.dumps(json.loads(document_of(full_record())) | change)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE records SET document = ?", (document,))

    for use in (lambda: store.record("ci"), store.records, lambda: store.change("ci", NOW, counted)):
        with pytest.raises(StateUnavailable, match=rf"record of policy ci .*{problem}") as refused:
            use()
        assert "Traceback" not in str(refused.value)

    assert sql(path, "SELECT document FROM records") == [(document,)]
    assert store.record("other") == Record(policy="other")


@pytest.mark.parametrize("document", ["", "{", "[]", "null", '{"document": "x"}', "[" * 100_000])
def test_a_record_that_is_no_document_is_told_as_damaged(document: str) -> None:
    with pytest.raises(StateUnavailable, match="is damaged"):
        parse_record("ci", document)


# Renaming


def test_a_renamed_policy_takes_its_record_and_its_orders_along(store: Store) -> None:
    store.change("old", NOW, written(replace(a_record(a_live(1), paused=True), policy="old")))
    store.set_outlooks({"old": an_outlook()})
    number = store.add_order(an_order_for("old"))

    store.rename("old", "new", NOW)

    assert [(order.id, order.policy) for order in store.record("new").orders] == [(number, "new")]
    assert replace(store.record("new"), orders=()) == replace(a_record(a_live(1), paused=True), policy="new")
    assert store.records().keys() == {"new"}
    assert store.outlooks() == {}
    assert [entry.event for entry in store.history("new")] == ["policy.renamed"]
    before = store.records()
    store.rename("old", "new", NOW)
    assert store.records() == before


def test_a_policy_with_keys_of_its_own_takes_no_other_record_over(store: Store) -> None:
    store.change("old", NOW, written(replace(a_record(a_live(1)), policy="old")))
    store.change("new", NOW, written(replace(a_record(a_live(2)), policy="new")))
    before = store.records()

    store.rename("old", "new", NOW)

    assert store.records() == before


def test_a_policy_that_was_only_paused_under_its_new_name_stays_paused(store: Store) -> None:
    store.change("old", NOW, written(replace(a_record(a_live(1)), policy="old")))
    store.change("new", NOW, written(Record(policy="new", paused=True)))

    store.rename("old", "new", NOW)

    assert store.record("new") == replace(a_record(a_live(1), paused=True), policy="new")


# Orders, notices, flags, outlooks


def an_order_for(policy: str | None, **changes: Any) -> Order:
    return replace(Order(0, OrderKind.ROTATE, NOW, policy), **changes)


def test_orders_are_kept_until_they_are_closed(store: Store) -> None:
    leaked = an_order_for("ci", leaked=True, now=True)
    stranger = an_order_for(None, kind=OrderKind.REVOKE, key_id=2**63 - 1, unmanaged=True)
    first, second, third = (store.add_order(order) for order in (leaked, stranger, an_order_for("other")))

    assert store.open_orders() == [
        replace(leaked, id=first),
        replace(stranger, id=second),
        replace(an_order_for("other"), id=third),
    ]
    assert store.record("ci").orders == store.change("ci", NOW, counted).orders == (replace(leaked, id=first),)
    assert store.record("other").orders == (replace(an_order_for("other"), id=third),)

    store.close_order(second, [HEARD], NOW)
    store.change("ci", NOW, lambda record: Change(record, (), (first,)))
    assert [order.id for order in store.open_orders()] == [third]
    assert [entry.event for entry in store.history()] == ["test.heard", "test.heard"]


def test_another_process_gives_orders_to_a_state_that_is_in_use(store: Store, path: Path) -> None:
    with closing(a_store(path, create=False)) as other:
        number = other.add_order(an_order_for("ci"))
    assert [order.id for order in store.record("ci").orders] == [number]


def test_every_sink_of_notify_has_its_own_notices(path: Path) -> None:
    with closing(a_store(path, "ops", "chat")) as store:
        loud = replace(HEARD, notify=True)
        store.tell([HEARD, loud, replace(loud, why="again")], NOW)

        first, second = store.notices("ops")
        assert (first.event, first.at, first.sink, second.event.why) == (loud, NOW, "ops", "again")
        store.confirm_notice(first.id)
        assert [notice.event.why for notice in store.notices("ops")] == ["again"]
        assert len(store.notices("chat")) == 2
        assert store.notices("nobody") == []


def test_the_number_of_a_notice_is_never_given_twice(path: Path) -> None:
    with closing(a_store(path, "ops")) as store:
        numbers = []
        for _ in range(3):
            store.tell([replace(HEARD, notify=True)], NOW)
            (notice,) = store.notices("ops")
            numbers.append(notice.id)
            store.confirm_notice(notice.id)
    assert len(set(numbers)) == 3


def test_a_long_queue_of_notices_is_read_in_parts(path: Path) -> None:
    with closing(a_store(path, "ops")) as store:
        store.tell([replace(HEARD, generation=n, notify=True) for n in range(250)], NOW)
        seen = []
        while notices := store.notices("ops"):
            assert len(notices) <= 100
            for notice in notices:
                seen.append(notice.event.generation)
                store.confirm_notice(notice.id)
    assert seen == list(range(250))


def test_a_damaged_notice_is_told(path: Path) -> None:
    with closing(a_store(path, "ops")) as store:
        store.tell([replace(HEARD, notify=True)], NOW)
        sql(path, "UPDATE notices SET event = '{'")
        with pytest.raises(StateUnavailable, match="notice 1 for sink ops is damaged"):
            store.notices("ops")


def test_flags_are_set_once_and_cleared(store: Store) -> None:
    store.set_flags([1, 2], [], [HEARD], NOW)
    store.set_flags([3], [1], [], NOW + DAY)
    assert store.flags() == {2: NOW, 3: NOW + DAY}
    assert len(store.history()) == 1


def an_outlook(do: Do = Do.WAIT, why: str = "so") -> dict[str, Any]:
    return outlook_of(Step(do, why), NOW)


def test_a_reading_of_neons_clock_is_kept_and_a_damaged_one_is_told(store: Store) -> None:
    assert store.clock_reading() is None
    store.set_meta("clock", f"{NOW.isoformat()} 5000.250")
    assert store.clock_reading() == (NOW, 5000.25)
    for damaged in ("yesterday 5000.250", f"{NOW.isoformat()} nan", NOW.isoformat()):
        store.set_meta("clock", damaged)
        with pytest.raises(StateUnavailable, match="a time in the state is damaged"):
            store.clock_reading()


def test_outlooks_and_words_about_the_whole_are_what_was_last_told(store: Store) -> None:
    store.set_outlooks({"ci": an_outlook(), "other": an_outlook(Do.MINT)})
    store.set_outlooks({"ci": an_outlook(Do.REFUSE)})
    store.set_meta("as_of", "then")
    store.set_meta("as_of", "now")

    assert store.outlooks() == {"ci": an_outlook(Do.REFUSE), "other": an_outlook(Do.MINT)}
    assert (store.meta("as_of"), store.meta("never")) == ("now", None)


def test_many_threads_read_while_one_writes(store: Store) -> None:
    problems: list[RotatorError] = []
    ended = threading.Event()

    def read() -> None:
        try:
            while not ended.is_set():
                record, entries = store.record("ci"), store.history("ci")
                assert record.next_generation <= len(entries) + 1
        except RotatorError as error:
            problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(18)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        store.change("ci", NOW, counted)
    ended.set()
    for thread in threads:
        thread.join()
    assert problems == []


PREAMBLE = """
import signal, sys
from dataclasses import replace
from datetime import UTC, datetime
from rotator.model import Event
from rotator.store import Store
from rotator.transitions import Change

NOW = datetime(2026, 11, 23, tzinfo=UTC)
store = Store("sqlite:///" + sys.argv[1])

def counted(record):
    return Change(replace(record, next_generation=record.next_generation + 1), (Event("test.heard", "so", "ci"),))

"""


def a_process(path: Path, code: str) -> subprocess.Popen[str]:
    """Another process with a store on the same file."""
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code), path],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


def kill_after_line(process: subprocess.Popen[str], line: str) -> None:
    """SIGKILL, once the process has said so."""
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{line}\n"
        process.kill()
