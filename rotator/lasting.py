"""A trouble that lasts: told at first, when its reason changes, every hour, and when it is over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from rotator.model import Event

_AGAIN = timedelta(hours=1)


class Lasting:
    """Tells `begun` of each thing in trouble, and `over` when it is in trouble no more."""

    def __init__(self, tell: Callable[[Event], None], begun: str, over: str) -> None:
        self._tell = tell
        self._begun = begun
        self._over = over
        self._told: dict[str, tuple[str, datetime]] = {}

    def lasts(self, what: str, why: str, now: datetime) -> None:
        """It is so, now and perhaps since long."""
        reason, at = self._told.get(what, ("", now))
        if why != reason or abs(now - at) >= _AGAIN:
            self._told[what] = (why, now)
            self._tell(Event(self._begun, why))

    def ends(self, what: str, why: str) -> None:
        """It is not so, perhaps never was."""
        if self._told.pop(what, None) is not None:
            self._tell(Event(self._over, why))
