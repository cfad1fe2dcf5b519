"""How far the product's times may be off without its fault.

Where it must rely on a clock that was told wrong, or that stood still, so much is tolerated.
"""

from __future__ import annotations

from bisect import bisect_left

from .truth import Surroundings

CLOCK = 4.0  # what whole seconds and Neon's many machines come to
WRONG_CLOCK = 2 * 300.0 + CLOCK  # a `Date` that is wrong by less than five minutes is followed
_AN_HOUR = 3600.0


class Tolerance:
    """Asked for a moment at which the product took a time, in seconds of the world."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._pace = world.account.pace
        self._heard: list[float] = []

    def heard(self) -> None:
        """An answer of Neon told the process the time."""
        self._heard.append(self._pace.seconds)

    def slack(self, *moments: float) -> float:
        """How far a time that was taken at one of these moments, or now, may be off. A wrong `Date` counts until
        other answers have come."""
        lasts = self._world.clock_mends_within
        moments = (*moments, self._pace.seconds)
        wrong = any(moment - lasts < at <= moment for at in self._world.wrong_dates for moment in moments)
        return WRONG_CLOCK if wrong else CLOCK

    def doubted(self, moment: float) -> bool:
        """Whether what was recorded then may have been by a clock that was behind, or is compared with one.

        A clock that stood still is behind until answers of Neon agree, of which it takes three, however long that is.
        """
        heard = self._heard[max(bisect_left(self._heard, moment) - 4, 0)] if self._heard else 0.0
        return any(at > min(moment, heard) - _AN_HOUR for at in self._world.doubts)

    def is_too_early(self, waited: float, least: float, since: float) -> bool:
        """Whether it was surely less than the least that must have passed since that moment."""
        return waited < least - self.slack(since) and not self.doubted(since)

    def written_by_which_clock(self) -> None:
        """Before Neon's first answer to a process its times are the machine's, which may be any."""
        if self._world.clock_is_local:
            self._world.doubts.append(self._pace.seconds)
