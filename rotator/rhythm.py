"""How a key is normally used, and who still uses an old one: what the samples of its use say. Pure.

Neon shows only the last use of a key, so a sample is kept whenever that has changed at a poll. Uses between
two polls are not seen: a gap is known to the interval of the polls, and a key that is used all the time
seems to be used once a poll.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from rotator.words import listed, span


@dataclass(frozen=True)
class Sample:
    """One use of a key: when and from where it was, as Neon showed it. The client's address comes first."""

    key_id: int
    used_at: datetime
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rhythm:
    """The usual time between two uses, how many such gaps stand behind it, and the last use."""

    usual_gap: timedelta
    gaps: int
    last_used_at: datetime


def rhythm(samples: Sequence[Sample]) -> Rhythm | None:
    """The median gap between the uses that were seen; None for fewer than two."""
    times = sorted({sample.used_at for sample in samples})
    gaps = [later - earlier for earlier, later in pairwise(times)]
    if not gaps:
        return None
    return Rhythm(timedelta(seconds=median(gap.total_seconds() for gap in gaps)), len(gaps), times[-1])


def rhythm_words(samples: Sequence[Sample], now: datetime) -> str:
    """`used about every 7d (12 gaps were seen); silent for 3d`, or an empty string."""
    found = rhythm(samples)
    if found is None:
        return ""
    counted = "1 gap was seen" if found.gaps == 1 else f"{found.gaps} gaps were seen"
    return f"used about every {span(found.usual_gap)} ({counted}); silent for {span(now - found.last_used_at)}"


@dataclass(frozen=True)
class Movers:
    """Client addresses that used the old key: those that use the new one since, and those that do not yet."""

    moved: tuple[str, ...]
    staying: tuple[str, ...]


def movers(old: Sequence[Sample], new: Sequence[Sample]) -> Movers:
    """Who of the old key's users has moved: an address whose newest use is one of the new key."""
    last_old, last_new = _newest_by_client(old), _newest_by_client(new)
    moved = {address for address, at in last_old.items() if address in last_new and last_new[address] >= at}
    return Movers(tuple(sorted(moved)), tuple(sorted(last_old.keys() - moved)))


def mover_words(old: Sequence[Sample], new: Sequence[Sample]) -> str:
    """Who has moved and who has not, or an empty string if no address is known."""
    found = movers(old, new)
    parts = []
    if found.moved:
        parts.append(f"{listed(found.moved)} {_has(found.moved)} moved to the new key")
    if found.staying:
        parts.append(f"{listed(found.staying)} {_has(found.staying)} not been seen with the new key yet")
    return "; ".join(parts)


def _has(addresses: Sequence[str]) -> str:
    return "has" if len(addresses) == 1 else "have"


def _newest_by_client(samples: Sequence[Sample]) -> dict[str, datetime]:
    newest: dict[str, datetime] = {}
    for sample in samples:
        for address in sample.addresses[:1]:
            newest[address] = max(newest.get(address, sample.used_at), sample.used_at)
    return newest
