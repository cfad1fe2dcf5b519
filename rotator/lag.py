"""How far Neon's `last_used_at` lags behind, measured on our own key. Pure.

How soon a use shows in the list is documented nowhere. But this program knows when it used its own key, and
sees in every list how Neon reports that. The oldest of our calls that the list does not show yet says how
far the list lags: zero in good times; without end when the field is frozen. Only a key that is known for
certain to be ours is measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.standing import WHOLE_SECOND

_KEPT = 50


@dataclass(frozen=True)
class Unseen:
    """Our own calls that no list has shown yet, oldest first; beyond some number the oldest and the newest."""

    calls: tuple[datetime, ...] = ()


def follow(before: Unseen, calls: Iterable[datetime], shown: datetime | None, asked_at: datetime) -> Unseen:
    """What is still unseen after a list.

    `calls` are times of calls with our own key, `shown` the `last_used_at` of that key in the list, which
    was asked for at `asked_at`. The request for the list itself, and calls since, are not expected in it.
    """
    known = {*before.calls, *calls}
    late = sorted(at for at in known if at < asked_at and (shown is None or at > shown + WHOLE_SECOND))
    if len(late) > _KEPT:
        late = [*late[: _KEPT // 2], *late[-_KEPT // 2 :]]
    return Unseen(tuple(late))


def lag_of(unseen: Unseen, asked_at: datetime) -> timedelta:
    """How far the list that was asked for at `asked_at` lagged at the least."""
    return asked_at - unseen.calls[0] if unseen.calls else timedelta(0)
