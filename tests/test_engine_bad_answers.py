"""The whole engine against a Neon whose answers are not what they should be: it goes on, and ends in order.

A server stands before the sandbox and changes its answers as they pass. `ROTATOR_EXAMPLES` sets how many
histories are tried: ROTATOR_EXAMPLES=1000 python -m pytest tests/test_engine_bad_answers.py
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neon_bench import RudeServer
from odd_json import MARK, answers
from world import World

from rotator.config import Config, load
from rotator.explain import explain_policy
from rotator.model import OrderKind, Record

EXAMPLES = int(os.environ.get("ROTATOR_EXAMPLES", "10"))
TEXT = """
sinks:
  app: {type: file, path: app.env, format: dotenv, variable: KEY}
policies:
  ci: {rotate: {every: 10d}, deliver_to: [app], grace_period: 1d, hold: {while_old_key_used_within: 0s}}
"""
CALLS = {"list": "GET /api/v2/api_keys ", "create": "POST ", "revoke": "DELETE ", "auth": "GET /api/v2/auth "}
Twist = Callable[[bytes], bytes]


class Between(RudeServer):
    """Hands requests on to the sandbox. `twists` change the next answers to requests that begin so."""

    def __init__(self, url: str) -> None:
        self.twists: dict[str, list[Twist]] = {}
        self._behind = urlsplit(url).netloc
        super().__init__(self._answer)

    def _answer(self, connection: socket.socket) -> None:
        head, _, body = self.requests.pop().partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        behind = http.client.HTTPConnection(self._behind, timeout=10)
        headers = dict(line.split(": ", 1) for line in rest if not line.lower().startswith(("connection", "host")))
        with suppress(OSError, http.client.HTTPException):
            behind.request(method, path, body, headers)
            answer = behind.getresponse()
            said = answer.read()
            lines = [f"HTTP/1.1 {answer.status} X", f"Content-Length: {len(said)}"]
            lines += [f"{name}: {answer.headers[name]}" for name in ("Date", "Content-Type") if answer.headers[name]]
            raw = "\r\n".join([*lines, "", ""]).encode() + said
            waiting = next((found for start, found in self.twists.items() if first.startswith(start) and found), [])
            connection.sendall(waiting.pop(0)(raw) if waiting else raw)
        behind.close()


class TwistedWorld(World):
    """A world that sees its sandbox through somebody who changes the answers."""

    between: Between

    def load(self) -> Config:
        if not hasattr(self, "between"):
            self.between = Between(self.neon.url)
            self.between.__enter__()
        config = super().load()
        text = config.file.read_text()
        config.file.write_text(text.replace(self.neon.url, self.between.url))
        return load(config.file)

    def close(self) -> None:
        self.between.__exit__()
        super().close()


def twisted(said: Any) -> Twist:
    """In place of an answer, another; where it can be told, with the true id in it, so that it is nearly right."""

    def twist(raw: bytes) -> bytes:
        true_id = re.search(rb'"id": ?(\d+)', raw)
        return bytes(said.raw).replace(b'"id": 7', b'"id": %s' % true_id[1]) if true_id else bytes(said.raw)

    return twist


AT = "2026-11-23T04:00:00Z"
SOUND: dict[str, Any] = {
    "list": [{"id": 7, "name": f"n-{MARK}", "created_at": AT, "last_used_at": AT, "last_used_from_addr": "10.0.0.1"}],
    "create": {"id": 7, "key": f"napi_{MARK}", "name": "a", "created_at": AT},
    "revoke": {"id": 7, "name": "a", "created_at": AT, "revoked": True},
    "auth": {"account_id": "a", "auth_method": "api_key_user"},
}


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_neon_answers_nothing_is_raised_and_all_ends_well(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = TwistedWorld(tmp_path_factory.mktemp("world"), TEXT)
    try:
        begun = data.draw(st.booleans())
        if begun:
            world.settle()
        for call, start in CALLS.items():
            sound = SOUND[call]
            said = data.draw(st.lists(answers(sound), max_size=3), label=call)
            world.between.twists[start] = [twisted(each) for each in said]
        for _ in range(data.draw(st.integers(1, 3))):
            if data.draw(st.booleans()):
                world.order(OrderKind.ROTATE, "ci", leaked=data.draw(st.booleans()))
            world.settle()
            world.push(hours=data.draw(st.sampled_from([0, 1, 25, 250])))
            told(world)
        world.between.twists.clear()
        world.live_through(2 * 86400, step=8 * 3600)
        ends_well(world)
    finally:
        world.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ENTRY = b'[{"id": 1, "name": "a", "created_at": "%s"}]'
CREATED_PERHAPS = "It lets the next list tell whether there is a key, revokes it, and mints another."
LISTED_LATER = "It changes nothing, revokes nothing, and lists again at the next poll."


def an_answer(fault: str, does: str, call: str, raw: bytes, says: str, padding: int = 0) -> Any:
    mark = pytest.mark.fault("Neon", fault, does)
    return pytest.param(call, raw, says, padding, id=fault, marks=mark)


@pytest.mark.parametrize(
    ("call", "raw", "says", "padding"),
    [
        an_answer(
            "Neon answers the creation of a key with 50 MB",
            f"It reads 1 MiB and no more. {CREATED_PERHAPS}",
            "create",
            HEAD + b"\r\n[",
            "answered with more than 1048576 bytes",
            padding=50_000_000,
        ),
        an_answer(
            "Neon answers the creation of a key with bytes that are no text",
            CREATED_PERHAPS,
            "create",
            HEAD + b"\r\n\xff\xfe{",
            "it is not JSON",
        ),
        an_answer(
            "Neon answers the creation of a key without the key",
            CREATED_PERHAPS,
            "create",
            HEAD + b'\r\n{"id": 7, "name": "a", "created_at": "2026-11-23T04:05:50Z"}',
            "it has no key that can be used",
        ),
        an_answer(
            "Neon's list is a nest of 500,000 brackets",
            LISTED_LATER,
            "list",
            HEAD + b"\r\n" + b"[" * 500_000,
            "not JSON",
        ),
        an_answer(
            "Neon's list is packed and unpacks to 200 MB",
            f"It unpacks 64 MiB and no more. {LISTED_LATER}",
            "list",
            HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"[") + gzip.compress(b" " * (1 << 20)) * 200,
            "answered with more than 67108864 bytes",
        ),
        an_answer(
            "One key in Neon's list was created in the year 9999",
            f"It believes nothing of that list: what it lacks may be that key. {LISTED_LATER}",
            "list",
            HEAD + b"\r\n" + ENTRY % b"9999-12-31T23:59:59Z",
            "entry 1 has no created_at that is a time",
        ),
        an_answer(
            "Neon's answer to a revocation cannot be read",
            "It lets the next list tell whether the key is gone.",
            "revoke",
            HEAD + b'\r\n{"id": 1e400, "revoked": true}',
            "it has no id",
        ),
    ],
)
def test_an_answer_that_cannot_be_believed_is_told_and_settled(
    call: str, raw: bytes, says: str, padding: int, tmp_path: Path, person_sees: Callable[[str], None]
) -> None:
    world = TwistedWorld(tmp_path, TEXT)
    try:
        world.settle()
        world.between.twists[CALLS[call]] = [lambda _: raw + b" " * padding] * (3 if call == "list" else 1)
        if call != "list":
            world.order(OrderKind.ROTATE, "ci", leaked=True)
        world.settle()
        person_sees(next(event.why for event in world.events if says in event.why))
        world.between.twists.clear()
        world.live_through(1800, step=300)
        ends_well(world)
        assert len(world.ours()) == 1
    finally:
        world.close()


def test_a_date_of_the_year_9999_is_no_time(tmp_path: Path) -> None:
    """It is as if there had been none: the clock goes on, and with it everything that is reckoned from it."""
    world = TwistedWorld(tmp_path, TEXT)
    try:
        said = HEAD + b"Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n\r\n[]"
        world.between.twists[CALLS["list"]] = [lambda _: said]
        world.settle()
        world.live_through(1800, step=300)
        ends_well(world)
    finally:
        world.close()


def told(world: World) -> None:
    """Everything that a person may ask for can be said, and nothing in it is a secret or an answer's text."""
    status = world.status("ci")
    why = explain_policy(
        "ci", world.config.policies["ci"], world.record("ci"), world.store.outlooks()["ci"], world.clock.now()
    )
    history = [entry.why for entry in world.store.history()]
    secrets = {world.neon.secret_of(key.id) for key in (*world.neon.keys(), *world.neon.revoked())}
    text = json.dumps([status, why, history])
    assert not any(secret in text for secret in secrets)


def ends_well(world: World) -> None:
    """One key that works is live, and it is in the file."""
    record: Record = world.record("ci")
    content = (world.folder / "app.env").read_text() if (world.folder / "app.env").exists() else ""
    status = world.status("ci")
    if status["state"] in ("refused", "missing"):
        return  # a person was asked: the answers said that keys were gone, or that the state was lost
    assert status["live"] is not None, status
    assert world.works(content.strip().removeprefix("KEY=")), (status, record)
