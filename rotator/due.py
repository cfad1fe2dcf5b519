"""Whether a policy needs a new key now, and what stands against creating it. Pure.

`mint_step` is a chain: first the reason that a rotation is due (the most pressing wins), then small
checks, each of which may answer with a step that waits or refuses. An order of an operator passes
all checks but a pause; a policy without a key that works passes the window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from rotator.model import (
    MAX_OLDER_KEYS,
    Do,
    Every,
    Generation,
    OnMissing,
    OrderKind,
    Policy,
    Record,
    Step,
)
from rotator.model import Keys as Seen
from rotator.schedule import due_at, window_is_open, window_opens
from rotator.standing import (
    file_troubles,
    is_missing,
    lacking,
    live,
    named_like,
    older,
    rotate_order,
)
from rotator.words import listed, when


@dataclass(frozen=True)
class Due:
    """Why a rotation is due, or when it will be.

    `urgent` passes the window, `passes_retiring` does not wait for a retiring or held key, `ordered`
    is an operator's order, or the rotation that one began.
    """

    at: datetime
    why: str
    urgent: bool = False
    passes_retiring: bool = False
    ordered: bool = False


def due(policy: Policy, record: Record, keys: Seen, now: datetime) -> Due:
    """The most pressing reason for a new key."""
    current = live(record)
    order = rotate_order(record)
    if order is not None:
        leaked = ", as the old key leaked" if order.leaked else ""
        return Due(now, f"an operator ordered a rotation{leaked}", urgent=True, passes_retiring=True, ordered=True)
    unusable = current is None or is_missing(current)
    begun = record.rotation
    if begun is not None:
        why = f"the rotation begun at {when(begun.since)} has not ended: {begun.why}"
        return Due(now, why, urgent=unusable or begun.urgent, passes_retiring=True, ordered=begun.ordered)
    if current is None:
        return Due(now, "the policy has no live key", urgent=True, passes_retiring=True)
    if is_missing(current) and policy.on_missing is OnMissing.REPLACE:
        return Due(now, f"the live key {current.name} is gone from Neon", urgent=True, passes_retiring=True)
    missing_receipts = lacking(policy, current)
    if missing_receipts:
        names = listed(sink.name for sink in missing_receipts)
        why = f"sink {names} has no receipt of the live key {current.name}"
        return Due(now, why, urgent=unusable, passes_retiring=True)
    for trouble in file_troubles(policy, record, keys):
        if trouble.lost:
            return Due(now, trouble.why, urgent=unusable, passes_retiring=True)
    if current.scope != policy.scope:
        why = f"the scope changed from {current.scope} to {policy.scope}"
        return Due(now, why, urgent=unusable, passes_retiring=unusable)
    at = due_at(policy, _born(policy, current))
    why = f"the live key {current.name} was created at {when(current.created_at)} and is due at {when(at)}"
    return Due(at, why, urgent=unusable, passes_retiring=unusable)


def _born(policy: Policy, generation: Generation) -> datetime:
    """When the key was created, as far as the next fire time goes.

    Of the key that a fire time caused, Neon's machines may say that it was created a second before that time, which
    would cause another.
    """
    if generation.adopted or isinstance(policy.rotate, Every):
        return generation.created_at
    return max(generation.created_at, generation.recorded_at)


def mint_step(policy: Policy, record: Record, keys: Seen, now: datetime) -> Step:
    """MINT, or what it waits for, while no key is being made or handed out."""
    reason = due(policy, record, keys, now)
    if reason.at > now:
        return _waiting(reason.at, reason.why)
    for objection in _OBJECTIONS:
        step = objection(policy, record, keys, now, reason)
        if step is not None:
            return step
    return Step(Do.MINT, reason.why)


def _waiting(until: datetime | None, why: str) -> Step:
    return Step(Do.WAIT, why, until=until, coming=Do.MINT)


def _paused(policy: Policy, record: Record, keys: Seen, now: datetime, reason: Due) -> Step | None:
    if policy.paused or record.paused:
        how = "set paused: false in the configuration" if policy.paused else f"run: rotator resume {policy.name}"
        return _waiting(None, f"a rotation is due ({reason.why}), but the policy is paused; {how}")
    return None


def _adoption_pending(policy: Policy, record: Record, keys: Seen, now: datetime, reason: Due) -> Step | None:
    if policy.adopt is not None and policy.adopt not in record.adopted and live(record) is None and not reason.ordered:
        return _waiting(None, f"key {policy.adopt} is to be adopted first")
    return None


def _state_was_lost(policy: Policy, record: Record, keys: Seen, now: datetime, reason: Due) -> Step | None:
    virgin = record.next_generation == 1 and not record.generations
    if not virgin or reason.ordered:
        return None
    listing = keys.lists[policy.scope.account]
    if listing.doubt:
        return _waiting(None, f"the policy has no live key, but {listing.doubt}")
    found = named_like(policy.name, listing.keys.values())
    if not found:
        return _management_key_unadopted(policy, keys)
    named = listed(f"{key.name} (id {key.id})" for key in found)
    return Step(
        Do.REFUSE,
        f"nothing is remembered of this policy, but Neon has {named}: was the state lost? Set adopt: {found[-1].id} "
        f"to take that key over, or run: rotator rotate {policy.name} to start anew",
    )


def _management_key_unadopted(policy: Policy, keys: Seen) -> Step | None:
    if not policy.management_key:
        return None
    own = sorted(keys.own)
    known = f"adopt: {own[0]}" if len(own) == 1 else "adopt: ID, with the id of the key in neon.api_key"
    return Step(
        Do.REFUSE,
        f"this policy is to rotate the management key; set {known} and neon.api_key_id to the same id, so that the key "
        f"in use is replaced when it is due and revoked when its successor works; or run: rotator rotate {policy.name} "
        "to create a successor now and leave the old key alone",
    )


def _too_many_older(policy: Policy, record: Record, keys: Seen, now: datetime, reason: Due) -> Step | None:
    kept = older(record)
    most = 2 * MAX_OLDER_KEYS if reason.ordered else MAX_OLDER_KEYS
    if len(kept) < most or rotate_order(record) is not None:
        return None
    names = listed(f"{g.name} (id {g.key_id})" for g in kept)
    return Step(
        Do.REFUSE,
        f"a rotation is due ({reason.why}), but {len(kept)} older keys are still there: {names}. See rotator why "
        f"{policy.name}, then revoke what is not needed, or run: rotator rotate {policy.name}",
    )


def _sink_gone(policy: Policy, record: Record, keys: Seen, now: datetime, reason: Due) -> Step | None:
    if rotate_order(record) is not None:
        return None
    for sink in policy.deliver_to:
        if record.gone.get(sink.target) == sink.settings:
            return Step(
                Do.REFUSE,
                f"sink {sink.name} answered 410 Gone, so it wants no more keys; change or remove it in the "
                f"configuration, or run: rotator rotate {policy.name} to try it again",
                sink=sink.name,
            )
    return None


def _drifted(policy: Policy, record: Record, keys: Seen, now: datetime, reason: Due) -> Step | None:
    if reason.ordered:
        return None
    for trouble in file_troubles(policy, record, keys):
        if not trouble.lost:
            return Step(
                Do.REFUSE,
                f"{trouble.why}; put the live key back, or run: rotator rotate {policy.name} to replace what is there",
                sink=trouble.sink.name,
            )
    return None


def _waits_for_retiring(policy: Policy, record: Record, keys: Seen, now: datetime, reason: Due) -> Step | None:
    if reason.passes_retiring:
        return None
    ends = [
        (generation.retiring_since + policy.grace_period + policy.hold.at_most, generation)
        for generation in older(record)
        if generation.retiring_since is not None
    ]
    ends = [(end, generation) for end, generation in ends if end > now]
    if not ends:
        return None
    end, generation = max(ends, key=lambda item: item[0])
    return _waiting(
        end, f"a rotation is due ({reason.why}); it waits for the old key {generation.name}, at most until {when(end)}"
    )


def _window_closed(policy: Policy, record: Record, keys: Seen, now: datetime, reason: Due) -> Step | None:
    if reason.urgent or policy.window is None or window_is_open(policy.window, now):
        return None
    opens = window_opens(policy.window, now)
    return _waiting(opens, f"a rotation is due ({reason.why}); the window opens at {when(opens)}")


def _backing_off(policy: Policy, record: Record, keys: Seen, now: datetime, reason: Due) -> Step | None:
    order = rotate_order(record)
    failure = record.failure
    if failure is not None and failure.retry_at is not None and failure.retry_at > now:
        tried = failure.order or 0  # by number: before Neon's first answer the time is that of the local clock
        if all(o.kind is not OrderKind.ROTATE or o.id <= tried for o in record.orders):
            return _waiting(
                failure.retry_at,
                f"a rotation is due ({reason.why}); the last attempt failed: {failure.why}; next try at "
                f"{when(failure.retry_at)}",
            )
    if record.lost_retry_at is not None and record.lost_retry_at > now and order is None:
        return _waiting(
            record.lost_retry_at,
            f"a rotation is due ({reason.why}); {record.lost} attempts in a row were lost before a key went live, "
            f"so the next one is made at {when(record.lost_retry_at)}",
        )
    return None


def _list_needed(policy: Policy, record: Record, keys: Seen, now: datetime, reason: Due) -> Step | None:
    account = policy.scope.account
    if account in keys.lists:
        return None
    if account in keys.unreadable:
        return _waiting(
            None, f"a rotation is due ({reason.why}); Neon's list cannot be read: {keys.unreadable[account]}"
        )
    return Step(Do.LOOK, f"a rotation is due ({reason.why}), and Neon's list has not been read yet", account=account)


_Objection = Callable[[Policy, Record, Seen, datetime, Due], Step | None]
# The list comes before what is read from it; the clock is Neon's only after an answer.
_OBJECTIONS: tuple[_Objection, ...] = (
    _paused,
    _adoption_pending,
    _list_needed,
    _state_was_lost,
    _sink_gone,
    _drifted,
    _too_many_older,
    _waits_for_retiring,
    _window_closed,
    _backing_off,
)
