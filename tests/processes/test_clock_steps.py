"""Clocks that jump: this machine's under a running service, Neon's in its answers, and a process that stood still.

The machine's clock is stepped for the one process by a small library that is compiled here and loaded into it
before the C library: everything in it, Python and the scheduler, then reads a wall clock that was set, while
monotonic time goes on, as after `date --set` or a suspended machine.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sinks.builders import Reply, Request, until
from world import World

from .stage import PATIENCE, Stage
from .test_killed import accounts_for_everything

Sees = Callable[[str], None]
HOUR = 3_600
STEPPED = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long by(void) {
    char text[32] = {0};
    const char *name = getenv("STEPPED_BY");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    return got > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, id, at);
    if (!failed && id == CLOCK_REALTIME) at->tv_sec += by();
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    int failed = syscall(SYS_gettimeofday, at, zone);
    if (!failed) at->tv_sec += by();
    return failed;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.fixture
def stepped(tmp_path: Path) -> dict[str, str]:
    """The environment in which a process has a wall clock that the file `step` sets by so many seconds."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a clock that can be stepped with")
    source, library, step = tmp_path / "stepped.c", tmp_path / "stepped.so", tmp_path / "step"
    source.write_text(STEPPED)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    set_clock(step, 0)
    return {"LD_PRELOAD": str(library), "STEPPED_BY": str(step)}


def set_clock(step: Path, seconds: int) -> None:
    """At once and whole: it may be read at any moment."""
    new = step.with_suffix(".new")
    new.write_text(str(seconds))
    new.rename(step)


@pytest.mark.fault(
    "Clock",
    "The machine's clock is set hours ahead, then hours back, under a running service",
    "It plans everything anew; rotations and grace periods go on by Neon's clock as if nothing had been.",
)
def test_the_machines_clock_is_set(stage: Stage, stepped: dict[str, str], person_sees: Sees) -> None:
    """The scheduler, which computes with it, would wait for hours or do everything at once."""
    soon = "rotate: {every: 2s}, grace_period: 1s, hold: {while_old_key_used_within: 0s}"
    stage.config.write_text(stage.config.read_text().replace("rotate: {every: 30d}", soon))
    service = stage.serve(environ=stepped)
    service.wait_for("rotation.live")
    for jumps, seconds in enumerate((6 * HOUR, -6 * HOUR), start=1):
        set_clock(stage.folder / "step", seconds)
        jumped = service.wait_for("clock.jumped", times=jumps)
        lives, made = len(service.told("rotation.live")), stage.created()
        began = time.monotonic()
        service.wait_for("rotation.live", times=lives + 2, within=20)
        assert stage.created() - made <= (time.monotonic() - began) / 2 + 2, "no more than are due"
    person_sees(jumped["why"])
    assert stage.works(stage.app())
    assert service.running
    for entry in service.told("api_key.revoked"):
        live = next(line for line in service.told("rotation.live") if line["key_id"] > entry["key_id"])
        assert service.lines.index(live) < service.lines.index(entry), "revoked before its successor was live"
    assert service.end()[0] == 0
    accounts_for_everything(stage)


@pytest.mark.fault(
    "State",
    "A policy's record in the state cannot be read when the machine's clock is set",
    "It stays up and changes nothing outside; goes on once the state was put right.",
)
def test_the_machines_clock_is_set_while_the_state_cannot_be_read(
    stage: Stage, stepped: dict[str, str], person_sees: Sees
) -> None:
    service = stage.serve(environ=stepped)
    service.wait_for("rotation.live")
    with contextlib.closing(sqlite3.connect(stage.state, timeout=30)) as state, state:
        (whole,) = state.execute("SELECT document FROM records").fetchone()
        state.execute("UPDATE records SET document = '{'")
    set_clock(stage.folder / "step", HOUR)
    service.wait_for("clock.jumped")
    person_sees(service.wait_for("state.unavailable", policy="ci")["why"])
    assert service.running
    assert (stage.created(), stage.revocations()) == (1, 0)
    with contextlib.closing(sqlite3.connect(stage.state, timeout=30)) as state, state:
        state.execute("UPDATE records SET document = ?", (whole,))
    service.wait_for("state.available", within=20)
    assert service.end()[0] == 0


# Neon's clock

