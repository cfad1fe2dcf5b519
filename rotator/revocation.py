"""Whether a policy's older key may be revoked now, and what holds it. Pure.

Three kinds of older keys leave in different ways. An orphan that no sink was offered goes at once:
nobody has it. A retiring key, or an orphan that somebody may have, goes when its grace period has
passed and nothing speaks against it; what does is a *hindrance*, and the key is then held. A key that
an operator condemned passes grace, window and hindrances. Whatever the kind, nothing is revoked
without a fresh list that holds the key under the name that is recorded, nor the management key.

Revoking cannot be undone, so every check here prefers keeping a key to losing one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.model import LIST_MAX_AGE, Condemned, Do, Generation, KeyList, Policy, Record, Step, Then
from rotator.model import Keys as Seen
from rotator.schedule import window_is_open, window_opens
from rotator.standing import (
    belongs,
    file_troubles,
    foreign_use,
    lacking,
    live,
    older,
    quiet_period,
    was_refused,
)
from rotator.words import listed, span, when


@dataclass(frozen=True)
class _Hindrance:
    """What speaks against revoking a key past its grace; `until` when it may end by itself.

    `by_use` when it is only that somebody still uses a key, which `hold.then: revoke` may override.
    """

    why: str
    until: datetime | None = None
    by_use: bool = False


def revoke_steps(policy: Policy, record: Record, keys: Seen, now: datetime) -> Iterator[Step]:
    """For every key that is to go, oldest first, what is next: REVOKE, HOLD, RELEASE, LOOK or WAIT."""
    candidates = older(record)
    for generation in [*candidates, *(g for g in record.generations if g.condemned and g not in candidates)]:
        step = _step_for(policy, record, generation, keys, now)
        if step is not None:
            yield step


def _step_for(policy: Policy, record: Record, generation: Generation, keys: Seen, now: datetime) -> Step | None:
    nobody_has_it = generation.orphan is not None and not generation.offers
    successor = live(record)
    if generation.condemned is Condemned.NOW:
        return _act(policy, record, generation, keys, now, "an operator ordered its revocation")
    if generation.condemned is Condemned.AT_LIVE and successor is not None and successor.number > generation.number:
        why = f"an operator said that it leaked, and its successor {successor.name} is live"
        return _act(policy, record, generation, keys, now, why)
    if nobody_has_it and generation.orphan is not None:
        why = f"nobody was given this key: {generation.orphan.why}"
        return _act(policy, record, generation, keys, now, why)
    if generation is successor:
        return None
    return _after_grace(policy, record, generation, keys, now)


def _after_grace(policy: Policy, record: Record, generation: Generation, keys: Seen, now: datetime) -> Step | None:
    grace_from = _grace_from(generation)
    if grace_from is None:
        missing = listed(sorted(_not_superseded(policy, generation)))
        why = f"key {generation.name} was offered to {missing}, which no later key has replaced yet"
        return Step(Do.WAIT, why, coming=Do.REVOKE, key_id=generation.key_id)
    ends = grace_from + policy.grace_period
    if now < ends:
        why = f"the grace period of the old key {generation.name} ends at {when(ends)}"
        return Step(Do.WAIT, why, until=ends, coming=Do.REVOKE, key_id=generation.key_id)
    hindrance = next((h for check in _HINDRANCES if (h := check(policy, record, generation, keys, now))), None)
    if hindrance is not None:
        return _held(policy, generation, hindrance, ends, now)
    if generation.held is not None:
        return Step(Do.RELEASE, f"nothing holds {generation.name} any longer", key_id=generation.key_id)
    if policy.window is not None and not window_is_open(policy.window, now):
        opens = window_opens(policy.window, now)
        why = f"the old key {generation.name} is to be revoked when the window opens at {when(opens)}"
        return Step(Do.WAIT, why, until=opens, coming=Do.REVOKE, key_id=generation.key_id)
    return _act(policy, record, generation, keys, now, _reason(policy, record, generation, ends))


def _grace_from(generation: Generation) -> datetime | None:
    if generation.orphan is None:
        return generation.retiring_since
    if not set(generation.offers) <= set(generation.superseded):
        return None
    return max(generation.superseded[target] for target in generation.offers)


def _not_superseded(policy: Policy, generation: Generation) -> set[str]:
    names = {sink.target: f"sink {sink.name}" for sink in policy.deliver_to}
    return {
        names.get(target, f"{target} (no longer a sink of the policy)")
        for target in generation.offers
        if target not in generation.superseded
    }


def _reason(policy: Policy, record: Record, generation: Generation, ends: datetime) -> str:
    successor = live(record)
    used = foreign_use(generation)
    last = f"it was last used at {when(used)}" if used else "no use of it by others is known"
    name = successor.name if successor else "none"
    return f"its successor {name} is live, the grace period ended at {when(ends)}, and {last}"


def _held(
    policy: Policy, generation: Generation, hindrance: _Hindrance, grace_ends: datetime, now: datetime
) -> Step | None:
    last_call = grace_ends + policy.hold.at_most
    overdue = now >= last_call
    known = generation.held
    if known is None or known.why != hindrance.why or (overdue and not known.overdue):
        return Step(Do.HOLD, hindrance.why, key_id=generation.key_id, overdue=overdue)
    until = hindrance.until
    if not overdue:
        until = min(until, last_call) if until is not None else last_call
    return Step(Do.WAIT, hindrance.why, until=until, coming=Do.REVOKE, key_id=generation.key_id, overdue=overdue)


# What speaks against revoking a retiring key or an offered orphan


def _no_later_live_key(
    policy: Policy, record: Record, generation: Generation, keys: Seen, now: datetime
) -> _Hindrance | None:
    successor = live(record)
    if successor is None or successor.number <= generation.number:
        return _Hindrance(f"{generation.name} is kept: no later key of the policy is live")
    if was_refused(successor):
        return _Hindrance(f"{generation.name} is kept: Neon refused its successor {successor.name}")
    return None


def _a_sink_lacks_the_live_key(
    policy: Policy, record: Record, generation: Generation, keys: Seen, now: datetime
) -> _Hindrance | None:
    successor = live(record)
    if successor is None:
        return None
    without = lacking(policy, successor)
    if without:
        names = listed(sink.name for sink in without)
        return _Hindrance(f"{generation.name} is kept: sink {names} has no receipt of the live key {successor.name}")
    unread = [
        sink.name
        for sink in policy.deliver_to
        if sink.reads_back and sink.target in successor.receipts and sink.target not in keys.contents
    ]
    if unread:
        return _Hindrance(f"{generation.name} is kept: sink {listed(unread)} has not been read again yet")
    for trouble in file_troubles(policy, record, keys):
        return _Hindrance(f"{generation.name} is kept: {trouble.why}")
    return None


def _is_ours(policy: Policy, record: Record, generation: Generation, keys: Seen, now: datetime) -> _Hindrance | None:
    if generation.key_id in keys.own:
        return _Hindrance(f"{generation.name} is kept: it is the management key ({keys.own[generation.key_id]})")
    return None


def _still_used(policy: Policy, record: Record, generation: Generation, keys: Seen, now: datetime) -> _Hindrance | None:
    if _use_is_overridden(policy, generation, now):
        return None
    used = foreign_use(generation)
    quiet = quiet_period(policy, generation)
    if used is None or now >= used + quiet:
        return None
    where = f" from {listed(generation.last_used_from)}" if generation.last_used_from else ""
    why = (
        f"{generation.name} is kept: it was used at {when(used)}{where}; it is revoked when it has not been used for "
        f"{span(quiet)}"
    )
    return _Hindrance(why, until=used + quiet, by_use=True)


def _new_key_unused(
    policy: Policy, record: Record, generation: Generation, keys: Seen, now: datetime
) -> _Hindrance | None:
    successor = live(record)
    if not policy.hold.until_new_key_used or successor is None or _use_is_overridden(policy, generation, now):
        return None
    if foreign_use(successor) is None:
        return _Hindrance(f"{generation.name} is kept: nobody has used the live key {successor.name} yet", by_use=True)
    return None


def _use_is_overridden(policy: Policy, generation: Generation, now: datetime) -> bool:
    since = _grace_from(generation)
    if policy.hold.then is not Then.REVOKE or since is None:
        return False
    return now >= since + policy.grace_period + policy.hold.at_most


_Check = Callable[[Policy, Record, Generation, Seen, datetime], _Hindrance | None]
_HINDRANCES: tuple[_Check, ...] = (
    _no_later_live_key,
    _a_sink_lacks_the_live_key,
    _is_ours,
    _still_used,
    _new_key_unused,
)


# What no order waives


def _act(policy: Policy, record: Record, generation: Generation, keys: Seen, now: datetime, why: str) -> Step:
    """REVOKE with this reason, or what is still to be seen first."""

    def wait(reason: str, until: datetime | None = None) -> Step:
        return Step(Do.WAIT, reason, until=until, coming=Do.REVOKE, key_id=generation.key_id)

    name, account = generation.name, generation.scope.account
    asked = generation.revocation
    if policy.paused or record.paused:
        return wait(f"{name} is to be revoked ({why}), but the policy is paused")
    if generation.key_id in keys.own:
        return wait(f"{name} is not revoked: it is the management key ({keys.own[generation.key_id]})")
    if asked is not None and asked.retry_at is not None and now < asked.retry_at:
        return wait(f"{name} could not be revoked: {asked.error}; next try at {when(asked.retry_at)}", asked.retry_at)
    if keys.distrust:
        return wait(f"{name} is to be revoked ({why}), but {keys.distrust}", now + timedelta(seconds=15))
    successor = live(record) if _needs_successor(generation) else None
    for needed in {account, successor.scope.account if successor else account}:
        if needed in keys.unreadable:
            return wait(f"{name} is to be revoked ({why}), but Neon's list cannot be read: {keys.unreadable[needed]}")
        if not _fresh(keys.lists.get(needed), generation, now):
            return Step(Do.LOOK, f"{name} is to be revoked ({why}), and needs a fresh list first", account=needed)
        if keys.lists[needed].doubt:
            return wait(f"{name} is to be revoked ({why}), but {keys.lists[needed].doubt}")
    key = keys.lists[account].keys.get(generation.key_id)
    if key is None:
        if asked is not None:
            return Step(Do.FORGET, f"{name} is gone from Neon's list, as was asked", key_id=generation.key_id)
        return wait(f"{name} is to be revoked ({why}), but is not in Neon's list; the next poll settles that")
    if key.name != name or not belongs(key, generation.scope):
        return wait(f"key {generation.key_id} is not revoked: Neon lists it as {key.name}, the record says {name}")
    if successor is not None and successor.key_id not in keys.lists[successor.scope.account].keys:
        return wait(f"{name} is not revoked: the live key {successor.name} is missing from Neon's list")
    return Step(Do.REVOKE, why, key_id=generation.key_id)


def _needs_successor(generation: Generation) -> bool:
    nobody_has_it = generation.orphan is not None and not generation.offers
    return generation.condemned is not Condemned.NOW and not nobody_has_it


def _fresh(listing: KeyList | None, generation: Generation, now: datetime) -> bool:
    if listing is None or now - listing.requested_at > LIST_MAX_AGE:
        return False
    asked = generation.revocation
    return asked is None or asked.ended_at is None or listing.requested_at >= asked.ended_at
