"""What is made of a sink of another package that does not keep its promises."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from config_builders import a_config, faults, loaded
from packages import install

from rotator.config import json_schema
from rotator.errors import NeedsPerson, RotatorError, SinkGone, TryLater
from rotator.sinks import Sink, sink_class

from .builders import a_hand_off, a_secret
from .test_contract import hints_of

ODD = """
import asyncio
import sys
from rotator import fields
from rotator.errors import KeyNotFound, NeedsPerson, SinkGone, StateUnavailable, TryLater
from rotator.model import SinkRef


class OddSink:
    class Settings(fields.Settings):
        how: str

    def __init__(self, name, settings):
        self.how = settings.how
        if self.how == "not made":
            raise ValueError("no")
        self.ref = SinkRef("another" if self.how == "other name" else name, "odd:1", reads_back=True)
        if self.how == "no ref":
            self.ref = name

    def check(self, *, probe=False):
        {}["missing"]

    def deliver(self, hand_off, secret):
        text = secret.reveal()
        if self.how == "raises":
            raise ValueError(f"bad {text}")
        if self.how == "exits":
            sys.exit(text)
        if self.how == "cancelled":
            raise asyncio.CancelledError(text)
        if self.how == "a generator":
            raise GeneratorExit(text)
        if self.how == "its own":
            raise Wordless(text)
        if self.how == "state":
            raise StateUnavailable(f"no room for {text}")
        if self.how == "not found":
            raise KeyNotFound(text)
        if self.how == "seconds":
            raise TryLater("busy", text, retry_after=30)
        if self.how == "later":
            raise TryLater(f"PUT /{text} failed", f"look at {text}", retry_after=__import__("datetime").timedelta(0, 7))
        if self.how == "person":
            raise NeedsPerson(f"refused {text}", "ask")
        if self.how == "gone":
            raise SinkGone("gone", text)

    def contents(self):
        return b"bytes"


class NoStop(OddSink):
    def stop(self):
        raise RuntimeError("cannot stop")


class NoProbe(OddSink):
    def check(self):
        pass


class Wordless(TryLater):
    def __init__(self, text):
        Exception.__init__(self, text)


class NoSettings:
    pass


class OtherSettings:
    class Settings:
        pass
