"""What every transition is made of: the change that it comes to, its pauses, and small edits of a record. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.model import Condemned, Event, Failure, Generation, OrderKind, Record
from rotator.standing import live

_FIRST_PAUSE = timedelta(seconds=2)
_LONGEST_PAUSE = timedelta(minutes=15)
_LONGEST_RETRY_AFTER = timedelta(hours=1)
_FIRST_LOST_PAUSE = timedelta(minutes=1)
_LONGEST_LOST_PAUSE = timedelta(hours=6)
_NOTIFY_AGAIN = timedelta(days=1)


@dataclass(frozen=True)
class Change:
    """What a transition comes to: the record from now on, what to tell, and the orders that end with it."""

    record: Record
    events: tuple[Event, ...] = ()
    closed_orders: tuple[int, ...] = ()


def pause_after(failures: int, lot: float) -> timedelta:
    """The pause after this many failures in a row: 2 s, doubled, at most 15 min, of which half is drawn."""
    longest = min(_FIRST_PAUSE * float(2 ** min(failures - 1, 20)), _LONGEST_PAUSE)
    return longest * (0.5 + 0.5 * lot)


def failed_again(record: Record, why: str, lot: float, retry_after: timedelta | None, now: datetime) -> Failure:
    """One failure in a row more, with the time of the next attempt."""
    count = record.failure.count + 1 if record.failure else 1
    since = record.failure.since if record.failure else now
    order = max((o.id for o in record.orders if o.kind is OrderKind.ROTATE), default=None)
    return Failure(count, since, now, why, now + pause_asked(count, lot, retry_after), order)


def pause_asked(failures: int, lot: float, retry_after: timedelta | None) -> timedelta:
    """The pause after this many failures in a row, at least what the other side asked for, up to an hour."""
    return max(pause_after(failures, lot), min(retry_after or timedelta(0), _LONGEST_RETRY_AFTER))


def failure_is_news(record: Record, now: datetime) -> bool:
    """Whether a failure is to be notified: the first of them, then one a day."""
    return record.failure_notified_at is None or now - record.failure_notified_at >= _NOTIFY_AGAIN


def lost_one(record: Record, now: datetime) -> Record:
    """One more key was lost before it went live: the next is made at once the first time, then later and later."""
    lost = record.lost + 1
    if lost == 1:
        return replace(record, lost=lost, lost_retry_at=None)
    pause = min(_FIRST_LOST_PAUSE * float(2 ** min(lost - 2, 20)), _LONGEST_LOST_PAUSE)
    return replace(record, lost=lost, lost_retry_at=now + pause)


def with_changed(record: Record, generation: Generation) -> Record:
    """The record with this generation in the place of the one with its key."""
    return replace(
        record,
        generations=tuple(generation if g.key_id == generation.key_id else g for g in record.generations),
    )


def without(record: Record, key_id: int) -> Record:
    """The record without the generation of this key."""
    return replace(record, generations=tuple(g for g in record.generations if g.key_id != key_id))


def event_of(name: str, why: str, record: Record, generation: Generation) -> Event:
    """An event about a generation of this record."""
    return Event(name, why, record.policy, generation.number, generation.key_id, generation.name)


def with_retiring(record: Record, now: datetime) -> Record:
    """The record in which every live key but the newest is retiring, at the latest since now."""
    newest = live(record)  # of those that were not replaced before
    return replace(
        record,
        generations=tuple(
            replace(g, retiring_since=now) if g.live_since and g is not newest and g.retiring_since is None else g
            for g in record.generations
        ),
    )


def condemned_at_live(generation: Generation) -> Generation:
    """To be revoked as soon as another key is live."""
    return generation if generation.condemned else replace(generation, condemned=Condemned.AT_LIVE)


def condemned_now(generation: Generation) -> Generation:
    """To be revoked at once."""
    return replace(generation, condemned=Condemned.NOW)
