"""A small world for tests: the sandbox over HTTP, a real configuration, state and engine, and a pushed clock.

Neon's time and ours are one number that a test pushes forward, so months pass in milliseconds and nothing
sleeps. `World.settle` does what the service would do now: it polls, and takes turns until every policy
waits for a later time. `die_at` makes the process "die" at the n-th thing that it does outside or writes
down; `restart` is what comes after.
"""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from rotator.cli import cli
from rotator.clock import NeonClock
from rotator.config import Config, load
from rotator.engine import Engine
from rotator.model import Event, Order, OrderKind, Record
from rotator.neon import Neon
from rotator.ports import Setup
from rotator.rate import RateLimit
from rotator.rounds import Rounds
from rotator.sandbox import Sandbox
from rotator.status import policy_status
from rotator.store import Store
from rotator.usage import UnusedRule

START = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)


class Death(BaseException):
    """The process ends here: not an Exception, so nothing handles it."""


class Boundaries:
    """Counts what the process does outside or writes down, and ends it at a chosen one."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.deadly: int | None = None
        self.watch: Callable[[str], None] = lambda _: None

    def cross(self, name: str) -> None:
        self.passed.append(name)
        self.watch(name)
        if self.deadly is not None and len(self.passed) > self.deadly:
            raise Death(name)


class Mortal:
    """Any object, with a boundary before and after each of the named calls."""

    def __init__(self, real: Any, names: tuple[str, ...], boundaries: Boundaries) -> None:
        self._real = real
        self._names = names
        self._boundaries = boundaries

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in self._names:
            return found

        def crossing(*args: Any, **kwargs: Any) -> Any:
            self._boundaries.cross(f"before {name}")
            result = found(*args, **kwargs)
            self._boundaries.cross(f"after {name}")
            return result

        return crossing


class PushedEvent(threading.Event):
    """A stop event on which nobody waits for real: waiting pushes the world's time."""

    def __init__(self, push: Callable[[float], None]) -> None:
        super().__init__()
        self._push = push

    def wait(self, timeout: float | None = None) -> bool:
        self._push(max(timeout or 0.0, 0.001))  # a wait that rounds to nothing would never end
        return self.is_set()


class World:
    """`text` is the part of a configuration from `sinks:` on."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.text = text
        self.seconds = 0.0
        self.boundaries = Boundaries()
        self.events: list[Event] = []
        self.neon = Sandbox(now=lambda: START + timedelta(seconds=self.seconds))
        self.neon.start()
        (folder / "key").write_text(self.neon.management_key)
        self.config = self.load()
        self.store = Store(self.config.state, self.config.notify)
        self.restart()

    def close(self) -> None:
        self.store.close()
        self.neon.stop()

    def load(self) -> Config:
        """Write the configuration down and read it."""
        file = self.folder / "config.yaml"
        neon = f"{{api_key: {{file: key}}, api_url: {self.neon.url}, api_key_id: {self.neon.management_key_id}}}"
        file.write_text(f"neon: {neon}\n{self.text}")
        return load(file)

    def restart(self) -> None:
        """A new process on the same state: what was only in memory is gone."""
        self.boundaries.deadly = None
        self.stop = PushedEvent(lambda seconds: self.push(seconds=seconds))
        self.clock = NeonClock(monotonic=self._tick, local=lambda: START + timedelta(seconds=self.seconds, hours=1))
        rate = RateLimit(600, self.stop, lambda: self.seconds)
        self.provider = Neon(self.config.neon.api_url, self.config.neon.api_key, self.clock, rate, self.stop)
        state: Any = Mortal(self.store, ("change", "change_many"), self.boundaries)
        self.engine = Engine(
            self._setup(), state, self.clock, self.events.append, self.stop, lots=random.Random(len(self.events))
        )
        self.rounds = Rounds(self.engine, state, self.clock, self.events.append)
        self.engine.start()

    def configure(self, text: str) -> None:
        """What SIGHUP does."""
        self.text = text
        self.config = self.load()
        self.engine.configure(self._setup())

    def _setup(self) -> Setup:
        provider: Any = Mortal(self.provider, ("create_key", "revoke_key"), self.boundaries)
        sinks: dict[str, Any] = {n: Mortal(s, ("deliver",), self.boundaries) for n, s in self.config.sinks.items()}
        unused = UnusedRule(self.config.unused_keys.after, self.config.unused_keys.ignore)
        return Setup(provider, self.config.policies, sinks, unused, self.config.neon.api_key_id)

    def command(self, *words: str) -> Result:
        """Another process: a command, to its end. `return_value` is its exit status. Raises what it raises."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            ended = CliRunner().invoke(
                cli, ["--config", str(self.folder / "config.yaml"), *words], standalone_mode=False
            )
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if ended.exception is not None:
            raise ended.exception
        return ended

    # Time and turns

    def _tick(self) -> float:
        """The time, a little later at every look: no two things happen at one instant."""
        self.seconds += 1e-5
        return self.seconds

    def push(self, **duration: float) -> None:
        """Let time pass."""
        self.seconds += timedelta(**duration).total_seconds()

    def settle(self) -> None:
        """Poll, and take turns until every policy waits for later."""
        self.rounds.poll()
        self.rounds.obey()
        for name in {*self.config.policies, *self.store.records()}:
            for _ in range(100):
                wake = self.engine.turn(name)
                if wake is None or wake > self.clock.now():
                    break
            else:
                raise AssertionError(f"{name} never comes to rest")

    def settle_turn(self, policy: str) -> None:
        """One turn of one policy, after a poll."""
        self.rounds.poll()
        self.engine.turn(policy)

    def live_through(self, seconds: float, step: float = 60.0) -> None:
        """Push and settle until so much time has passed."""
        end = self.seconds + seconds
        while self.seconds < end:
            self.push(seconds=min(step, end - self.seconds))
            self.settle()

    # Looking

    def record(self, policy: str) -> Record:
        return self.store.record(policy)

    def status(self, policy: str) -> dict[str, Any]:
        outlook = self.store.outlooks().get(policy, {})
        return policy_status(policy, self.config.policies.get(policy), self.record(policy), outlook)

    def ours(self) -> list[int]:
        """The ids of all keys but the management key, oldest first."""
        return sorted(key.id for key in self.neon.keys() if key.id != self.neon.management_key_id)

    def told(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    def calls(self, method: str, path: str) -> int:
        return sum(1 for seen in self.neon.requests if seen.method == method and seen.path.startswith(path))

    def works(self, secret: str) -> bool:
        """Whether Neon would accept this secret now. Not a use of the key."""
        return any(self.neon.secret_of(key.id) == secret for key in self.neon.keys())

    def order(self, kind: OrderKind, policy: str | None = None, **words: Any) -> None:
        self.store.add_order(Order(0, kind, self.clock.now(), policy=policy, **words))
