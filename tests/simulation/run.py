"""Many worlds, one after the other: what `python -m tests.simulation` does, and the short run of the test suite."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

from .troubles import Troubles, drawn
from .truth import Violation
from .world import World

YEAR = 365.25 * 24 * 3600
TOLD = 60


@dataclass
class Tally:
    """What many worlds came to. `violation` is the first that was found, with how to repeat it."""

    worlds: int = 0
    steps: int = 0
    seconds: float = 0.0
    created: int = 0
    revoked: int = 0
    deaths: int = 0
    calls: int = 0
    failed: int = 0
    failed_healthy: int = 0
    troubles: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, world: World) -> None:
        self.worlds += 1
        self.steps += world.service.steps
        self.seconds += world.pace.seconds
        made = [key for key in world.account.keys.values() if key.by_product]
        self.created += len(made)
        self.revoked += sum(1 for key in made if key.death in ("revoked", "ordered") and not key.alive)
        self.deaths += world.service.restarts
        self.calls += world.judge.consumer_calls
        self.failed += world.judge.failed_calls
        self.failed_healthy += world.judge.failed_healthy
        self.troubles.update(world.troubles.struck)

    def join(self, other: Tally) -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                setattr(self, name, mine + value)


def live_through(seed: int, tally: Tally) -> World:
    """One world from a seed. What was violated is in the tally, with the end of the story."""
    world = World(seed, Troubles(drawn(random.Random(f"troubles {seed}"))))
    try:
        world.run()
    except Violation as violation:
        story = "\n".join(list(world.story)[-TOLD:])
        tally.violations.append(f"{story}\n{violation}\nrepeat: python -m tests.simulation --seed {seed} --worlds 1")
    tally.add(world)
    return world


def run(seed: int, *, steps: int | None = None, worlds: int | None = None, until: float = float("inf")) -> Tally:
    """Worlds from this seed on, until so many steps or worlds, the first violation, or a moment of `time.monotonic`."""
    tally = Tally()
    while (steps is None or tally.steps < steps) and (worlds is None or tally.worlds < worlds):
        live_through(seed, tally)
        seed += 1
        if tally.violations or time.monotonic() > until:
            break
    return tally
