"""A state that was damaged, emptied, replaced or made read-only: at the start, and while it is in use.

Nothing outside changes on the word of a state that cannot be trusted, the message says which file and what to do,
and the exit status is 1. While running, most of it is met with a clock that is pushed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import a_small_disk
from sinks.builders import until
from world import World

from rotator.errors import StateUnavailable
from rotator.model import OrderKind
from rotator.store import Store

from .stage import ONE_POLICY, PATIENCE, Stage, a_free_port
from .test_full_disk import ready

Sees = Callable[[str], None]
PAGE = 4096
ONE_FILE = """
state: sqlite:///rotator.db
sinks:
  app: {type: file, path: app.key}
policies:
  ci: {rotate: {every: 30d}, grace_period: 1h, hold: {while_old_key_used_within: 0s}, deliver_to: [app]}
"""
ONE_COMMAND = """
state: sqlite:///rotator.db
sinks:
  vault: {type: command, run: [cat]}
policies:
  ci: {rotate: {every: 30d}, grace_period: 1h, hold: {while_old_key_used_within: 0s}, deliver_to: [vault]}
"""


def restore(world: World, state: Path, backup: bytes) -> None:
    """End the service, put the backup in the state's place, and start it again."""
    world.store.close()
    state.write_bytes(backup)
    world.store = Store(world.config.state)
    world.restart()


def cut_short(state: Path) -> None:
    os.truncate(state, state.stat().st_size // 2)


def zeros_in_the_middle(state: Path) -> None:
    with state.open("r+b") as file:
        file.seek(2 * PAGE)
        file.write(b"\0" * (state.stat().st_size - 3 * PAGE))


def zeros_at_the_beginning(state: Path) -> None:
    with state.open("r+b") as file:
        file.write(b"\0" * 100)


def emptied(state: Path) -> None:
    os.truncate(state, 0)


def replaced(state: Path) -> None:
    new = state.with_name("new")
    new.touch(mode=0o600)
    new.rename(state)


def log_removed(state: Path) -> None:
    state.with_name(state.name + "-wal").unlink()


def record_cut_short(state: Path) -> None:
    with contextlib.closing(sqlite3.connect(state)) as connection, connection:
        connection.execute("UPDATE records SET document = substr(document, 1, length(document) / 2)")


Damage = Callable[[Path], None]


def fault(name: str, does: str) -> pytest.MarkDecorator:
    return pytest.mark.fault("State", name, does)


CHANGES_NOTHING = "It ends with 1 and changes nothing, neither outside nor in the file."


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut_short, marks=fault("The state's file was cut short, at the start", CHANGES_NOTHING)),
        pytest.param(
            zeros_in_the_middle, marks=fault("The state's file has zeros in the middle, at the start", CHANGES_NOTHING)
        ),
        pytest.param(
            zeros_at_the_beginning,
            marks=fault("The state's file has zeros at its beginning, at the start", CHANGES_NOTHING),
        ),
        pytest.param(
            record_cut_short, marks=fault("A policy's record in the state was cut short, at the start", CHANGES_NOTHING)
        ),
    ],
    ids=lambda damage: damage.__name__.replace("_", " "),
)
def test_at_the_start(stage: Stage, damage: Damage, person_sees: Sees) -> None:
    stage.settle()
    before = (stage.created(), stage.revocations(), stage.app())
    damage(stage.state)
    damaged = stage.state.read_bytes()
    (stage.folder / "app.env").rename(stage.folder / "kept")  # a reason to rotate at once
    ended = stage.rotator("run")
    assert (ended.status, ended.out) == (1, "")
    person_sees(ended.err)
    (stage.folder / "kept").rename(stage.folder / "app.env")
    assert (stage.created(), stage.revocations(), stage.app()) == before
    assert stage.state.read_bytes() == damaged


EMPTY = "It mints nothing and asks for a person: whether to take the key over or to start anew."


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("empty", marks=fault("The state's file was emptied, at the start", EMPTY)),
        pytest.param("gone", marks=fault("The state's file is gone, at the start", EMPTY)),
        pytest.param(
            "its log gone",
            marks=fault("A service was killed, and what SQLite had not yet put in its file is gone", EMPTY),
        ),
    ],
)
def test_a_state_that_was_lost(stage: Stage, how: str, person_sees: Sees) -> None:
    """The account tells that there was one."""
    if how == "its log gone":
        service = stage.serve()
        service.kill()
        log_removed(stage.state)
    else:
        stage.settle()
        emptied(stage.state) if how == "empty" else stage.state.unlink()
    (key,) = stage.ours
    service = stage.serve(ready=False)
    person_sees(service.wait_for("policy.refused")["why"])
    assert service.end()[0] == 0
    assert stage.ours == [key]
    assert stage.works(stage.app())


