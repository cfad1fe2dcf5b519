"""From the intent to a key that a record knows: created, lost, found again, adopted. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from rotator.model import (
    CLOSED_NAME_KEPT,
    Check,
    ClosedName,
    Event,
    Every,
    Generation,
    Intent,
    Key,
    Offer,
    OrderKind,
    Orphan,
    Policy,
    Record,
    Rotation,
    Scope,
)
from rotator.standing import find
from rotator.transitions.change import (
    Change,
    condemned_at_live,
    event_of,
    failed_again,
    failure_is_news,
    lost_one,
    with_retiring,
    without,
)


def intend(record: Record, policy: Policy, name: str, why: str, urgent: bool, now: datetime) -> Change:
    """Neon is about to be asked for a key of this name. Ends the orders to rotate."""
    number = record.next_generation
    orders = [order for order in record.orders if order.kind is OrderKind.ROTATE]
    leaked = any(order.leaked for order in orders)
    begun = record.rotation or Rotation(since=now, why=why)
    changed = replace(
        record,
        next_generation=number + 1,
        intent=Intent(name=name, generation=number, scope=policy.scope, at=now),
        rotation=replace(begun, urgent=begun.urgent or urgent, ordered=begun.ordered or bool(orders)),
        generations=tuple(condemned_at_live(g) if leaked else g for g in record.generations),
        closed=tuple(closed for closed in record.closed if now - closed.closed_at < CLOSED_NAME_KEPT),
        gone={} if orders else record.gone,
    )
    event = Event("key.intended", why, record.policy, number, key_name=name)
    return Change(changed, (event,), tuple(order.id for order in orders))


def created(record: Record, key: Key, fingerprint: str, now: datetime) -> Change:
    """Neon answered with the key of the open intent."""
    intent = record.intent
    assert intent is not None  # noqa: S101 - the engine commits an intent before it asks
    generation = Generation(
        number=intent.generation,
        key_id=key.id,
        name=intent.name,
        scope=intent.scope,
        created_at=key.created_at,
        recorded_at=now,
        fingerprint=fingerprint,
    )
    changed = replace(record, intent=None, failure=None, generations=(*record.generations, generation))
    return Change(changed, (event_of("key.created", f"Neon created {intent.name}", record, generation),))


def not_created(record: Record, why: str, lot: float, retry_after: timedelta | None, now: datetime) -> Change:
    """Nothing was created, for certain: the sinks were not ready, or Neon refused. Ends an open intent."""
    failed = failed_again(record, why, lot, retry_after, now)
    number = record.intent.generation if record.intent else None
    name = record.intent.name if record.intent else None
    notify = failure_is_news(record, now)
    changed = replace(
        record,
        intent=None,
        failure=failed,
        failure_notified_at=now if notify else record.failure_notified_at,
    )
    return Change(changed, (Event("rotation.failed", why, record.policy, number, key_name=name, notify=notify),))


def outcome_unknown(record: Record, why: str, ended_at: datetime) -> Change:
    """Neon's answer to the open intent was lost; the call ended at `ended_at`."""
    intent = record.intent
    assert intent is not None  # noqa: S101 - see `created`
    notify = failure_is_news(record, ended_at)
    changed = replace(
        record,
        intent=replace(intent, ended_at=ended_at),
        failure_notified_at=ended_at if notify else record.failure_notified_at,
    )
    event = Event("rotation.failed", why, record.policy, intent.generation, key_name=intent.name, notify=notify)
    return Change(changed, (event,))


def close_intent(record: Record, key: Key | None, why: str, now: datetime) -> Change:
    """The list told what became of the open intent: an orphan, or nothing."""
    intent = record.intent
    assert intent is not None  # noqa: S101 - only decided while an intent is open
    changed = lost_one(replace(record, intent=None), now)
    if key is None:
        closed = ClosedName(intent.name, intent.scope, intent.at, now, intent.generation)
        changed = replace(changed, closed=(*changed.closed, closed))
        event = Event("intent.closed", why, record.policy, intent.generation, key_name=intent.name)
        return Change(changed, (event,))
    orphan = _orphan(intent.generation, key, intent.scope, why, now)
    changed = replace(changed, generations=(*changed.generations, orphan))
    return Change(changed, (event_of("key.orphaned", why, record, orphan),))


def recover(record: Record, key: Key, why: str, now: datetime) -> Change:
    """A key turned up under a remembered name: an orphan. Sinks may have had a later key since they were offered it."""
    closed = next(c for c in record.closed if c.key_id == key.id or (c.key_id is None and c.name == key.name))
    later = [g.receipts for g in record.generations if g.number > closed.generation]
    superseded = dict(closed.superseded)
    for target in closed.offered:
        receipts = [receipts[target] for receipts in later if target in receipts]
        since = [at for at in receipts if closed.live_since is None or at >= closed.live_since]
        if since:
            superseded.setdefault(target, min(since))
    orphan = replace(
        _orphan(closed.generation, key, closed.scope, why, now),
        offers={target: Offer(at=closed.closed_at) for target in closed.offered},
        superseded=superseded,
        condemned=closed.condemned,
    )
    changed = replace(
        record,
        generations=(*record.generations, orphan),
        closed=tuple(c for c in record.closed if c is not closed),
    )
    return Change(changed, (event_of("key.orphaned", why, record, orphan),))


def _orphan(number: int, key: Key, scope: Scope, why: str, now: datetime) -> Generation:
    return Generation(
        number=number,
        key_id=key.id,
        name=key.name,
        scope=scope,
        created_at=key.created_at,
        recorded_at=now,
        orphan=Orphan(now, why),
    )


def hand_over(record: Record, key_id: int, to: str) -> Change | None:
    """Another policy adopts a key of this one, which is no longer configured."""
    if all(generation.key_id != key_id for generation in record.generations):
        return None
    generation = find(record, key_id)
    why = f"policy {to} adopts {generation.name}"
    return Change(without(record, key_id), (event_of("key.handed_over", why, record, generation),))


def stand_in(name: str) -> Policy:
    """A policy in the place of one that is not configured any more: it delivers to nobody."""
    return Policy(name=name, rotate=Every(timedelta(days=3650)), deliver_to=())


def adopt(record: Record, policy: Policy, key: Key, why: str, now: datetime) -> Change:
    """The policy takes over a key that was there before. It is live from the start."""
    known = any(generation.key_id == key.id for generation in record.generations)
    changed = replace(record, adopted=(*record.adopted, key.id))
    if known:
        return Change(changed)
    generation = Generation(
        number=0,
        key_id=key.id,
        name=key.name,
        scope=policy.scope,
        created_at=key.created_at,
        recorded_at=now,
        adopted=True,
        check=Check.PASSED,
        excused=tuple(sink.target for sink in policy.deliver_to),
        live_since=now,
        last_used_at=key.last_used_at,
        last_used_from=key.last_used_from,
    )
    changed = with_retiring(replace(changed, generations=(*changed.generations, generation)), now)
    return Change(changed, (event_of("key.adopted", why, record, generation),))
