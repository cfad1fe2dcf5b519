"""When policies get their turns: no wake-up is lost, none is doubled, and the answer of a turn names the next."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sinks.builders import a_hand_off, a_secret, until

from rotator.assembly import assemble
from rotator.config import load
from rotator.daemon import Service
from rotator.model import Every, Order, OrderKind
from rotator.sandbox import Sandbox

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CONFIGURATION = """
neon: {{api_key: {{file: key}}, api_url: {url}}}
sinks:
  a: {{type: file, path: a.key}}
  b: {{type: file, path: b.key}}
policies:
  one: {{rotate: {{every: 30d}}, deliver_to: [a]}}
  two: {{rotate: {{every: 30d}}, deliver_to: [b]}}
"""


class Turns:
    """An engine whose turns are counted, and do what a test says instead."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.taken: list[str] = []
        self.at_once: list[int] = []
        self.act: Callable[[str], datetime | None] = lambda _: None
        self._guard = threading.Lock()
        self._running: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def turn(self, name: str) -> datetime | None:
        with self._guard:
            assert name not in self._running, "two turns of one policy at once"
            self._running.add(name)
            self.taken.append(name)
            self.at_once.append(len(self._running))
        try:
            return self.act(name)
        finally:
            with self._guard:
                self._running.discard(name)

    def count(self, name: str = "one") -> int:
        return self.taken.count(name)


class Stage:
    """A service on real parts, but for its turns. `play` runs it while a test acts in another thread."""

    def __init__(self, folder: Path, neon: Sandbox) -> None:
        self.neon = neon
        (folder / "key").write_text(neon.management_key)
        self.file = folder / "config.yaml"
        self.file.write_text(CONFIGURATION.format(url=neon.url))
        assembly = assemble(load(self.file), threading.Event(), tell=lambda _: None)
        self.turns = Turns(assembly.engine)
        self.assembly = replace(assembly, engine=self.turns)  # type: ignore[arg-type]
        self.service = Service(self.assembly, lambda: load(self.file))
        self.problems: list[BaseException] = []

    def rests(self) -> bool:
        """Whether no turn is under way or planned."""
        with self.service._guard:
            return not self.service._running and not self.service._wakes

    def hold(self, name: str) -> tuple[threading.Event, threading.Event]:
        """Let the turns of a policy hang. The first event is set when one does, the second lets them end."""
        inside, gate = threading.Event(), threading.Event()

        def hang(taken: str) -> None:
            if taken == name:
                inside.set()
                gate.wait(30)

        self.turns.act = hang
        return inside, gate

    def play(self, act: Callable[[], None]) -> None:
        """Run the service until `act`, which begins when it is ready, has ended."""

        def run() -> None:
            try:
                until(lambda: self.turns.count("one") and self.turns.count("two") and self.rests())
                act()
            except BaseException as error:  # noqa: BLE001 - it is raised in the test's own thread
                self.problems.append(error)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        actor = threading.Thread(target=run)
        try:
            self.service.run(actor.start)
        finally:
            actor.join()
            self.assembly.close()
        if self.problems:
            raise self.problems[0]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
    with Sandbox() as neon:
        yield Stage(tmp_path, neon)
    logging.getLogger("apscheduler").setLevel(logging.NOTSET)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_every_policy_has_a_turn_at_the_start_and_none_without_a_reason(stage: Stage) -> None:
    stage.play(lambda: None)
    assert set(stage.turns.taken) == {"one", "two"}


def test_a_wake_up_during_a_turn_is_followed_by_one_more_turn_however_many_there_were(stage: Stage) -> None:
    def act() -> None:
        before = stage.turns.count()
        inside, gate = stage.hold("one")
        stage.service.wake("one")
        assert inside.wait(30)
        for _ in range(5):
            stage.service.wake("one")
        assert stage.turns.count() == before + 1
        gate.set()
        until(lambda: stage.turns.count() == before + 2 and stage.rests())

    stage.play(act)


