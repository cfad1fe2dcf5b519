"""A disk that is full: under the state, and under a file sink.

While the state cannot be written, nothing outside changes; the service stays up, is not ready, keeps the secrets in
hand and tries again every 15 s. So that every moment is met and no test waits for that, most of this runs with a
clock that is pushed, on a real small disk; one test is a real process, and waits.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from disks import Disk, a_small_disk
from sinks.builders import Reply, Request, until
from world import World

from rotator.engine import STATE_AGAIN
from rotator.errors import StateUnavailable
from rotator.model import Order, OrderKind
from rotator.sandbox import Event
from rotator.store import Store

from .stage import PATIENCE, Stage, a_free_port
from .test_killed import accounts_for_everything

Sees = Callable[[str], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with a_small_disk(tmp_path / "disk") as disk:
        yield disk


# Every moment, with a pushed clock

ON_THE_DISK = """
state: sqlite:///disk/state.db
sinks:
  app: {type: file, path: app.key}
policies:
  ci: {rotate: {every: 30d}, grace_period: 1h, hold: {while_old_key_used_within: 0s}, deliver_to: [app]}
"""
EFFECTS = ("create_key", "deliver", "revoke_key")


def a_rotation(world: World) -> None:
    """What fills a month: a new key, and the end of the old one; a state that cannot be written stops it."""
    for seconds in (30 * 86_400, 3_601):
        world.push(seconds=seconds)
        try:
            world.settle()
        except StateUnavailable:
            return  # the poll itself, which the service tries again


def boundaries(folder: Path) -> list[str]:
    """What a rotation crosses, in order."""
    world = World(folder, ON_THE_DISK.replace("disk/", ""))
    try:
        world.settle()
        done = len(world.boundaries.passed)
        a_rotation(world)
        return world.boundaries.passed[done:]
    finally:
        world.close()


def test_full_at_any_moment_nothing_outside_changes_and_afterwards_everything_converges(
    tmp_path: Path, disk: Disk
) -> None:
    """Before and after every write and every effect of a rotation, each filled in a rotation of its own."""
    rehearsal = tmp_path / "rehearsal"
    rehearsal.mkdir()
    every = boundaries(rehearsal)
    assert {f"{when} {what}" for when in ("before", "after") for what in EFFECTS} <= set(every)
    for number, moment in enumerate(every):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = World(folder, ON_THE_DISK.replace("disk/", f"{disk.folder}/{number}-"))
        try:
            world.settle()
            fills_at(world, number, moment, disk)
        finally:
            world.close()
            disk.free()


def fills_at(world: World, number: int, moment: str, disk: Disk) -> None:
    """The disk fills at this boundary of the next rotation, and is freed three tries later."""
    deadly = len(world.boundaries.passed) + number + 1

    def watch(_: str) -> None:
        if len(world.boundaries.passed) == deadly:
            disk.fill()

    world.boundaries.watch = watch
    a_rotation(world)
    assert world.boundaries.passed[deadly - 1] == moment
    held, effects = secret_of_consumer(world), effects_of(world)
    assert world.works(held), moment
    for _ in range(3):
        world.push(seconds=STATE_AGAIN.total_seconds())
        with pytest.raises(StateUnavailable):
            world.settle()
        world.engine.turn("ci")
        assert effects_of(world) == effects, moment
        assert secret_of_consumer(world) == held
    disk.free()
    for _ in range(3):
        world.push(seconds=3_601)
        world.settle()
    (key,) = world.ours()
    assert secret_of_consumer(world) == world.neon.secret_of(key), moment
    assert world.status("ci")["state"] == "ok", moment
    assert world.store.broken_at() is None
    assert world.calls("POST", "/api_keys") == 2, "the secret was kept in hand: no key was lost"


def secret_of_consumer(world: World) -> str:
    return (world.folder / "app.key").read_text().strip()


def effects_of(world: World) -> list[Any]:
    """All that happened outside: the requests that change something, and the hand-offs."""
    asked = [(seen.method, seen.path) for seen in world.neon.requests if seen.method != "GET"]
    return [*asked, (world.folder / "app.key").stat().st_mtime_ns]


@pytest.mark.fault(
    "State",
    "The disk of the state is full before a rotation begins",
    "It asks Neon for nothing and tries the state again every 15 s.",
)
def test_full_before_the_intent(tmp_path: Path, disk: Disk, person_sees: Sees) -> None:
    world = World(tmp_path, ON_THE_DISK)
    try:
        world.settle()
        world.push(days=30)
        world.rounds.poll()
        disk.fill()
        wake = world.engine.turn("ci")
        assert wake is not None
        assert timedelta(seconds=14) < wake - world.clock.now() <= STATE_AGAIN
        person_sees(world.told("state.unavailable")[-1].why)
        assert world.calls("POST", "/api_keys") == 1
    finally:
        world.close()


def test_full_under_a_file_sink(tmp_path: Path, disk: Disk) -> None:
    """A full disk shows only when something is written, so the key is already there."""
    world = World(tmp_path, ON_THE_DISK.replace("disk/state.db", "state.db").replace("app.key", "disk/app.key"))
    file = tmp_path / "disk" / "app.key"
    try:
        world.settle()
        before = file.read_text()
        world.push(days=30)
        disk.fill()
        world.settle()
        assert file.read_text() == before
        assert world.works(before.strip())
        assert [path.name for path in disk.folder.iterdir() if path.name not in ("app.key", "filler")] == []
        made = world.calls("POST", "/api_keys")
        assert "No space left on device" in world.status("ci")["last_error"]
        disk.free()
        world.push(hours=1)
        world.settle()
        assert file.read_text().strip() == world.neon.secret_of(world.ours()[-1])
        assert world.calls("POST", "/api_keys") <= made + 1
        assert made == world.calls("POST", "/api_keys") == 2
    finally:
        world.close()


# A real process

THREE_AT_ONCE = """
state: sqlite:///disk/rotator.db
listen: 127.0.0.1:{port}
sinks:
  hook: {{type: webhook, url: "{url}", signing_secret: {{file: signing}}, timeout: 60s}}
  asked: {{type: file, path: asked.key}}
  lost: {{type: file, path: lost.key}}
