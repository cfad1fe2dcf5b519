"""Faults of Neon, of sinks and with keys, each met once on real parts, and what a person sees of them.

Time is pushed. Whatever the fault: when it is over, the policy has one live key that its sinks hold, no other is
left, nothing was revoked that somebody might have used, and the history is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sinks.builders import Receiver, Reply, Request, a_signing_secret
from world import World

from rotator.model import OrderKind

Act = Callable[["Scene"], object]
DAY = 86_400.0
POLICY = """
sinks:
  app: {{type: file, path: app.key}}
  hook: {{type: webhook, url: "{url}", signing_secret: {{file: signing}}, timeout: 1s{receipt}}}
  job: {{type: command, run: [./job], timeout: 1s}}
policies:
  ci: {{rotate: {{every: 30d}}, grace_period: 1h, hold: {{while_old_key_used_within: 0s}}, deliver_to: [{sinks}]}}
"""


@dataclass
class Scene:
    """A world with a file, a webhook and a command; one of them is what the policy delivers to."""

    world: World
    receiver: Receiver
    sink: str
    given: list[str] = field(default_factory=list)

    @property
    def held(self) -> str:
        """The key that the consumer has."""
        if self.sink == "hook":
            return self.given[-1]
        return (self.world.folder / f"{self.sink}.key").read_text().strip()

    def take(self, request: Request) -> None:
        message = request.json
        if message["type"] == "api_key.rotated":
            self.given.append(message["data"]["key"]["secret"])

    def takes(self, request: Request) -> Reply:
        """Takes the key and says which it has."""
        self.take(request)
        return Reply(200, {}, the_fingerprint(request))

    def answers(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """What the receiver answers from now on; 2xx is what it does with a key that it keeps."""

        def reply(request: Request) -> Reply:
            if status < 300:
                self.take(request)
            return Reply(status, headers or {}, body)

        self.receiver.reply = reply

    def job(self, last: str = "") -> None:
        path = self.world.folder / "job"
        folder = self.world.folder
        path.write_text(f'#!/bin/sh\ncat > "{folder}/new" && {last or f"""mv "{folder}/new" "{folder}/job.key" """}\n')
        path.chmod(0o755)

    def neon(self, fault: str, on: str, times: int | None = None, **fields: object) -> None:
        self.world.neon.fault(fault, on=on, times=times, **fields)

    def told(self, name: str) -> str:
        return self.world.told(name)[-1].why

    @property
    def why(self) -> str:
        """What `status` says comes next."""
        return str(self.world.status("ci")["next"]["why"])

    @property
    def error(self) -> str:
        return str(self.world.status("ci")["last_error"])


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """One rotation has been made; the next is due."""
    sink: str = request.param
    (tmp_path / "signing").write_text(a_signing_secret())
    receiver = Receiver()
    receipt = ", receipt: fingerprint" if sink == "hook, and its fingerprint" else ""
    sink = sink.partition(",")[0]
    scene = Scene(World(tmp_path, POLICY.format(url=receiver.url, sinks=sink, receipt=receipt)), receiver, sink)
    scene.answers(204)
    if receipt:
        scene.receiver.reply = scene.takes
    scene.job()
    try:
        scene.world.settle()
        scene.world.push(days=30)
        yield scene
    finally:
        scene.world.close()
        receiver.close()


def the_fingerprint(request: Request) -> bytes:
    data = request.json.get("data") or {}
    key = data.get("key") or {}
    return b'{"fingerprint": "%s"}' % str(key.get("fingerprint")).encode()


def case(
    section: str,
    fault: str,
    does: str,
    begin: Act,
    seen: Act,
    *,
    sink: str = "app",
    lasts: float = 0.0,
    then: Act = lambda scene: scene.world.neon.clear_faults(),
) -> object:
    """`lasts` is for how many seconds the trouble goes on before it is looked at; `then` ends it."""
    mark = pytest.mark.fault(section, fault, does)
    return pytest.param(sink, begin, seen, lasts, then, does == NOTHING, marks=mark, id=fault)


def revoke_the_old_one(scene: Scene) -> None:
    scene.world.settle()
    scene.world.neon.revoke_key(scene.world.ours()[0])


def lose_the_list_of(scene: Scene) -> None:
    """A list without the management key, which every call proves to be there."""
    scene.neon("partial_list", "list", omit=[scene.world.neon.management_key_id])


def lose_all_others(scene: Scene) -> None:
    """Just when the old one is to be revoked."""
    scene.world.settle()
    scene.world.push(hours=1, seconds=1)
    scene.neon("partial_list", "list", omit=scene.world.ours())


def many_that_nobody_took(scene: Scene) -> None:
    """A sink that never gives its receipt, and a process that dies again and again."""
    scene.receiver.reply = lambda request: Reply(204 if request.json["type"] == "sink.check" else 500)
    for _ in range(8):
        scene.world.settle()
        scene.world.restart()
        scene.world.push(hours=7)


def order_a_rotation(scene: Scene) -> None:
    """Orders do not wait for the older keys."""
    scene.answers(204)
    scene.world.order(OrderKind.ROTATE, "ci")


RETRIED = "Nothing was created, so it is asked again, with growing pauses."
PERSON = "It asks for a person, and tries again with growing pauses."
KEPT = "The key is kept in hand, and the hand-off tried again with growing pauses."
NOTHING = "Nothing is made or revoked on the word of it."
CASES = [
    # What Neon answers
    case(
        "Neon",
        "Neon refuses a creation with 401",
        "Nothing is made until it accepts the management key.",
        lambda s: s.neon("refused", "create"),
        lambda s: s.error,
    ),
    case(
        "Neon",
        "Neon refuses a creation with 403",
        PERSON,
        lambda s: s.neon("error_before", "create", status=403),
        lambda s: s.error,
    ),
    case(
        "Neon",
        "Neon answers a creation with 404",
        PERSON,
        lambda s: s.neon("error_before", "create", status=404),
        lambda s: s.error,
    ),
    case("Neon", "Neon answers a creation with 423", RETRIED, lambda s: s.neon("locked", "create"), lambda s: s.error),
    case(
        "Neon",
        "Neon answers a creation with 429 and Retry-After",
        "It is asked again, by nobody and for nothing, when that is over.",
        lambda s: s.neon("rate_limited", "create", retry_after=30),
        lambda s: s.error,
    ),
    case(
        "Neon",
        "Neon answers a creation with 503",
        RETRIED,
        lambda s: s.neon("unavailable", "create"),
        lambda s: s.error,
    ),
    case(
        "Neon",
        "Neon creates a key and answers 500",
        "The list tells that there is a key; it is revoked, another made.",
        lambda s: s.neon("error_after", "create", times=1),
        lambda s: s.told("rotation.failed"),
    ),
    case(
        "Neon",
        "Neon answers a creation with a page instead of JSON",
        "The list tells that there is a key; it is revoked, another made.",
        lambda s: s.neon("malformed", "create", times=1),
        lambda s: s.told("rotation.failed"),
    ),
    case(
        "Neon",
        "Neon refuses the key that it has just created",
        "The key is handed to nobody and revoked; another is made.",
        lambda s: s.neon("refused", "auth", times=4),
        lambda s: s.told("key.orphaned"),
    ),
    case(
        "Neon",
        "Neon answers 500 to the check of a new key",
        "That is inconclusive, and holds nothing up.",
        lambda s: s.neon("error_before", "auth", times=3),
        lambda s: s.told("key.checked"),
    ),
    case(
        "Neon",
        "Neon answers 500 to a revocation",
        "It is tried again for ever, with growing pauses.",
        lambda s: s.neon("error_before", "revoke"),
        lambda s: s.told("revocation.failed"),
        lasts=2 * 3_600,
    ),
    case("Neon", "Neon's list is empty", NOTHING, lambda s: s.neon("empty_list", "list"), lambda s: s.why, lasts=7_200),
    case("Neon", "Neon's list lacks the management key", NOTHING, lose_the_list_of, lambda s: s.why, lasts=7_200),
    case(
        "Neon",
        "Neon's list lacks all keys that are known, but the management key",
        "It is believed after three polls that agree, and only if Neon accepts the management key.",
        lose_all_others,
        lambda s: s.why,
    ),
    case(
        "Neon",
        "Neon's list is as old as an hour",
        "It tells that the new key is missing; nothing is revoked before the list shows it.",
        lambda s: s.neon("stale_list", "list", seconds=3_600),
        lambda s: s.told("api_key.missing"),
        lasts=3_000,
    ),
    case(
        "Neon",
        "Neon's list cannot be read",
        NOTHING,
        lambda s: s.neon("wrong_type", "list"),
        lambda s: s.told("list.unreadable"),
        lasts=7_200,
    ),
    # Sinks
    case(
        "Sinks",
        "A webhook answers 503 with Retry-After",
        "The same key is sent again when that is over.",
        lambda s: s.answers(503, {"Retry-After": "600"}),
        lambda s: s.why,
        sink="hook",
        then=lambda s: s.answers(204),
    ),
    case(
        "Sinks",
        "A webhook redirects",
        "It is not followed, and nothing is sent elsewhere; it asks for a person.",
        lambda s: s.answers(307, {"Location": "http://127.0.0.1:9/"}),
        lambda s: s.error,
        sink="hook",
        then=lambda s: s.answers(204),
    ),
    case(
        "Sinks",
        "A webhook refuses with 401",
        KEPT,
        lambda s: s.answers(401),
        lambda s: s.error,
        sink="hook",
        then=lambda s: s.answers(204),
    ),
    case(
        "Sinks",
        "A webhook answers with the fingerprint of another key",
        "That is no receipt.",
        lambda s: s.answers(200, body=b'{"fingerprint": "sha256:0123456789abcdef"}'),
        lambda s: s.error,
        sink="hook",
        then=lambda s: s.answers(204),
    ),
    case(
        "Sinks",
        "A webhook answers without the fingerprint that its receipt must have",
        "That is no receipt.",
        lambda s: s.answers(200),
        lambda s: s.error,
        sink="hook, and its fingerprint",
        then=lambda s: setattr(s.receiver, "reply", s.takes),
    ),
    case(
        "Sinks",
        "The file with a webhook's signing secret is gone",
        KEPT,
        lambda s: (s.world.folder / "signing").rename(s.world.folder / "away"),
        lambda s: s.error,
        sink="hook",
        then=lambda s: (s.world.folder / "away").rename(s.world.folder / "signing"),
    ),
    case(
        "Sinks",
        "A command ends with another status than 0",
        KEPT,
        lambda s: s.job("exit 3"),
        lambda s: s.error,
        sink="job",
        then=lambda s: s.job(),
    ),
    case(
        "Sinks",
        "A command does not end within its time-out",
        KEPT,
        lambda s: s.job("exec sleep 60"),
        lambda s: s.error,
        sink="job",
        then=lambda s: s.job(),
    ),
    case(
        "Sinks",
        "A command's program is gone",
        "It is found out before Neon is asked for a key.",
        lambda s: (s.world.folder / "job").unlink(),
        lambda s: s.error,
        sink="job",
        then=lambda s: s.job(),
    ),
    # Keys
    case(
        "Keys",
        "Somebody revokes a key that is in its grace period",
        "It is told; there is nothing left to do.",
        revoke_the_old_one,
        lambda s: s.told("key.gone"),
        lasts=600,
    ),
    case(
        "Keys",
        "A process that dies again and again loses key after key",
        "At most five older keys are kept: then it makes no more and asks for a person.",
        many_that_nobody_took,
        lambda s: s.why,
        sink="hook",
        then=order_a_rotation,
    ),
]


@pytest.mark.parametrize(("scene", "begin", "seen", "lasts", "then", "quiet"), CASES, indirect=["scene"])
def test_a_fault(
    scene: Scene,
    begin: Act,
    seen: Act,
    lasts: float,
    then: Act,
    quiet: bool,
    person_sees: Callable[[str], None],
) -> None:
    world = scene.world
    begin(scene)
    world.settle()
    begun = changes(world)
    for _ in range(round(lasts / 300)):
        assert world.works(scene.held)
        world.push(seconds=300)
        world.settle()
    assert world.works(scene.held)
    person_sees(str(seen(scene)))
    assert changes(world) == begun or not quiet
    then(scene)
    for _ in range(30):
        world.push(minutes=30)
        world.settle()
        assert world.works(scene.held)
    (key,) = world.ours()
    assert scene.held == world.neon.secret_of(key)
    assert world.status("ci")["state"] == "ok"
    assert world.store.broken_at() is None


def changes(world: World) -> list[str]:
    """The requests so far that change something."""
    return [seen.method for seen in world.neon.requests if seen.method != "GET"]
