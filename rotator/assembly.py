"""Puts the real parts together for one configuration."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from rotator import log
from rotator.clock import NeonClock
from rotator.config import Config
from rotator.engine import Engine
from rotator.model import Event
from rotator.neon import Neon
from rotator.notify import Notifier, Receiver
from rotator.ports import Setup
from rotator.rate import RateLimit
from rotator.rounds import Rounds
from rotator.sinks.webhook import event_body
from rotator.store import Store
from rotator.usage import UnusedRule


@dataclass
class Assembly:
    """The parts of one process. `config` is replaced when it is loaded again."""

    config: Config
    stop: threading.Event
    store: Store
    clock: NeonClock
    rate: RateLimit
    neon: Neon
    engine: Engine
    rounds: Rounds
    notifier: Notifier

    def configure(self, config: Config) -> None:
        """Act on another configuration from now on. Raises StateUnavailable, then it acts on the one before."""
        config = config.after(self.config)
        rate, neon = self.rate, self.neon
        if config.neon.requests_per_minute != self.config.neon.requests_per_minute:
            rate = RateLimit(config.neon.requests_per_minute, self.stop)
        if config.neon != self.config.neon:
            neon = new_neon(config, self.clock, rate, self.stop)
        self.engine.configure(setup_of(config, neon))
        self.config, self.rate, self.neon = config, rate, neon
        self.store.notify = config.notify

    def stop_sinks(self) -> None:
        """End the hand-offs under way, and let no other begin."""
        for sink in self.config.sinks.values():
            sink.stop()

    def close(self) -> None:
        """Give back what was opened."""
        self.store.close()


def assemble(
    config: Config,
    stop: threading.Event,
    tell: Callable[[Event], None] = log.tell,
    check: Callable[[], None] = lambda: None,
) -> Assembly:
    """Open the state and make the parts. Raises NeedsPerson and StateUnavailable.

    `check` raises StateUnavailable once this process may not use the state any more, and so decide nothing.
    """
    clock = NeonClock()
    store = Store(config.state, config.notify, check=check)
    for repair in store.repaired:
        tell(Event("state.repaired", repair))
    newest = store.newest_time()
    if newest is not None:
        clock.remembers(newest)
    rate = RateLimit(config.neon.requests_per_minute, stop)
    neon = new_neon(config, clock, rate, stop)
    engine = Engine(setup_of(config, neon), store, clock, tell, stop)
    rounds = Rounds(engine, store, clock, tell)
    assembly: Assembly

    def receivers() -> Mapping[str, Receiver]:
        current = assembly.config
        return {name: cast(Receiver, current.sinks[name]) for name in current.notify}

    notifier = Notifier(store, receivers, event_body, tell)
    assembly = Assembly(config, stop, store, clock, rate, neon, engine, rounds, notifier)
    engine.start()
    return assembly


def new_neon(config: Config, clock: NeonClock, rate: RateLimit, stop: threading.Event) -> Neon:
    """The adapter to Neon that the configuration describes."""
    return Neon(config.neon.api_url, config.neon.api_key, clock, rate, stop)


def setup_of(config: Config, neon: Neon) -> Setup:
    """What the engine acts on."""
    return Setup(
        provider=neon,
        policies=config.policies,
        sinks=config.sinks,
        unused=UnusedRule(config.unused_keys.after, tuple(config.unused_keys.ignore)),
        api_key_id=config.neon.api_key_id,
    )