"""


SETTINGS = "has no Settings that is a subclass of rotator.fields.Settings; tell those who made it"
UNLOADABLE = [
    (11, "d", "nosettings", f"odd:NoSettings {SETTINGS}"),
    (12, "e", "othersettings", f"odd:OtherSettings {SETTINGS}"),
    (13, "f", "noclass", "the module odd has no class Missing; install its package again, or tell those who made it"),
    (14, "g", "nomodule", "there is no module missing; install its package again"),
    (15, "h", "needy", "its module needy needs no_such_client, which is not there; install that"),
    (
        16,
        "i",
        "unimportable",
        "its module cannot cannot be imported: SystemExit at cannot.py:1; tell those who made it",
    ),
]


@pytest.fixture(autouse=True)
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    types = {
        "odd": "odd:OddSink",
        "nostop": "odd:NoStop",
        "noprobe": "odd:NoProbe",
        "nosettings": "odd:NoSettings",
        "othersettings": "odd:OtherSettings",
        "noclass": "odd:Missing",
        "nomodule": "missing.sinks:It",
        "needy": "needy:It",
        "unimportable": "cannot:It",
    }
    install(tmp_path / "site", "odd", ODD, types)
    (tmp_path / "site" / "cannot.py").write_text("raise SystemExit('no licence')")
    (tmp_path / "site" / "needy.py").write_text("import no_such_client.http")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for module in ("odd", "cannot", "needy"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def a_sink(how: str, kind: str = "odd") -> Sink:
    made = sink_class(kind)
    return made("here", made.Settings.model_validate({"how": how}))


def failure(call: Callable[[], object]) -> RotatorError:
    with pytest.raises(RotatorError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("how", "exception"),
    [
        ("raises", "ValueError"),
        ("exits", "SystemExit"),
        ("cancelled", "CancelledError"),
        ("a generator", "GeneratorExit"),
        ("its own", "Wordless"),
        ("state", "StateUnavailable"),
        ("not found", "KeyNotFound"),
        ("seconds", "TryLater"),
    ],
)
def test_what_it_should_not_raise_is_a_failed_attempt_told_by_type_and_place(how: str, exception: str) -> None:
    secret = a_secret()
    error = failure(lambda: a_sink(how).deliver(a_hand_off(secret), secret))
    assert type(error) is TryLater
    assert error.retry_after is None
    words, _, line = error.problem.rpartition(":")
    assert words == f"the code of sinks of type odd failed with {exception} at odd.py"
    assert int(line)
    assert hints_of(error, secret) == []


@pytest.mark.parametrize(
    ("how", "kind", "problem", "hint"),
    [
        ("later", TryLater, "PUT /[secret] failed", "look at [secret]"),
        ("person", NeedsPerson, "refused [secret]", "ask"),
        ("gone", SinkGone, "gone", "[secret]"),
    ],
)
def test_an_error_of_ours_goes_on_without_the_secret(
    how: str, kind: type[RotatorError], problem: str, hint: str
) -> None:
    secret = a_secret()
    error = failure(lambda: a_sink(how).deliver(a_hand_off(secret), secret))
    assert type(error) is kind
    assert (error.problem, error.hint) == (problem, hint)
    assert not isinstance(error, TryLater) or error.retry_after == timedelta(seconds=7)
    assert hints_of(error, secret) == []


@pytest.mark.fault(
    "Sinks",
    "The code of a sink of another package fails in a way that no sink may",
    "It counts as a failed attempt and is tried again like one. Its words are not repeated, as they may hold the key.",
)
def test_a_check_that_raises_says_that_the_sink_is_not_ready(person_sees: Callable[[str], None]) -> None:
    error = failure(lambda: a_sink("well").check())
    assert error.problem.startswith("the code of sinks of type odd failed with KeyError at odd.py:")
    person_sees(f"sink here is not ready: {error}")


def test_a_method_that_cannot_be_called_is_told_without_a_place_in_our_own_code() -> None:
    error = failure(lambda: a_sink("well", "noprobe").check())
    assert error.problem == (
        "the code of sinks of type noprobe failed with TypeError in check, before any of its own lines"
    )


def test_contents_that_are_no_text_cannot_be_read() -> None:
    sink = a_sink("well")
    assert failure(sink.contents).problem == "a sink of type odd does not say what it holds"


@pytest.mark.parametrize("kind", ["odd", "nostop"])
def test_one_that_cannot_stop_stops_no_other(kind: str) -> None:
    a_sink("well", kind).stop()


def test_one_that_cannot_be_made_is_a_fault_of_the_configuration_with_its_place(tmp_path: Path) -> None:
    sinks = """
    a: {type: odd, how: not made}
    b: {type: odd, how: no ref}
    c: {type: odd, how: other name}
    d: {type: nosettings}
    e: {type: othersettings}
    f: {type: noclass}
    g: {type: nomodule}
    h: {type: needy}
    i: {type: unimportable}
    """
    problems = faults(tmp_path, a_config(sinks=sinks))
    assert [
        (problem.line, problem.path, re.sub(r" at odd.py:[0-9]+", "", problem.problem)) for problem in problems
    ] == [
        (8, "sinks.a", "the code of sinks of type odd failed with ValueError; tell those who made it"),
        (9, "sinks.b", "a sink of type odd does not say what it is; install another version of it"),
        (10, "sinks.c", "a sink of type odd does not say what it is; install another version of it"),
        *(
            (line, f"sinks.{name}.type", f"sinks of type {kind} cannot be loaded: {why}")
            for line, name, kind, why in UNLOADABLE
        ),
    ]


def test_one_that_cannot_be_loaded_costs_neither_the_others_nor_the_schema(tmp_path: Path) -> None:
    config = loaded(tmp_path, a_config(sinks="x: {type: odd, how: well}", deliver_to="deliver_to: [x]"))
    assert config.sinks["x"].ref.target == "odd:1"
    assert "unimportable" in str(json_schema())
