"""How a record changes when something was decided or happened, and what the history says of it. Pure.

Each function takes the record as it stands in the state and answers with a `Change`: the new record
and the events, which the store commits together. The engine never edits a record in any other way,
so everything that a death between two lines can leave behind is one of these records.

The argument `lot` is a random number in [0, 1), drawn by the engine; `now` is Neon's time.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.errors import RotatorError, SinkGone, TryLater
from rotator.model import (
    CLOSED_NAME_KEPT,
    Check,
    ClosedName,
    Condemned,
    Event,
    Every,
    Failure,
    Generation,
    Hindrance,
    Intent,
    Key,
    Offer,
    OrderKind,
    Orphan,
    Policy,
    Record,
    Revocation,
    Rotation,
    Scope,
    SinkRef,
)
from rotator.standing import find, live, order_of, unfinished

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


# Creating


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
        generations=tuple(_condemned_at_live(g) if leaked else g for g in record.generations),
        closed=tuple(closed for closed in record.closed if now - closed.closed_at < CLOSED_NAME_KEPT),
        gone={} if orders else record.gone,
    )
    event = Event("key.intended", why, record.policy, number, key_name=name)
    return Change(changed, (event,), tuple(order.id for order in orders))


def _condemned_at_live(generation: Generation) -> Generation:
    return generation if generation.condemned else replace(generation, condemned=Condemned.AT_LIVE)


def _condemned_now(generation: Generation) -> Generation:
    return replace(generation, condemned=Condemned.NOW)


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
    return Change(changed, (_event("key.created", f"Neon created {intent.name}", record, generation),))


def not_created(record: Record, why: str, lot: float, retry_after: timedelta | None, now: datetime) -> Change:
    """Nothing was created, for certain: the sinks were not ready, or Neon refused. Ends an open intent."""
    failed = _failed(record, why, lot, retry_after, now)
    number = record.intent.generation if record.intent else None
    name = record.intent.name if record.intent else None
    notify = _failure_is_news(record, now)
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
    notify = _failure_is_news(record, ended_at)
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
    changed = _lost_one(replace(record, intent=None), now)
    if key is None:
        closed = ClosedName(intent.name, intent.scope, intent.at, now, intent.generation)
        changed = replace(changed, closed=(*changed.closed, closed))
        event = Event("intent.closed", why, record.policy, intent.generation, key_name=intent.name)
        return Change(changed, (event,))
    orphan = _orphan(intent.generation, key, intent.scope, why, now)
    changed = replace(changed, generations=(*changed.generations, orphan))
    return Change(changed, (_event("key.orphaned", why, record, orphan),))


def recover(record: Record, key: Key, why: str, now: datetime) -> Change:
    """A key turned up under a remembered name: an orphan. Sinks may have had a later key since they were offered it."""
    closed = next(c for c in record.closed if c.key_id == key.id or (c.key_id is None and c.name == key.name))
    later = [g for g in record.generations if g.number > closed.generation]
    superseded = {
        target: min(g.receipts[target] for g in later if target in g.receipts)
        for target in closed.offered
        if any(target in g.receipts for g in later)
    }
    orphan = replace(
        _orphan(closed.generation, key, closed.scope, why, now),
        offers={target: Offer(at=closed.closed_at) for target in closed.offered},
        superseded=superseded,
    )
    changed = replace(
        record,
        generations=(*record.generations, orphan),
        closed=tuple(c for c in record.closed if c is not closed),
    )
    return Change(changed, (_event("key.orphaned", why, record, orphan),))


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
    return Change(_without(record, key_id), (_event("key.handed_over", why, record, generation),))


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
    changed = _with_retiring(replace(changed, generations=(*changed.generations, generation)), now)
    return Change(changed, (_event("key.adopted", why, record, generation),))


# Handing off


def checked(record: Record, key_id: int, outcome: Check, now: datetime) -> Change:
    """Neon said whether it accepts the new key.

    When that was must not be too early, or our own use would be taken for somebody else's: it was after the key was
    recorded, and if our clock was behind Neon's then, it may still be.
    """
    before = find(record, key_id)
    behind = max(before.created_at - before.recorded_at, timedelta(0))
    generation = replace(before, check=outcome, checked_at=max(now, before.recorded_at) + behind)
    if outcome is Check.PASSED:
        generation = replace(generation, seen_at=now)
    said = {
        Check.PASSED: f"Neon accepts {generation.name}",
        Check.REFUSED: f"Neon refuses {generation.name}",
    }.get(outcome, f"whether Neon accepts {generation.name} could not be found out; the rotation goes on")
    return Change(_with(record, generation), (_event("key.checked", said, record, generation),))


def offer(record: Record, key_id: int, sink: SinkRef, why: str, now: datetime) -> Change:
    """A sink is about to be given the key."""
    generation = find(record, key_id)
    before = generation.offers.get(sink.target)
    attempt = replace(before, at=now, retry_at=None) if before else Offer(at=now)
    generation = replace(generation, offers={**generation.offers, sink.target: attempt})
    changed = replace(_with(record, generation), offered={**record.offered, sink.target: now + sink.pause})
    return Change(changed, (_event("sink.offered", why, record, generation),))


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
        for g in _with(record, generation).generations
    )
    offered = {name: until for name, until in record.offered.items() if name != target}
    gone = {name: settings for name, settings in record.gone.items() if name != target}
    changed = replace(record, generations=generations, offered=offered, gone=gone)
    return Change(changed, (_event("sink.receipted", f"sink {sink.name} has {generation.name}", record, generation),))


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
    pause = _pause(failures, failure.lot, failure.retry_after)
    failed = replace(before, failures=failures, retry_at=now + pause, error=failure.why)
    generation = replace(generation, offers={**generation.offers, sink.target: failed})
    notify = _failure_is_news(record, now)
    changed = replace(
        _with(record, generation),
        gone={**record.gone, sink.target: sink.settings} if failure.gone else record.gone,
        failure_notified_at=now if notify else record.failure_notified_at,
    )
    event = _event("rotation.failed", f"sink {sink.name} did not take the key: {failure.why}", record, generation)
    return Change(changed, (replace(event, notify=notify),))


def abandon(record: Record, key_id: int, why: str, gone: bool, now: datetime) -> Change:
    """A key will never go live: its secret is lost, Neon refused it, or it is `gone` from Neon."""
    generation = replace(find(record, key_id), orphan=Orphan(now, why))
    changed = _lost_one(_with(record, generation), now)
    if gone and generation.offers and changed.rotation is not None:
        changed = replace(changed, rotation=replace(changed.rotation, urgent=True))
    return Change(changed, (_event("key.orphaned", why, record, generation),))


def go_live(record: Record, key_id: int, why: str, now: datetime) -> Change:
    """Every sink has the key. The live key before it starts retiring."""
    generation = replace(find(record, key_id), live_since=now)
    changed = _with_retiring(_with(record, generation), now)
    changed = replace(
        changed, rotation=None, failure=None, failure_notified_at=None, lost=0, lost_retry_at=None, spent=()
    )
    return Change(changed, (replace(_event("rotation.live", why, record, generation), notify=True),))


def _with_retiring(record: Record, now: datetime) -> Record:
    newest = live(record)  # of those that were not replaced before
    return replace(
        record,
        generations=tuple(
            replace(g, retiring_since=now) if g.live_since and g is not newest and g.retiring_since is None else g
            for g in record.generations
        ),
    )


# Revoking


def hold(record: Record, key_id: int, why: str, overdue: bool, now: datetime) -> Change:
    """Something speaks against revoking a key past its grace. Told at the start and when overdue."""
    before = find(record, key_id)
    generation = replace(before, held=Hindrance(before.held.since if before.held else now, why, overdue))
    changed = _with(record, generation)
    if overdue and not (before.held and before.held.overdue):
        event = replace(_event("revocation.overdue", why, record, generation), notify=True)
    elif before.held is None:
        event = replace(_event("revocation.held", why, record, generation), notify=True)
    else:
        return Change(changed)
    return Change(changed, (event,))


def release(record: Record, key_id: int, why: str) -> Change:
    """Nothing holds the key any longer."""
    generation = replace(find(record, key_id), held=None)
    return Change(_with(record, generation), (_event("revocation.released", why, record, generation),))


def revoking(record: Record, key_id: int, why: str, now: datetime) -> Change:
    """Neon is about to be asked to revoke the key."""
    before = find(record, key_id)
    asked = replace(before.revocation or Revocation(now), asked_at=now, ended_at=None, retry_at=None)
    generation = replace(before, revocation=asked)
    return Change(_with(record, generation), (_event("key.revoking", why, record, generation),))


def revoked(record: Record, key_id: int, why: str, now: datetime) -> Change:
    """The key is revoked. If sinks may hold no later one, a rotation is due."""
    generation = find(record, key_id)
    changed = _without(record, key_id)
    if _is_newest_somewhere(record, generation):
        begun = record.rotation or Rotation(now, f"{generation.name} was revoked, and is the newest key of its sinks")
        spent = (generation.fingerprint,) if generation.fingerprint else ()
        changed = replace(changed, rotation=replace(begun, urgent=True), spent=(*record.spent, *spent))
    return Change(changed, (replace(_event("api_key.revoked", why, record, generation), notify=True),))


def _is_newest_somewhere(record: Record, generation: Generation) -> bool:
    """Whether the key is the live one, or a later one that some sink was offered and got no other after."""
    current = live(record)
    if current is not None and order_of(generation) < order_of(current):
        return False
    return generation is current or not set(generation.offers) <= set(generation.superseded)


def revoke_failed(
    record: Record, key_id: int, why: str, lot: float, retry_after: timedelta | None, now: datetime
) -> Change:
    """Neon did not confirm that the key is revoked; the next list tells. Tried again for ever."""
    before = find(record, key_id)
    asked = before.revocation or Revocation(now)
    failures = asked.failures + 1
    pause = _pause(failures, lot, retry_after)
    asked = replace(asked, ended_at=now, failures=failures, retry_at=now + pause, error=why)
    generation = replace(before, revocation=asked)
    return Change(_with(record, generation), (_event("revocation.failed", why, record, generation),))


def forget(record: Record, key_id: int, why: str, now: datetime) -> Change:
    """The key is gone from the list. If we asked for that, it is revoked; its name stays remembered."""
    generation = find(record, key_id)
    change = revoked(record, key_id, why, now)
    if generation.revocation is None:
        change = replace(change, events=(_event("key.gone", why, record, generation),))
    closed = ClosedName(
        generation.name,
        generation.scope,
        generation.created_at,
        now,
        generation.number,
        (*generation.offers, *(target for target in generation.excused if target not in generation.offers)),
        generation.key_id,
    )
    return replace(change, record=replace(change.record, closed=(*change.record.closed, closed)))


# Orders


def obey(record: Record, order_id: int, in_hand: Set[int], why: str) -> Change:
    """Take up an order: condemn the keys that it names; an order to rotate joins a rotation under way.

    `in_hand` are the keys on their way to the sinks, if any.
    """
    order = next(order for order in record.orders if order.id == order_id)
    event = Event("order.taken", why, record.policy, key_id=order.key_id)
    if order.kind is OrderKind.REVOKE:
        generations = tuple(_condemned_now(g) if g.key_id == order.key_id else g for g in record.generations)
        return Change(replace(record, generations=generations), (event,), (order.id,))
    generations = record.generations
    joined = {g.key_id for g in unfinished(record) if g.key_id in in_hand}
    if order.leaked:
        condemned = _condemned_now if order.now else _condemned_at_live
        generations = tuple(g if g.key_id in joined else condemned(g) for g in generations)
    changed = replace(record, generations=generations)
    if not joined:
        return Change(changed, (event,))
    changed = retry_now(replace(changed, gone={}))
    begun = changed.rotation or Rotation(order.at, why)
    changed = replace(changed, rotation=replace(begun, urgent=True, ordered=True))
    return Change(changed, (event,), (order.id,))


def lapse(record: Record, order_id: int, why: str) -> Change:
    """An order became too old to be carried out."""
    order = next(order for order in record.orders if order.id == order_id)
    event = Event("order.lapsed", why, record.policy, key_id=order.key_id, notify=True)
    return Change(record, (event,), (order_id,))


def pause(record: Record, paused: bool) -> Change | None:
    """An operator stops, or lets go on, the creation and revocation of a policy's keys."""
    if record.paused == paused:
        return None
    name, why = ("policy.paused", "an operator paused it") if paused else ("policy.resumed", "an operator resumed it")
    return Change(replace(record, paused=paused), (Event(name, why, record.policy),))


