"""From what holds an old key to the moment when it is gone. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from rotator.model import ClosedName, Generation, Hindrance, Record, Revocation, Rotation
from rotator.standing import find, live, order_of
from rotator.transitions.change import Change, event_of, pause_asked, with_changed, without


def hold(record: Record, key_id: int, why: str, overdue: bool, now: datetime) -> Change:
    """Something speaks against revoking a key past its grace. Told at the start and when overdue."""
    before = find(record, key_id)
    generation = replace(before, held=Hindrance(before.held.since if before.held else now, why, overdue))
    changed = with_changed(record, generation)
    if overdue and not (before.held and before.held.overdue):
        event = replace(event_of("revocation.overdue", why, record, generation), notify=True)
    elif before.held is None:
        event = replace(event_of("revocation.held", why, record, generation), notify=True)
    else:
        return Change(changed)
    return Change(changed, (event,))


def release(record: Record, key_id: int, why: str) -> Change:
    """Nothing holds the key any longer."""
    generation = replace(find(record, key_id), held=None)
    return Change(with_changed(record, generation), (event_of("revocation.released", why, record, generation),))


def revoking(record: Record, key_id: int, why: str, now: datetime) -> Change:
    """Neon is about to be asked to revoke the key."""
    before = find(record, key_id)
    asked = replace(before.revocation or Revocation(now), asked_at=now, ended_at=None, retry_at=None)
    generation = replace(before, revocation=asked)
    return Change(with_changed(record, generation), (event_of("key.revoking", why, record, generation),))


def revoked(record: Record, key_id: int, why: str, now: datetime) -> Change:
    """The key is revoked. If sinks may hold no later one, a rotation is due."""
    generation = find(record, key_id)
    changed = without(record, key_id)
    if _is_newest_somewhere(record, generation):
        begun = record.rotation or Rotation(now, f"{generation.name} was revoked, and is the newest key of its sinks")
        spent = (generation.fingerprint,) if generation.fingerprint else ()
        changed = replace(changed, rotation=replace(begun, urgent=True), spent=(*record.spent, *spent))
    return Change(changed, (replace(event_of("api_key.revoked", why, record, generation), notify=True),))


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
    pause = pause_asked(failures, lot, retry_after)
    asked = replace(asked, ended_at=now, failures=failures, retry_at=now + pause, error=why)
    generation = replace(before, revocation=asked)
    return Change(with_changed(record, generation), (event_of("revocation.failed", why, record, generation),))


def forget(record: Record, key_id: int, why: str, now: datetime) -> Change:
    """The key is gone from the list. If we asked for that, it is revoked; its name stays remembered."""
    generation = find(record, key_id)
    change = revoked(record, key_id, why, now)
    if generation.revocation is None:
        change = replace(change, events=(event_of("key.gone", why, record, generation),))
    offered = (*generation.offers, *(target for target in generation.excused if target not in generation.offers))
    retiring_since = generation.retiring_since
    closed = ClosedName(
        generation.name,
        generation.scope,
        generation.created_at,
        now,
        generation.number,
        offered,
        generation.key_id,
        dict.fromkeys(offered, retiring_since) if retiring_since is not None else generation.superseded,
        generation.condemned,
        generation.live_since if generation.adopted else None,
    )
    return replace(change, record=replace(change.record, closed=(*change.record.closed, closed)))
