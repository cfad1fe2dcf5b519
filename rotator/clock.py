"""Neon's clock, as far as it can be known here: the `Date` of its answers, carried on by monotonic time.

The machine's own clock may be wrong by hours and may be set while the service runs; key times in
Neon's list are Neon's. So every time that is recorded or compared is taken from this clock.

**What an answer tells.** `Date` is cut to whole seconds. An answer with `Date` d, asked for at the
monotonic time s and received at r, was made in between, at a moment in [d, d + 1 s). The offset of
Neon's time against monotonic time is therefore at least d - r and less than d + 1 s - s. The estimate is
the largest lower bound heard so far: it can only be behind, by less than a second and the time an
answer takes, and every further answer improves it. It never goes back by answers that agree.

**Answers that do not agree.** Neon has many machines, whose clocks differ a little, and monotonic time is
not perfect. So up to two seconds (the whole second, and one more) are nobody's fault.
- Ahead of the estimate by at most 5 minutes: followed at once.
- Behind it by more than 2 seconds, at most 5 minutes: followed at once, but no further than the answer
  demands, that is to its `Date` and 2 s; so `now()` goes back by the excess only.
- More than 5 minutes off, in either direction (a machine that slept, a clock that was set, a foreign
  answer): a *jump*. `distrust` says so, and `now()` goes on by the old estimate. Two more answers in a
  row that agree with the new time make it the estimate; two in a row that agree with the old one end
  the doubt; an answer that agrees with neither starts the doubt anew.
- `Date` older than the newest time in the state: the same doubt. There is no older estimate of
  Neon's time to keep then, so `now()` follows the answers, distrusted until two more agree.

After a step ahead `misdated` tells which times had been told too early: those of a virtual machine that was frozen,
and had not heard of Neon since.

Monotonic time is counted since the machine was started, where the system has such a clock: the usual one stands
still while the machine sleeps, and a list from before would pass for a fresh one after it woke.

Before the first answer `now()` is the machine's own clock, which is dropped for good with that answer,
however far off it was: it never was Neon's time, so changing over is no jump.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from rotator.model import Misdated

JUMP = timedelta(minutes=5)
TOLERANCE = timedelta(seconds=2)
AGREEING = 2
_STEPS_KEPT = 100

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def since_boot() -> float:
    """Seconds since the machine was started, sleep included; the same for all its processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _local() -> datetime:
    return datetime.now(UTC)


class NeonClock:
    """Neon's time. Every method may be called from any thread."""

    def __init__(self, monotonic: Callable[[], float] = since_boot, local: Callable[[], datetime] = _local) -> None:
        self.monotonic = monotonic
        self._local = local
        self._lock = threading.Lock()
        self._offset: timedelta | None = None  # Neon's time, since 1970, less monotonic time
        self._newest: datetime | None = None
        self._distrust = ""
        self._rival: timedelta | None = None  # the offset that competes with the estimate
        self._for_rival = 0
        self._for_estimate = 0
        self._agreed = 0.0  # the monotonic time of the last answer that agreed with the estimate
        self._misdated: tuple[Misdated, ...] = ()

    def now(self) -> datetime:
        """Neon's time, at most about a second behind it. Aware UTC."""
        with self._lock:
            return self._now()

    def skew(self) -> timedelta | None:
        """How far this machine's clock is ahead of Neon's; None before the first answer."""
        with self._lock:
            return None if self._offset is None else self._local() - self._now()

    @property
    def distrust(self) -> str:
        """Why the time is not to be relied on for anything that cannot be undone, or empty."""
        with self._lock:
            return self._distrust

    @property
    def misdated(self) -> tuple[Misdated, ...]:
        """Which times were told too early before Neon's answers showed that it is later, the oldest first."""
        with self._lock:
            return self._misdated

    def remembers(self, newest: datetime) -> None:
        """Tell the newest time that the state has recorded, once at start."""
        with self._lock:
            self._newest = newest
            if self._offset is not None:
                self._doubt_if_older(self._now(), self._offset)

    def heard(self, date: datetime, at: float, sent: float | None = None) -> None:
        """Take in the `Date` of an answer received at the monotonic time `at`, to a request sent at `sent`."""
        since_1970 = date - _EPOCH
        least = since_1970 - timedelta(seconds=at)
        most = since_1970 - timedelta(seconds=at if sent is None else sent) + TOLERANCE
        with self._lock:
            offset = self._offset
            if offset is None:
                self._offset, self._agreed = least, at
                self._doubt_if_older(date, least)
            elif self._rival is not None:
                self._weigh(offset, self._rival, least, most)
            elif least - offset > JUMP or offset - most > JUMP:
                self._doubt(least, _jump_of(least - offset))
            else:
                if least - offset > TOLERANCE:
                    self._was_behind(offset, least)
                self._offset, self._agreed = min(max(offset, least), most), at

    def _now(self) -> datetime:
        if self._offset is None:
            return self._local()
        return _EPOCH + self._offset + timedelta(seconds=self.monotonic())

    def _doubt(self, rival: timedelta, why: str) -> None:
        self._distrust, self._rival = why, rival
        self._for_rival = self._for_estimate = 0

    def _doubt_if_older(self, date: datetime, offset: timedelta) -> None:
        """The first answer against the state: the estimate is its own rival, there being no other."""
        if self._newest is not None and date + TOLERANCE < self._newest:
            self._doubt(
                offset,
                f"Neon's clock says {date:%Y-%m-%dT%H:%M:%SZ}, earlier than the newest time recorded, "
                f"{self._newest:%Y-%m-%dT%H:%M:%SZ}; nothing is revoked until two more answers agree",
            )

    def _weigh(self, offset: timedelta, rival: timedelta, least: timedelta, most: timedelta) -> None:
        """One more answer while in doubt: for the estimate, for its rival, or for neither."""
        if _agrees(rival, least, most):
            self._rival = max(rival, least)
            self._for_rival, self._for_estimate = self._for_rival + 1, 0
            if self._for_rival == AGREEING:
                self._follow(offset, self._rival)
        elif _agrees(offset, least, most):
            self._offset = max(offset, least)
            self._for_rival, self._for_estimate = 0, self._for_estimate + 1
            if self._for_estimate == AGREEING:
                self._rival, self._distrust = None, ""
        else:
            self._doubt(least, _jump_of(least - offset))

    def _follow(self, offset: timedelta, rival: timedelta) -> None:
        """The jump is real."""
        if rival > offset:
            self._was_behind(offset, rival)
        self._offset, self._rival, self._distrust = rival, None, ""

    def _was_behind(self, offset: timedelta, right: timedelta) -> None:
        """The machine may have been frozen, and all its clocks, at any time since the answer that agreed last: what was
        dated since then was later by up to as much."""
        since, until = (_EPOCH + offset + timedelta(seconds=at) for at in (self._agreed, self.monotonic()))
        self._misdated = (*self._misdated, Misdated(since, until, until + right - offset))[-_STEPS_KEPT:]


def carried_on(told: datetime, at: float, since_boot: float) -> datetime:
    """Neon's time, by what it was `at` that time since the boot; as it was then, if the machine was started again."""
    return told + timedelta(seconds=max(0.0, since_boot - at))


def _agrees(offset: timedelta, least: timedelta, most: timedelta) -> bool:
    return least - TOLERANCE <= offset <= most


def _jump_of(by: timedelta) -> str:
    seconds = abs(round(by.total_seconds()))
    direction = "ahead" if by > timedelta(0) else "back"
    return f"Neon's clock jumped {seconds} s {direction}; nothing is revoked until two more answers agree"
