"""From the check of a new key to the moment when it is live, or given up. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.errors import RotatorError, SinkGone, TryLater
from rotator.model import Check, Offer, Orphan, Record, SinkRef
from rotator.standing import find, order_of
from rotator.transitions.change import (
    Change,
    event_of,
    failure_is_news,
    lost_one,
    pause_asked,
    with_changed,
    with_retiring,
)


def checked(record: Record, key_id: int, outcome: Check, after: timedelta, now: datetime) -> Change:
    """Neon said whether it accepts the new key, so long `after` it was asked for the key.

    With Neon's own time of the creation that tells when it counts this use of ours, whatever our clock thought its
    time was meanwhile. Too early, and it is taken for somebody else's use; too late, and it hides one.
    """
    before = find(record, key_id)
    generation = replace(before, check=outcome, checked_at=before.created_at + after)
    if outcome is Check.PASSED:
        generation = replace(generation, seen_at=now)
    said = {
        Check.PASSED: f"Neon accepts {generation.name}",
        Check.REFUSED: f"Neon refuses {generation.name}",
    }.get(outcome, f"whether Neon accepts {generation.name} could not be found out; the rotation goes on")
    return Change(with_changed(record, generation), (event_of("key.checked", said, record, generation),))


def offer(record: Record, key_id: int, sink: SinkRef, why: str, now: datetime) -> Change:
    """A sink is about to be given the key."""
    generation = find(record, key_id)
    before = generation.offers.get(sink.target)
    attempt = replace(before, at=now, retry_at=None) if before else Offer(at=now)
    generation = replace(generation, offers={**generation.offers, sink.target: attempt})
    changed = replace(with_changed(record, generation), offered={**record.offered, sink.target: now + sink.pause})
    return Change(changed, (event_of("sink.offered", why, record, generation),))


def receipted(record: Record, key_id: int, sink: SinkRef, now: datetime) -> Change:
    """A sink confirmed that it has the key; earlier keys that it was offered are superseded there."""
    generation = find(record, key_id)
    target = sink.target
    done = replace(generation.offers[target], failures=0, retry_at=None, error=None)
    generation = replace(
        generation,
        receipts={**generation.receipts, target: now},
        offers={**generation.offers, target: done},
    )
    generations = tuple(
        replace(g, superseded={**g.superseded, target: now})
        if order_of(g) < order_of(generation) and target in g.offers and target not in g.superseded
        else g
        for g in with_changed(record, generation).generations
    )
    offered = {name: until for name, until in record.offered.items() if name != target}
    gone = {name: settings for name, settings in record.gone.items() if name != target}
    changed = replace(record, generations=generations, offered=offered, gone=gone)
    return Change(changed, (event_of("sink.receipted", f"sink {sink.name} has {generation.name}", record, generation),))


@dataclass(frozen=True)
class SinkFailure:
    """How a hand-off failed. `gone` when the sink wants no more keys."""

    why: str
    lot: float
    retry_after: timedelta | None = None
    gone: bool = False

    @classmethod
    def of(cls, error: RotatorError, lot: float) -> SinkFailure:
        """What a sink's exception says."""
        asked = error.retry_after if isinstance(error, TryLater) else None
        return cls(str(error), lot, asked, isinstance(error, SinkGone))


def offer_failed(record: Record, key_id: int, sink: SinkRef, failure: SinkFailure, now: datetime) -> Change:
    """A sink did not confirm; it may have the key all the same."""
    generation = find(record, key_id)
    before = generation.offers[sink.target]
    failures = before.failures + 1
    pause = pause_asked(failures, failure.lot, failure.retry_after)
    failed = replace(before, failures=failures, retry_at=now + pause, error=failure.why)
    generation = replace(generation, offers={**generation.offers, sink.target: failed})
    notify = failure_is_news(record, now)
    changed = replace(
        with_changed(record, generation),
        gone={**record.gone, sink.target: sink.settings} if failure.gone else record.gone,
        failure_notified_at=now if notify else record.failure_notified_at,
    )
    event = event_of("rotation.failed", f"sink {sink.name} did not take the key: {failure.why}", record, generation)
    return Change(changed, (replace(event, notify=notify),))


def abandon(record: Record, key_id: int, why: str, gone: bool, now: datetime) -> Change:
    """A key will never go live: its secret is lost, Neon refused it, or it is `gone` from Neon."""
    generation = replace(find(record, key_id), orphan=Orphan(now, why))
    changed = lost_one(with_changed(record, generation), now)
    if gone and generation.offers and changed.rotation is not None:
        changed = replace(changed, rotation=replace(changed.rotation, urgent=True))
    return Change(changed, (event_of("key.orphaned", why, record, generation),))


def go_live(record: Record, key_id: int, why: str, now: datetime) -> Change:
    """Every sink has the key. The live key before it starts retiring."""
    generation = replace(find(record, key_id), live_since=now)
    changed = with_retiring(with_changed(record, generation), now)
    changed = replace(
        changed, rotation=None, failure=None, failure_notified_at=None, lost=0, lost_retry_at=None, spent=()
    )
    return Change(changed, (replace(event_of("rotation.live", why, record, generation), notify=True),))