def retry_now(record: Record) -> Record:
    """Every hand-off that waits for its next try is tried at once."""
    return replace(
        record,
        failure=replace(record.failure, retry_at=None) if record.failure else None,
        generations=tuple(
            replace(g, offers={target: replace(offered, retry_at=None) for target, offered in g.offers.items()})
            for g in record.generations
        ),
    )


# Parts


def _failed(record: Record, why: str, lot: float, retry_after: timedelta | None, now: datetime) -> Failure:
    count = record.failure.count + 1 if record.failure else 1
    since = record.failure.since if record.failure else now
    order = max((o.id for o in record.orders if o.kind is OrderKind.ROTATE), default=None)
    return Failure(count, since, now, why, now + _pause(count, lot, retry_after), order)


def _pause(failures: int, lot: float, retry_after: timedelta | None) -> timedelta:
    return max(pause_after(failures, lot), min(retry_after or timedelta(0), _LONGEST_RETRY_AFTER))


def _failure_is_news(record: Record, now: datetime) -> bool:
    return record.failure_notified_at is None or now - record.failure_notified_at >= _NOTIFY_AGAIN


def _lost_one(record: Record, now: datetime) -> Record:
    lost = record.lost + 1
    if lost == 1:
        return replace(record, lost=lost, lost_retry_at=None)
    pause = min(_FIRST_LOST_PAUSE * float(2 ** min(lost - 2, 20)), _LONGEST_LOST_PAUSE)
    return replace(record, lost=lost, lost_retry_at=now + pause)


def _with(record: Record, generation: Generation) -> Record:
    return replace(
        record,
        generations=tuple(generation if g.key_id == generation.key_id else g for g in record.generations),
    )


def _without(record: Record, key_id: int) -> Record:
    return replace(record, generations=tuple(g for g in record.generations if g.key_id != key_id))


def _event(name: str, why: str, record: Record, generation: Generation) -> Event:
    return Event(name, why, record.policy, generation.number, generation.key_id, generation.name)
