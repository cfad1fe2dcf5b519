"""Whatever Neon answers, or whoever answers in its place: a result that is right, or one of the documented errors.

The answers begin as sound ones and are changed (see `odd_json.py`), and go over real HTTP. `ROTATOR_EXAMPLES`
sets how many are tried of each kind: ROTATOR_EXAMPLES=5000 python -m pytest tests/test_neon_bad_answers.py
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neon_bench import Bench, RudeServer, a_bench, sends
from odd_json import MARK, Said, answers

from rotator.errors import KeyNotFound, KeyRefused, NeedsPerson, OutcomeUnknown, RotatorError, TryLater
from rotator.model import Check, KeyList, Scope
from rotator.neon import Neon
from rotator.secret import Secret

EXAMPLES = int(os.environ.get("ROTATOR_EXAMPLES", "40"))
KEY = "napi_management"
NEW = "napi_" + MARK * 4
AT = "2026-11-23T04:05:50Z"
CREATOR = {"id": f"u-{MARK}", "name": MARK, "image": MARK}
USED = {"last_used_at": AT, "last_used_from_addr": "203.0.113.7,10.0.0.1"}
LIST: list[Any] = [
    {"id": 7, "name": f"a-{MARK}", "created_at": AT, "created_by": CREATOR, **USED},
    {"id": 8, "name": "b", "created_at": AT, "created_by": CREATOR, "last_used_at": None, "last_used_from_addr": ""},
    {"id": 9, "name": "c", "created_at": AT, "created_by": CREATOR, "project_id": "still-river-87654321"},
]
CREATED = {"id": 7, "key": NEW, "name": "a", "created_at": AT, "created_by": "u", "project_id": None}
REVOKED = {"id": 7, "name": "a", "created_at": AT, "created_by": "u", **USED, "revoked": True}
ACCOUNT = {"account_id": "acc", "auth_method": "api_key_user"}
ERROR = {"message": MARK, "code": "", "request_id": "r"}

READING = (TryLater, KeyRefused, NeedsPerson)
CHANGING = (*READING, OutcomeUnknown)
Call = tuple[Callable[[Neon], object], object, tuple[type[RotatorError], ...]]
CALLS: dict[str, Call] = {
    "list of a person": (lambda neon: neon.list_keys("personal"), LIST, READING),
    "list of an organization": (lambda neon: neon.list_keys("org-calm-sun-1"), LIST, READING),
    "create": (lambda neon: neon.create_key(Scope(), "a"), CREATED, CHANGING),
    "create in a project": (lambda neon: neon.create_key(Scope("org", "p"), "a"), CREATED, CHANGING),
    "revoke": (lambda neon: neon.revoke_key("personal", 7), REVOKED, (*CHANGING, KeyNotFound)),
    "whoami": (lambda neon: neon.whoami(), ACCOUNT, READING),
    "check": (lambda neon: neon.check_key(Secret(NEW)), ACCOUNT, ()),
}


def errors_of(error: BaseException) -> Iterator[BaseException]:
    yield error
    for inner in (error.__cause__, error.__context__):
        if inner is not None:
            yield from errors_of(inner)


def outcome(bench: Bench, call: str) -> object:
    """What the call returned, or the documented error that it raised, which repeats nothing of the answer."""
    make, _, documented = CALLS[call]
    try:
        return make(bench.neon)
    except RotatorError as caught:
        error = caught
    assert type(error) in documented, error
    assert [type(each) for each in errors_of(error)] == [type(error)]
    shown = "".join(traceback.format_exception(error)) + str(error) + repr(error.args)
    assert MARK not in shown
    assert KEY not in shown
    assert str(error).isprintable()
    assert error.hint
    return error


@pytest.fixture(scope="module")
def server() -> Iterator[RudeServer]:
    with RudeServer(sends(b"")) as server:
        yield server


@pytest.mark.parametrize("call", CALLS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_answer_is_understood_or_told_as_a_documented_error(
    call: str, data: st.DataObject, server: RudeServer, tmp_path: Path
) -> None:
    said: Said = data.draw(answers(data.draw(st.sampled_from([CALLS[call][1], CALLS[call][1], ERROR]))))
    server.behaviour = sends(said.raw)
    bench = a_bench(server.url, tmp_path, KEY)
    found = outcome(bench, call)
    if call.startswith("create") and (200 <= said.status < 300 or said.status in (500, 502, 504)):
        # Neon did not say no, so the key may exist: what cannot be read is an outcome unknown.
        assert isinstance(found, OutcomeUnknown | tuple)
    if isinstance(found, KeyList):
        for key_id, key in found.keys.items():
            assert key_id == key.id > 0
            for moment in filter(None, (key.created_at, key.last_used_at)):
                assert moment.tzinfo is UTC
                assert 1970 <= (moment - timedelta(days=1)).year < (moment + timedelta(days=3660)).year < 9999
    if call == "check":
        assert isinstance(found, Check)
        assert (found is Check.REFUSED) == (said.status == 401)
    # The clock goes on, whatever the Date said, and so does what is reckoned from it.
    now = bench.clock.now()
    assert now + timedelta(days=3660) > now - timedelta(days=3660)
    assert bench.clock.skew() is None or bench.clock.distrust is not None
    assert all(start <= end for start, end in bench.neon.own_uses)


@pytest.mark.parametrize("call", ["create", "revoke", "whoami", "check"])
def test_an_answer_of_50_mb_is_not_taken_to_its_end(call: str, tmp_path: Path) -> None:
    """Counted where it is sent: what is on its way in the buffers of both sides is some megabytes."""
    sent = 0

    def pour(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
        for _ in range(50):
            connection.sendall(b" " * 1_000_000)
            sent += 1

    with RudeServer(pour) as server:
        found = outcome(a_bench(server.url, tmp_path, KEY), call)
        requests = len(server.requests)
    assert isinstance(found, RotatorError) or found is Check.INCONCLUSIVE
    assert sent < 25 * requests
