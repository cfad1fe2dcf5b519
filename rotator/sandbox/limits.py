"""The documented rate limits, as sliding windows over the requests that were let through.

700 requests a minute per account, 40 a second per route, 10 a second for creating organization keys. A
request over a limit is not counted, so that a caller who slows down is served again at once. Time is given
by the caller, in seconds of a clock that does not go back.
"""

from __future__ import annotations

from collections import deque

PER_ACCOUNT = (700, 60.0)
PER_ROUTE = (40, 1.0)
CREATING_ORGANIZATION_KEYS = (10, 1.0)


class RateLimits:
    """Counts requests per account. Not safe to call from two threads at once: `Sandbox` locks."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], deque[float]] = {}

    def admit(self, account: str, route: str, at: float, *, creates_organization_key: bool = False) -> bool:
        """Whether a request at this moment stays within every limit; counted if it does."""
        limits = {"": PER_ACCOUNT, route: PER_ROUTE}
        if creates_organization_key:
            limits["creating"] = CREATING_ORGANIZATION_KEYS
        windows = [(self._window(account, name, span, at), most) for name, (most, span) in limits.items()]
        if any(len(window) >= most for window, most in windows):
            return False
        for window, _ in windows:
            window.append(at)
        return True

    def _window(self, account: str, name: str, span: float, at: float) -> deque[float]:
        window = self._windows.setdefault((account, name), deque())
        while window and window[0] <= at - span:
            window.popleft()
        return window
