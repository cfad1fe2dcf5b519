"""What operators ask for. Pure."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from rotator.model import Event, OrderKind, Record, Rotation
from rotator.standing import unfinished
from rotator.transitions.change import Change, condemned_at_live, condemned_now


def obey(record: Record, order_id: int, in_hand: Set[int], why: str) -> Change:
    """Take up an order: condemn the keys that it names; an order to rotate joins a rotation under way.

    `in_hand` are the keys on their way to the sinks, if any.
    """
    order = next(order for order in record.orders if order.id == order_id)
    event = Event("order.taken", why, record.policy, key_id=order.key_id)
    if order.kind is OrderKind.REVOKE:
        generations = tuple(condemned_now(g) if g.key_id == order.key_id else g for g in record.generations)
        return Change(replace(record, generations=generations), (event,), (order.id,))
    generations = record.generations
    joined = {g.key_id for g in unfinished(record) if g.key_id in in_hand}
    if order.leaked:
        condemned = condemned_now if order.now else condemned_at_live
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