GRACE = """
state: sqlite:///state.db
sinks:
  app: {type: file, path: app.key}
policies:
  ci: {rotate: {every: 30d}, grace_period: 1h, hold: {while_old_key_used_within: 0s}, deliver_to: [app]}
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """One policy, whose old key is in its grace period of an hour."""
    world = World(tmp_path, GRACE)
    world.settle()
    world.push(days=30)
    world.settle()
    yield world
    world.close()


@pytest.mark.fault(
    "Clock",
    "The machine is frozen for hours, with all its clocks, in the middle of a hand-off",
    "The old key's grace period counts from when Neon's clock shows it, not from hours before.",
)
def test_a_machine_that_is_frozen_in_the_middle_of_a_hand_off(world: World, person_sees: Sees) -> None:
    old, _ = world.ours()
    world.neon.set_clock(6 * HOUR)  # no answer of Neon has come since the old key retired
    world.live_through(60, step=10)
    assert world.clock.distrust == ""
    world.live_through(HOUR - 120)
    assert old in world.ours(), "its consumers have an hour from then on to read the new key"
    person_sees(world.status("ci")["next"]["why"])
    world.live_through(240)
    assert old not in world.ours()


@pytest.mark.fault(
    "Clock",
    "Neon's clock jumps hours ahead, over the end of a grace period",
    "Nothing is revoked until two more answers agree with the new time.",
)
def test_neons_clock_jumps_ahead(world: World, person_sees: Sees) -> None:
    old, _ = world.ours()
    world.live_through(60)  # Neon has answered since the old key retired, so when that was is known
    world.neon.set_clock(6 * HOUR)
    world.settle()
    person_sees(world.clock.distrust)
    assert old in world.ours()
    answers = len(world.neon.requests)
    for _ in range(5):
        world.push(seconds=10)
        world.settle()
        if old not in world.ours():
            break
    assert old not in world.ours()
    asked = [seen.method for seen in world.neon.requests[answers:]]
    assert asked.index("DELETE") >= 2


@pytest.mark.fault(
    "Clock",
    "Neon's clock jumps hours back",
    "Nothing is revoked until two more answers agree; then the grace period ends by the new time.",
)
def test_neons_clock_jumps_back(world: World, person_sees: Sees) -> None:
    old, _ = world.ours()
    world.neon.set_clock(-6 * HOUR)
    world.push(minutes=30)
    world.settle()
    person_sees(world.clock.distrust)
    for _ in range(5):
        world.push(seconds=10)
        world.settle()
    assert not world.clock.distrust
    world.push(hours=5)
    world.settle()
    assert old in world.ours(), "the hour is not over on any clock that is believed"
    world.push(hours=2)
    world.settle()
    assert old not in world.ours()


@pytest.mark.fault(
    "Clock",
    "One answer of Neon's has a time that is hours off",
    "It counts for nothing: the answers after it agree with the time before.",
)
def test_one_answer_has_another_time(world: World, person_sees: Sees) -> None:
    old, _ = world.ours()
    world.neon.set_clock(6 * HOUR)
    world.rounds.poll()
    world.neon.set_clock(0)
    person_sees(world.clock.distrust)
    for _ in range(5):
        world.push(seconds=10)
        world.settle()
    assert not world.clock.distrust
    assert old in world.ours()


@pytest.mark.fault(
    "Clock",
    "At the start Neon's time is earlier than the newest time in the state",
    "Nothing is revoked until two more answers agree.",
)
def test_at_the_start_neons_time_is_older_than_the_state(world: World, person_sees: Sees) -> None:
    old, _ = world.ours()
    world.neon.set_clock(-6 * HOUR)
    world.restart()
    newest = world.store.newest_time()
    assert newest is not None
    world.clock.remembers(newest)
    world.rounds.poll()
    person_sees(world.clock.distrust)
    world.settle()
    assert old in world.ours()


# A process that stood still


@pytest.mark.fault(
    "Process",
    "The process is stopped in the middle of a hand-off for longer than its time-out",
    "It takes the attempt for failed and tries again with the same key.",
)
def test_stopped_for_longer_than_a_time_out(a_stage: Callable[..., Stage], person_sees: Sees) -> None:
    """SIGSTOP and SIGCONT: as on a machine that swaps or is migrated."""
    stage = a_stage()
    receiver = stage.receiver()

    def reply(_: Request) -> Reply:
        if len(receiver.requests) == 1:
            service.signal(signal.SIGSTOP)
            time.sleep(2.5)
            service.signal(signal.SIGCONT)
            time.sleep(0.5)  # or the answer might be there when it looks again
        return Reply(204)

    receiver.reply = reply
    stage.configure(
        f"""
sinks:
  hook: {{type: webhook, url: "{receiver.url}", signing_secret: {{file: signing}}, timeout: 1s}}
policies:
  ci: {{rotate: {{every: 30d}}, deliver_to: [hook]}}
"""
    )
    service = stage.serve(ready=False)
    service.wait_for("rotation.live")
    person_sees(service.told("rotation.failed")[0]["why"])
    (key,) = stage.ours
    assert {request.json["data"]["key"]["id"] for request in receiver.requests} == {key}
    until(lambda: stage.policy()["state"] == "ok", PATIENCE)