def test_wake_ups_from_many_threads_never_lead_to_two_turns_at_once_and_the_last_is_heeded(stage: Stage) -> None:
    seen = 0
    wanted = 0

    def look(_: str) -> None:
        nonlocal seen
        seen = wanted

    def act() -> None:
        nonlocal wanted
        stage.turns.act = look
        for number in range(1, 101):
            wanted = number
            threads = [threading.Thread(target=stage.service.wake, args=("one",)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        until(lambda: seen == 100)

    stage.play(act)


def test_a_turn_names_the_time_of_the_next(stage: Stage) -> None:
    times: list[float] = []

    def again(name: str) -> datetime | None:
        times.append(time.monotonic())
        return stage.assembly.clock.now() + timedelta(seconds=0.2) if len(times) < 4 else None

    def act() -> None:
        stage.turns.act = again
        stage.service.wake("one")
        until(lambda: len(times) == 4)
        assert all(later - earlier >= 0.19 for earlier, later in pairwise(times))

    stage.play(act)


def test_a_turn_that_fails_is_taken_again_later_and_ends_nothing(stage: Stage) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("a fault of ours")

    def act() -> None:
        before = stage.turns.count()
        stage.turns.act = fail
        stage.service.wake("one")
        until(lambda: stage.turns.count() == before + 1 and "one" in stage.service._wakes)
        planned = stage.service._wakes["one"] - datetime.now(UTC)
        assert timedelta(seconds=50) < planned <= timedelta(seconds=61)
        stage.turns.act = lambda _: None
        stage.service.wake("one")
        until(lambda: stage.turns.count() == before + 2)

    stage.play(act)


def test_turns_that_hang_delay_no_other_policy_and_no_order(stage: Stage) -> None:
    def act() -> None:
        inside, gate = stage.hold("one")
        stage.service.wake("one")
        assert inside.wait(30)
        before = stage.turns.count("two")
        stage.assembly.store.add_order(Order(0, OrderKind.ROTATE, datetime.now(UTC), "two"))
        until(lambda: stage.turns.count("two") > before)
        gate.set()

    stage.play(act)


def test_an_order_wakes_its_policy_once(stage: Stage) -> None:
    def act() -> None:
        before = stage.turns.count("one"), stage.turns.count("two")
        stage.assembly.store.add_order(Order(0, OrderKind.ROTATE, datetime.now(UTC), "one"))
        until(lambda: stage.turns.count("one") == before[0] + 1)
        looked = stage.service._pulse
        until(lambda: stage.service._pulse > looked + 2)  # it was looked for orders once more
        assert (stage.turns.count("one"), stage.turns.count("two")) == (before[0] + 1, before[1])

    stage.play(act)


def test_an_order_of_no_policy_that_waits_for_neon_delays_no_other_order(stage: Stage) -> None:
    def act() -> None:
        store = stage.assembly.store
        before = stage.turns.count("two")
        stage.neon.fault("slow", on="list", seconds=6)
        number = store.add_order(Order(0, OrderKind.REVOKE, datetime.now(UTC), key_id=7, unmanaged=True))
        until(lambda: stage.service._obeying)
        store.add_order(Order(0, OrderKind.ROTATE, datetime.now(UTC), "two"))
        until(lambda: stage.turns.count("two") > before)
        assert number in {order.id for order in store.open_orders()}, "it still waits"
        until(lambda: number not in {order.id for order in store.open_orders()})
        assert "order.lapsed" in {entry.event for entry in store.history(key_id=7)}

    stage.play(act)


def test_an_order_that_is_closed_is_not_remembered(stage: Stage) -> None:
    def act() -> None:
        number = stage.assembly.store.add_order(Order(0, OrderKind.ROTATE, datetime.now(UTC), "one"))
        until(lambda: bool(stage.service._orders_seen))
        stage.assembly.store.close_order(number, [], datetime.now(UTC))
        until(lambda: not stage.service._orders_seen)

    stage.play(act)


def test_what_is_kept_no_longer_is_removed_after_a_poll(stage: Stage) -> None:
    closed = ("one", "rotate", "2026-11-23T12:00:00+00:00", "2026-11-23T12:00:00+00:00")
    with closing(sqlite3.connect(stage.file.parent / "rotator.db")) as state, state:
        state.executemany(
            "INSERT INTO orders (policy, kind, at, leaked, now, unmanaged, closed_at) VALUES (?, ?, ?, 0, 0, 0, ?)",
            [closed] * 1001,
        )
    stage.play(lambda: None)
    with closing(sqlite3.connect(stage.file.parent / "rotator.db")) as state:
        assert state.execute("SELECT count(*) FROM orders").fetchone() == (1000,)


def test_a_pause_or_resume_wakes_the_configured_policies_also_when_records_cannot_be_read(stage: Stage) -> None:
    def act() -> None:
        before = stage.turns.count("one"), stage.turns.count("two")
        with closing(sqlite3.connect(stage.file.parent / "rotator.db")) as state, state:
            state.execute("INSERT INTO records (policy, version, document) VALUES ('gone', 1, '{')")
        stage.assembly.store.set_meta("nudge", "a word that was not there before")
        until(lambda: stage.turns.count("one") > before[0] and stage.turns.count("two") > before[1])

    stage.play(act)


def test_a_wake_up_that_the_scheduler_lost_is_made_up_for(stage: Stage) -> None:
    def act() -> None:
        before = stage.turns.count()
        with stage.service._guard:
            # Planned for then, and no job is left that would do it.
            stage.service._wakes["one"] = datetime.now(UTC) - timedelta(seconds=16)
        until(lambda: stage.turns.count() == before + 1)

    stage.play(act)


def test_a_new_configuration_gives_every_policy_a_turn(stage: Stage) -> None:
    def act() -> None:
        before = stage.turns.count("two")
        stage.file.write_text(stage.file.read_text().replace("every: 30d", "every: 20d"))
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: stage.turns.count("two") > before)
        assert stage.assembly.config.policies["two"].rotate == Every(timedelta(days=20))

    stage.play(act)


def test_reloads_more_often_than_the_poll_and_the_look_for_orders_put_off_neither(stage: Stage) -> None:
    stage.file.write_text(stage.file.read_text().replace("neon: {", "neon: {poll_every: 3s, "))
    stage.assembly.configure(load(stage.file))

    def act() -> None:
        before = stage.assembly.store.meta("clock")
        number = stage.assembly.store.add_order(Order(0, OrderKind.ROTATE, datetime.now(UTC), "one"))
        reloads = 0

        def polled_and_looked() -> bool:
            nonlocal reloads
            reloads += 1
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.3)
            return stage.assembly.store.meta("clock") != before and number in stage.service._orders_seen

        until(polled_and_looked)
        assert reloads > 5

    stage.play(act)


