"""When a policy's rotation is due and when its window is open. Pure: the clock is an argument.

Fire times and windows are computed in the policy's time zone and answered in UTC. Jitter is a fixed
share of the policy's `jitter`, drawn from its name, so that a restart does not draw again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

from rotator.model import Every, Policy, Window

_DAYS_LOOKED_AHEAD = 15  # a weekly opening may fall into the hour that summer time skips, so two weeks


def share(name: str) -> float:
    """A policy's fixed share of its jitter, in [0, 1)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def due_at(policy: Policy, created_at: datetime) -> datetime:
    """When the key that was created at `created_at` is to be replaced."""
    if isinstance(policy.rotate, Every):
        return created_at + policy.rotate.interval + policy.jitter * share(policy.name)
    local = created_at.astimezone(ZoneInfo(policy.rotate.timezone))
    return next(CronSim(policy.rotate.expression, local)).astimezone(UTC)


def window_is_open(window: Window | None, now: datetime) -> bool:
    """Whether creations, first offers and revocations may happen now."""
    return window is None or any(start <= now < end for start, end in _openings(window, now))


def window_opens(window: Window, now: datetime) -> datetime:
    """When a window that is closed now opens next."""
    return min(start for start, _ in _openings(window, now) if start > now)


def _openings(window: Window, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    zone = ZoneInfo(window.timezone)
    today = now.astimezone(zone).date()
    for ahead in range(-1, _DAYS_LOOKED_AHEAD + 1):
        day = today + timedelta(days=ahead)
        if day.weekday() not in window.days:
            continue
        last = day if window.start < window.end else day + timedelta(days=1)
        start = datetime.combine(day, window.start, zone).astimezone(UTC)
        end = datetime.combine(last, window.end, zone).astimezone(UTC)
        if start < end:  # a window may vanish in the hour that summer time skips
            yield start, end