policies:
  hook: {{rotate: {{every: 30d}}, deliver_to: [hook]}}
  asked: {{rotate: {{every: 30d}}, deliver_to: [asked]}}
  lost: {{rotate: {{every: 30d}}, deliver_to: [lost]}}
"""


@pytest.mark.fault(
    "State",
    "The disk of the state fills up while Neon creates a key and a webhook takes one",
    "It stays up, not ready, with both secrets in hand; what came of both is written down once there is room.",
)
def test_full_while_neon_creates_a_key_and_a_receiver_takes_one(
    a_stage: Callable[..., Stage], disk: Disk, person_sees: Sees
) -> None:
    """And while a third policy is due. Freed, all three end with the keys that were on their way."""
    answering = threading.Event()
    asked = threading.Event()

    def observe(event: Event) -> None:
        if (event.moment, event.method) == ("after", "POST") and stage.neon.keys()[0].name.startswith("asked-"):
            asked.set()
            answering.wait(PATIENCE)

    answering.set()
    stage = a_stage(observer=observe)
    stage.state = disk.folder / "rotator.db"
    receiver = stage.receiver()
    held: list[str] = []

    def take(request: Request) -> Reply:
        held.append(request.json["data"]["key"]["secret"])
        answering.wait(PATIENCE)
        return Reply(204)

    receiver.reply = take
    port = a_free_port()
    stage.configure(THREE_AT_ONCE.format(port=port, url=receiver.url))
    stage.settle()
    order(stage, "hook", "asked")
    asked.clear()
    answering.clear()
    service = stage.serve(ready=False)
    assert asked.wait(PATIENCE)
    until(lambda: len(held) == 2, PATIENCE)
    until(lambda: ready(port) == (200, "leader\n"))
    disk.fill()
    before = outside(stage)
    (stage.folder / "lost.key").unlink()
    answering.set()
    for policy in ("hook", "asked"):
        service.wait_for("state.unavailable", policy=policy)
    status, said = ready(port)
    assert status == 503
    why = service.told("state.unavailable", policy="hook")[-1]["why"]
    assert said.strip() == why
    person_sees(why)
    assert outside(stage) == before
    assert not (stage.folder / "lost.key").exists()
    disk.free()
    for policy in ("hook", "asked", "lost"):
        service.wait_for("rotation.live", policy=policy, within=20)
    until(lambda: ready(port) == (200, "leader\n"))
    assert len(held) == 2, "the receipt was kept, so nothing was sent again"
    assert stage.created() == 6
    assert stage.works(held[-1])
    assert stage.works(stage.app("asked.key"))
    assert stage.works(stage.app("lost.key"))
    accounts_for_everything(stage)


def order(stage: Stage, *policies: str) -> None:
    """Rotations that the next service takes up at its start."""
    store = Store(f"sqlite:///{stage.state}")
    try:
        for policy in policies:
            store.add_order(Order(0, OrderKind.ROTATE, stage.neon.clock(), policy))
    finally:
        store.close()


def ready(port: int) -> tuple[int, str]:
    """The answer of /readyz."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def outside(stage: Stage) -> tuple[int, int, int]:
    """How many keys there are, how many were revoked, and how many hand-offs reached the receiver."""
    return (len(stage.neon.keys()), len(stage.neon.revoked()), sum(len(each.requests) for each in stage._receivers))
