"""Events for webhooks: at least once, in order, signed, without secrets; a sink that fails delays no other."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from builders import NOW
from sinks.builders import Receiver, Reply, Request, a_signing_secret, until
from standardwebhooks.webhooks import Webhook

from rotator.errors import StateUnavailable, TryLater
from rotator.model import Event
from rotator.notify import Notifier
from rotator.secret import Secret
from rotator.sinks.webhook import WebhookSink, event_body
from rotator.store import Notice, Store

LIVE = Event("rotation.live", "every sink has receipted ci-7", "ci", 7, 2291515, "ci-7", notify=True)
REFUSED = Event("management_key.refused", "Neon refused the management key", notify=True)


@dataclass
class Post:
    """A receiver for the notifier, in memory: keeps what it is sent, and fails as it is told."""

    got: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    fails: Callable[[dict[str, Any]], bool] = lambda _: False
    gate: threading.Event | None = None
    asked: int = 0

    def send(self, message_id: str, body: bytes) -> None:
        self.asked += 1
        if self.gate is not None:
            self.gate.wait(30)
        message = json.loads(body)
        if self.fails(message):
            raise TryLater("ops.example.com answered 500")
        self.got.append((message_id, message))

    @property
    def generations(self) -> list[int]:
        return [message["data"]["generation"] for _, message in self.got]


class Office:
    """A notifier on a real state, with sinks that a test names; its clock is pushed."""

    def __init__(self, folder: Path, **sinks: Any) -> None:
        self.sinks: Mapping[str, Any] = sinks
        self.store = Store(f"sqlite:///{folder}/state.db", tuple(sinks))
        self.seconds = 0.0
        self.told: list[Event] = []
        self.notifier = Notifier(self.store, lambda: self.sinks, event_body, self.told.append, lambda: self.seconds)

    def happen(self, *generations: int) -> None:
        self.store.tell([replace(LIVE, generation=number) for number in generations], NOW)

    def send(self) -> None:
        self.notifier.send_for(30)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Callable[..., Office]]:
    opened: list[Office] = []

    def make(**sinks: Any) -> Office:
        opened.append(Office(tmp_path, **sinks))
        return opened[-1]

    yield make
    for each in opened:
        each.store.close()


def test_every_sink_is_told_everything_in_order(office: Callable[..., Office]) -> None:
    ops, chat = Post(), Post()
    here = office(ops=ops, chat=chat)
    here.happen(*range(1, 151))

    here.send()
    here.happen(151)
    here.send()

    assert ops.generations == chat.generations == list(range(1, 152))
    here.send()
    assert len(ops.got) == 151


def test_an_event_that_is_not_for_notify_is_not_sent(office: Callable[..., Office]) -> None:
    ops = Post()
    here = office(ops=ops)
    here.store.tell([replace(LIVE, notify=False)], NOW)
    here.send()
    assert ops.got == []


def test_an_event_that_was_not_taken_is_sent_again_under_the_same_id_before_the_next(
    office: Callable[..., Office],
) -> None:
    attempts: list[int] = []

    def once(message: dict[str, Any]) -> bool:
        attempts.append(message["data"]["generation"])
        return attempts == [1]

    ops = Post(fails=once)
    here = office(ops=ops)
    here.happen(1, 2)

    here.send()
    assert attempts == [1]
    here.seconds += 2
    here.send()

    assert ops.generations == [1, 2]
    assert len({message_id for message_id, _ in ops.got}) == 2


def test_what_was_sent_but_not_confirmed_is_sent_again(office: Callable[..., Office]) -> None:
    """The process dies, or the state cannot be written, between the answer and its confirmation."""
    ops = Post()
    here = office(ops=ops)
    here.happen(1)
    forgetful = Forgetful(here.store)
    Notifier(forgetful, lambda: here.sinks, event_body, here.told.append).send_for(30)
    assert [event.name for event in here.told] == ["state.unavailable"]

    here.send()

    assert ops.generations == [1, 1]
    assert ops.got[0] == ops.got[1]


def test_while_the_state_cannot_be_written_a_message_is_not_sent_again_and_again(office: Callable[..., Office]) -> None:
    """It was taken, and that is known; only the state does not know it yet. After 15 s it is tried again."""
    ops = Post()
    here = office(ops=ops)
    here.happen(1, 2)
    forgetful = Forgetful(here.store)
    notifier = Notifier(forgetful, lambda: here.sinks, event_body, here.told.append, lambda: here.seconds)
    for _ in range(10):
        notifier.send_for(30)
        here.seconds += 2.0

    assert ops.generations == [1]
    assert len(here.told) == 2, "tried twice in 20 s"

    forgetful.full = False
    here.seconds += 15.0
    notifier.send_for(30)
    assert ops.generations == [1, 2]
    assert here.store.notices("ops") == []


@dataclass
class Forgetful:
    """A state that can be read but not written."""

    store: Store
    full: bool = True

    def notices(self, sink: str) -> list[Notice]:
        return self.store.notices(sink)

    def confirm_notice(self, notice_id: int) -> None:
        if self.full:
            raise StateUnavailable("the disk is full")
        self.store.confirm_notice(notice_id)


def test_a_state_that_cannot_be_read_is_told_to_who_asked(office: Callable[..., Office]) -> None:
    here = office(ops=Post())
    here.happen(1)
    (Path(here.store.path)).unlink()
    here.store.close()
    with pytest.raises(StateUnavailable):
        here.send()


def test_a_sink_that_fails_is_left_alone_for_a_growing_time_and_told_of_once(office: Callable[..., Office]) -> None:
    tried: list[float] = []

    def fails(_: dict[str, Any]) -> bool:
        tried.append(here.seconds)
        return True

    here = office(ops=Post(fails=fails))
    here.happen(1)
    for _ in range(4 * 3600):
        here.seconds += 1
        here.send()

    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses[0] <= 3
    assert max(pauses) <= 901
    assert len(tried) < 60
    assert [event.name for event in here.told] == ["notice.failed"]
    assert "sink ops did not take the event rotation.live: ops.example.com answered 500" in here.told[0].why


def test_a_sink_that_fails_delays_no_other(office: Callable[..., Office]) -> None:
    bad, good = Post(fails=lambda _: True), Post()
    here = office(bad=bad, good=good)
    here.happen(1, 2)
    here.send()
    assert good.generations == [1, 2]


def test_a_sink_that_hangs_delays_no_other_and_gets_nothing_twice(office: Callable[..., Office]) -> None:
    gate = threading.Event()
    slow, quick = Post(gate=gate), Post()
    here = office(slow=slow, quick=quick)
    for number in range(1, 4):
        here.happen(number)
        here.notifier.send_waiting()
        until(lambda number=number: quick.generations[-1:] == [number])  # type: ignore[misc]
    assert slow.got == []

    gate.set()
    until(lambda: not here.store.notices("slow"))
    assert slow.generations == [1, 2, 3]


def test_when_the_time_is_over_no_more_is_sent_and_the_rest_stays(office: Callable[..., Office]) -> None:
    gate = threading.Event()
    slow = Post(gate=gate)
    here = office(slow=slow)
    here.happen(1, 2, 3)
    here.notifier.send_for(0.1)
    assert len(here.store.notices("slow")) == 3

    gate.set()
    until(lambda: not here.notifier._talking)
    assert slow.asked <= 1, "one was under way"
    assert [notice.event.generation for notice in here.store.notices("slow")] == [1, 2, 3][slow.asked :]


@pytest.mark.parametrize("then", [["ops"], []], ids=["changed", "no longer to be told"])
def test_a_receiver_that_is_no_longer_configured_gets_nothing_more_of_what_waits(
    office: Callable[..., Office], then: list[str]
) -> None:
    gate = threading.Event()
    before, after = Post(gate=gate), Post()
    here = office(ops=before)
    here.happen(1, 2, 3)
    here.notifier.send_waiting()
    until(lambda: before.asked)
    here.sinks = dict.fromkeys(then, after)
    gate.set()
    until(lambda: not here.notifier._talking)
    here.send()
    assert before.generations == [1], "it was under way"
    assert after.generations == ([2, 3] if then else [])


def test_a_sink_that_was_changed_is_tried_at_once(office: Callable[..., Office]) -> None:
    here = office(ops=Post(fails=lambda _: True))
    here.happen(1)
    here.send()
    mended = Post()
    here.sinks = {"ops": mended}

    here.send()

    assert mended.generations == [1]


def test_a_sink_that_is_no_longer_named_is_told_nothing(office: Callable[..., Office]) -> None:
    ops = Post()
    here = office(ops=ops)
    here.happen(1)
    here.sinks = {}
    here.send()
    assert ops.got == []


def test_ids_are_not_given_twice_also_by_a_state_that_was_lost(tmp_path: Path) -> None:
    ids = []
    for day in range(2):
        (tmp_path / str(day)).mkdir()
        ops = Post()
        here = Office(tmp_path / str(day), ops=ops)
        here.store.tell([LIVE], NOW.replace(day=20 + day))
        here.send()
        here.store.close()
        ids += [message_id for message_id, _ in ops.got]
    assert len(set(ids)) == 2
    assert all(message_id.startswith("msg_event_") and message_id.endswith("_ops") for message_id in ids)


# What a receiver gets


def a_sink(receiver: Receiver, folder: Path, signing: str) -> WebhookSink:
    (folder / "signing").write_text(signing)
    given = {"url": receiver.url, "signing_secret": {"file": str(folder / "signing")}, "timeout": "5s"}
    return WebhookSink("ops", WebhookSink.Settings.model_validate(given))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_a_receiver_gets_a_signed_event_as_the_documentation_has_it(
    office: Callable[..., Office], receiver: Receiver, tmp_path: Path
) -> None:
    signing = a_signing_secret()
    here = office(ops=a_sink(receiver, tmp_path, signing))
    here.store.tell([LIVE, REFUSED], NOW)

    here.send()

    first, second = receiver.requests
    at = "2026-11-23T12:00:00Z"
    assert Webhook(signing).verify(first.body.decode(), first.headers) == {
        "type": "rotation.live",
        "timestamp": at,
        "data": {
            "policy": "ci",
            "generation": 7,
            "key": {"id": 2291515, "name": "ci-7"},
            "why": "every sink has receipted ci-7",
            "at": at,
        },
    }
    assert second.json["data"] == {"policy": None, "generation": None, "key": None, "why": REFUSED.why, "at": at}
    assert first.headers["webhook-id"] != second.headers["webhook-id"]


def test_no_secret_is_sent_even_if_a_reason_held_one(
    office: Callable[..., Office], receiver: Receiver, tmp_path: Path
) -> None:
    secret = Secret(base64.b32encode(b"not like a key of Neon's").decode())
    here = office(ops=a_sink(receiver, tmp_path, a_signing_secret()))
    here.store.tell([replace(LIVE, why=f"a plug-in said {secret.reveal()}")], NOW)

    here.send()

    (request,) = receiver.requests
    assert request.json["data"]["why"] == "a plug-in said [secret]"
    assert secret.reveal().encode() not in request.body


def test_an_answer_that_is_no_success_is_tried_again(
    office: Callable[..., Office], receiver: Receiver, tmp_path: Path
) -> None:
    replies = iter([Reply(500), Reply(302, {"Location": "https://elsewhere.example.com/"}), Reply(410), Reply(204)])

    def answer(_: Request) -> Reply:
        return next(replies)

    receiver.reply = answer
    here = office(ops=a_sink(receiver, tmp_path, a_signing_secret()))
    here.happen(1)
    for _ in range(4):
        here.send()
        here.seconds += 3600

    assert here.store.notices("ops") == []
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert len(receiver.requests) == 4
