"""How often Neon is called: one bucket of tokens for all threads.

Neon counts the requests of an account, not of a thread, and refuses all of them past the limit, so
one limit stands before every call. It is kept as a single number, the time that the next token falls
due (the *generic cell rate algorithm*): a turn may be taken up to `burst` - 1 tokens early, and taking
it moves the due time on by one `interval`. From this follows what is promised: the turns n and n + k
are at least (k - burst + 1) intervals apart; with `interval` = 60 s / (per_minute - burst + 1) no 60
seconds, wherever they begin, see more than `per_minute` turns.

A turn is drawn under a lock and waited for outside it, so turns come in the order of the calls. The
bucket lives on a clock of its own that stands still during a pause: turns that were already drawn are
put off with everything else, and nobody rushes out together when the pause ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

from rotator.errors import TryLater

MOST_AT_ONCE = 20
STOPPING = "the service is stopping"
_ROUNDING = 1e-6  # a share of the interval, so that rounding never makes a window overfull


class RateLimit:
    """At most `per_minute` turns in any 60 seconds. Every method may be called from any thread."""

    def __init__(self, per_minute: int, stop: threading.Event, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.burst = max(1, min(MOST_AT_ONCE, per_minute // 10))
        self.interval = 60 / (per_minute - self.burst + 1) * (1 + _ROUNDING)
        self._stop = stop
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._due = 0.0  # in the bucket's own time, which is `_stood` at the monotonic time `_runs_from`
        self._stood = 0.0
        self._runs_from = monotonic()

    def acquire(self, patience: float | None = None) -> None:
        """Wait for a turn.

        Raises TryLater, and takes no turn, if it would come later than `patience` seconds from now;
        also when a pause puts it off that far, or the service stops.
        """
        with self._lock:
            called = self._monotonic()
            due = max(self._due, self._own_time(called))
            turn = due - (self.burst - 1) * self.interval
            self._check(turn, called, called, patience)
            self._due = due + self.interval
        while True:
            with self._lock:
                now = self._monotonic()
                self._check(turn, called, now, patience)
                wait = self._real_time(turn) - now
            if self._stop.is_set():
                raise TryLater(STOPPING)
            if wait <= 0:
                return
            self._stop.wait(wait)

    def pause(self, seconds: float) -> None:
        """Give nobody a turn for this long, whoever waits already included."""
        with self._lock:
            now = self._monotonic()
            self._stood, self._runs_from = self._own_time(now), max(self._runs_from, now + seconds)

    def _own_time(self, real: float) -> float:
        return self._stood + max(0.0, real - self._runs_from)

    def _real_time(self, own: float) -> float:
        """When the bucket's time will be `own`; at the earliest, when a pause that lasts is over."""
        return self._runs_from + max(0.0, own - self._stood)

    def _check(self, turn: float, called: float, now: float, patience: float | None) -> None:
        late = self._real_time(turn) - called
        if patience is None or late <= patience:
            return
        rest = timedelta(seconds=max(0.0, late - (now - called)))
        if now < self._runs_from:
            raise TryLater("Neon asked for a pause that is not over yet", retry_after=rest)
        raise TryLater(
            "the limit of requests to Neon is used up for now",
            "raise neon.requests_per_minute if this happens often; Neon allows 700",
            retry_after=rest,
        )