AS_LONG = "It changes nothing outside as long as that is so, stays up, and says what to do."


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut_short, marks=fault("The state's file is cut short while the service runs", AS_LONG)),
        pytest.param(emptied, marks=fault("The state's file is emptied while the service runs", AS_LONG)),
        pytest.param(
            replaced, marks=fault("The state's file is replaced by an empty one while the service runs", AS_LONG)
        ),
        pytest.param(
            log_removed, marks=fault("SQLite's log beside the state is removed while the service runs", AS_LONG)
        ),
        pytest.param(
            record_cut_short, marks=fault("A policy's record in the state is cut short while the service runs", AS_LONG)
        ),
    ],
    ids=lambda damage: damage.__name__.replace("_", " "),
)
def test_while_running(tmp_path: Path, damage: Damage, person_sees: Sees) -> None:
    world = World(tmp_path, ONE_FILE)
    try:
        world.settle()
        world.store.close()  # so that all of it is in the one file
        (key,) = world.ours()
        world.settle()
        damage(tmp_path / "rotator.db")
        world.push(days=30)
        for _ in range(3):
            with contextlib.suppress(StateUnavailable):
                world.settle()
            world.engine.turn("ci")
            world.push(seconds=16)
        person_sees(world.told("state.unavailable")[-1].why)
        assert world.ours() == [key]
        assert (world.calls("POST", "/"), world.calls("DELETE", "/")) == (1, 0)
        assert (tmp_path / "app.key").read_text().strip() == world.neon.secret_of(key)
    finally:
        world.close()


@pytest.mark.fault(
    "State",
    "The state is restored from a backup that is older than the last rotation",
    "Nothing is rotated or revoked before a person decides: the sinks hold what the state does not know.",
)
def test_an_older_backup(tmp_path: Path, person_sees: Sees) -> None:
    world = World(tmp_path, ONE_FILE)
    state = tmp_path / "rotator.db"
    try:
        world.settle()
        (old,) = world.ours()
        world.store.close()
        backup = state.read_bytes()
        world.push(days=30)
        world.settle()
        restore(world, state, backup)
        world.live_through(40 * 86_400, step=86_400)
        assert world.ours()[0] == old
        assert len(world.ours()) == 2
        person_sees(world.status("ci")["next"]["why"])
        world.order(OrderKind.ROTATE, "ci")
        world.settle()
        world.live_through(2 * 86_400, step=3_600)
        assert world.status("ci")["state"] == "ok"
        assert (tmp_path / "app.key").read_text().strip() == world.neon.secret_of(world.ours()[-1])
        assert old not in world.ours()
    finally:
        world.close()


@pytest.mark.fault(
    "State",
    "The state is restored from a backup that was made in the middle of a rotation",
    "The key of that rotation is in use, so it was handed on: it stays until its successor's grace period is over.",
)
def test_a_backup_from_the_middle_of_a_rotation(tmp_path: Path, person_sees: Sees) -> None:
    world = World(tmp_path, ONE_COMMAND)
    state, backup = tmp_path / "rotator.db", tmp_path / "backup.db"

    def copy(boundary: str) -> None:
        if boundary == "before create_key" and not backup.exists():
            with (
                contextlib.closing(sqlite3.connect(state)) as source,
                contextlib.closing(sqlite3.connect(backup)) as to,
            ):
                source.backup(to)

    try:
        world.boundaries.watch = copy
        world.settle()
        (key,) = world.ours()
        world.push(minutes=10)
        assert world.neon.use(world.neon.secret_of(key))
        restore(world, state, backup.read_bytes())

        world.settle()
        assert key in world.ours()
        person_sees(world.told("orphan.handed_on")[0].why)
        world.live_through(3500)
        assert key in world.ours(), "its consumers have the grace period to read the new one"
        world.live_through(300)
        assert world.ours() == [world.status("ci")["live"]["id"]] != [key]
    finally:
        world.close()


@pytest.mark.fault(
    "State",
    "The state is on a file system that is mounted read-only",
    "It ends with 1 before it does anything.",
)
def test_read_only_at_the_start(stage: Stage, person_sees: Sees) -> None:
    with a_small_disk(stage.folder / "disk") as disk:
        stage.configure(f"state: sqlite:///disk/rotator.db{ONE_POLICY}")
        stage.settle()
        disk.remount("ro")
        ended = stage.rotator("run")
        assert (ended.status, ended.out) == (1, "")
        person_sees(ended.err)
        assert stage.created() == 1


@pytest.mark.fault(
    "State",
    "The state cannot be written any more while the service runs, though it can be read",
    "It stays up and changes nothing outside; goes on by itself once it can be written.",
)
def test_not_to_be_written_while_running(stage: Stage, person_sees: Sees) -> None:
    """No file of the process may grow, as if the file system had become read-only; a limit needs no root."""
    port = a_free_port()
    stage.configure(f"listen: 127.0.0.1:{port}{ONE_POLICY}")
    service = stage.serve()
    _, most = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (0, most))
    (stage.folder / "app.env").unlink()
    person_sees(service.wait_for("state.unavailable", policy=None)["why"])
    until(lambda: ready(port)[0] == 503, PATIENCE)
    assert stage.created() == 1
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (most, most))
    service.wait_for("rotation.live", times=2, within=20)
    assert service.told("state.available")
    assert stage.works(stage.app())