def test_a_faulty_configuration_changes_nothing(stage: Stage) -> None:
    def act() -> None:
        config = stage.assembly.config
        stage.file.write_text("policies: 7\n")
        os.kill(os.getpid(), signal.SIGHUP)
        before = stage.turns.count()
        stage.service.wake("one")
        until(lambda: stage.turns.count() > before)
        assert stage.assembly.config is config

    stage.play(act)


def test_a_variable_that_held_a_secret_before_the_configuration_changed_is_still_kept_from_commands(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = a_secret()
    monkeypatch.setenv("NEON_ADMIN_KEY", secret.reveal())
    after_write = f"after_write: [sh, -c, 'env | cut -d= -f1 > {tmp_path}/names']"
    from_file = stage.file.read_text().replace("path: a.key", f"path: a.key, {after_write}")

    def load_again(text: str) -> None:
        before = stage.assembly.config
        stage.file.write_text(text)
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: stage.assembly.config is not before)

    def act() -> None:
        load_again(from_file.replace("{file: key}", "{env: NEON_ADMIN_KEY}"))
        load_again(from_file)
        load_again(from_file + "\n")
        stage.assembly.config.sinks["a"].deliver(a_hand_off(secret), secret)
        assert "NEON_ADMIN_KEY" not in (tmp_path / "names").read_text().split()

    stage.play(act)
