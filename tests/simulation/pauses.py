"""I9: whatever failed is tried again after a pause that grows, and requests keep to their rate."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from datetime import timedelta

from rotator.model import Event

from .tolerance import Tolerance
from .truth import Surroundings, Violation

What = tuple[str, int | str, str]  # create, deliver or revoke; the line or key; the place or empty
_A_MINUTE = 60.0
_LONGEST_PAUSE, _LONGEST_ASKED = 900.0, 3600.0


@dataclass
class _Attempts:
    """Attempts at one thing that failed in a row."""

    failures: int = 0
    ended: float = 0.0
    asked: float = 0.0


class Pauses:
    """Raises Violation."""

    def __init__(self, world: Surroundings, tolerance: Tolerance) -> None:
        self._world = world
        self._pace = world.account.pace
        self._tolerance = tolerance
        self._attempts: dict[What, _Attempts] = {}
        self._unrecorded: dict[What, _Attempts] = {}
        self._requests: deque[float] = deque()

    def requested(self) -> None:
        """A request leaves for Neon."""
        now, requests = self._pace.monotonic(), self._requests
        requests.append(now)
        while requests[0] <= now - _A_MINUTE:
            requests.popleft()
        if len(requests) > self._world.requests_per_minute:
            raise Violation(
                "I9", f"{len(requests)} requests in a minute, {self._world.requests_per_minute} are allowed"
            )

    def attempt(self, what: What, says: str) -> None:
        """It is tried: the pause must be over."""
        attempts = self._attempts.get(what)
        if attempts is None or not attempts.failures:
            return
        pause = 0.5 * min(2.0 * 2.0 ** min(attempts.failures - 1, 20), _LONGEST_PAUSE)
        least = max(pause, min(attempts.asked, _LONGEST_ASKED))
        waited = self._pace.seconds - attempts.ended
        if self._tolerance.is_too_early(waited, least, attempts.ended):
            raise Violation(
                "I9", f"{says} {waited:.1f} s after failure {attempts.failures}, which asks for {least:.1f} s"
            )

    def failed(self, what: What, asked: timedelta | None) -> None:
        """An attempt failed for certain."""
        self._tolerance.written_by_which_clock()
        attempts = self._attempts.setdefault(what, _Attempts())
        self._unrecorded.setdefault(what, replace(attempts))
        attempts.failures, attempts.ended = attempts.failures + 1, self._pace.seconds
        attempts.asked = asked.total_seconds() if asked else 0.0

    def succeeded(self, what: What) -> None:
        """It worked, or begins anew."""
        self._attempts.pop(what, None)

    def failed_at(self, what: What) -> float | None:
        """When the last attempt failed."""
        return self._attempts[what].ended if what in self._attempts else None

    def recorded(self, event: Event, line: int | None) -> None:
        """A failure stands in the history: a process that comes after knows of it."""
        told = {("revoke", event.key_id), ("deliver", event.key_id), ("create", line)}
        self._unrecorded = {what: before for what, before in self._unrecorded.items() if what[:2] not in told}

    def retry_now(self) -> None:
        """The configuration was loaded again: everything may be tried at once."""
        for attempts in self._attempts.values():
            attempts.ended = attempts.asked = float("-inf")

    def died(self) -> None:
        """The process ended: whether a key was revoked is looked up at once by the next one."""
        for (kind, _, _), attempts in self._attempts.items():
            if kind == "revoke":
                attempts.ended = attempts.asked = float("-inf")

    def restarted(self) -> None:
        """A new process has a rate limit of its own, so a new burst, and knows of no failure that was not recorded."""
        self._requests.clear()
        self._attempts |= self._unrecorded
        self._unrecorded.clear()
