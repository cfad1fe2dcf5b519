"""Simulated time: one line of events, nobody sleeps.

`seconds` is Neon's true time, `since_boot` what the machine has counted: it stands still while a virtual machine
is frozen. `monotonic`, as Linux has it, also stands still while the machine sleeps. `advance` lets time pass, and
whatever others do meanwhile (consumers, people, requests that arrive late) happens at its own moment, also in the
middle of a call of the product.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)
_LOOK = 1e-5


class Pace:
    """Time, and what happens in the world at which moment."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept = 0.0
        self.frozen = 0.0
        self.local_error = 0.0
        self._waiting: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0

    def since_boot(self) -> float:
        """The machine's clock, a little later at every look: no two things happen at one instant."""
        self.seconds += _LOOK
        return self.seconds - self.frozen

    def monotonic(self) -> float:
        """The clock that does not run while the machine sleeps."""
        return self.since_boot() - self.slept

    def local(self) -> datetime:
        """The machine's wall clock, which is wrong."""
        return START + timedelta(seconds=self.seconds + self.local_error)

    def now(self) -> datetime:
        """Neon's true time."""
        return START + timedelta(seconds=self.seconds)

    def at(self, seconds: float, what: Callable[[], object]) -> None:
        """Let something happen at a moment."""
        self._number += 1
        heapq.heappush(self._waiting, (seconds, self._number, what))

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        """Let something happen so much later."""
        self.at(self.seconds + seconds, what)

    def next_at(self) -> float:
        """When something happens next."""
        return self._waiting[0][0] if self._waiting else float("inf")

    def advance_to(self, moment: float) -> None:
        """Let time pass until then, with all that happens meanwhile."""
        while self._waiting and self._waiting[0][0] <= moment:
            at, _, what = heapq.heappop(self._waiting)
            self.seconds = max(self.seconds, at)
            what()
        self.seconds = max(self.seconds, moment)

    def advance(self, seconds: float) -> None:
        self.advance_to(self.seconds + seconds)


class Stop(threading.Event):
    """A stop event on which nobody waits for real: waiting lets simulated time pass."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def wait(self, timeout: float | None = None) -> bool:
        self._pace.advance(max(timeout or 0.0, 0.001))
        return self.is_set()


def whole(moment: datetime) -> datetime:
    """As Neon writes times: without a fraction."""
    return moment.replace(microsecond=0)
