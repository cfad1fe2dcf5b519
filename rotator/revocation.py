"""Whether a policy's older key may be revoked now, and what holds it. Pure.

Three kinds of older keys leave in different ways. An orphan that no sink was offered goes at once:
nobody has it. A retiring key, or an orphan that somebody may have, goes when its grace period has
passed and nothing speaks against it; what does is a *hindrance*, and the key is then held. A key that
an operator condemned passes grace, window and hindrances. Whatever the kind, nothing is revoked without a
fresh list that holds the key under the name and scope that are recorded, nor another policy's key, nor the
management key.

Revoking cannot be undone, so every check here prefers keeping a key to losing one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.model import LIST_MAX_AGE, Condemned, Do, Generation, Policy, Record, Step, Then
from rotator.model import Keys as Seen
from rotator.schedule import window_is_open, window_opens
from rotator.standing import (
    INSTANT,
    belongs,
    file_troubles,
    foreign_use,
    gone_from,
    is_missing,
    lacking,
    list_of,
    live,
    older,
    quiet_period,
    was_refused,
)
from rotator.words import listed, span, when

_DISTRUST_ENDS = timedelta(seconds=15)  # when the clock is asked again


def revoke_steps(policy: Policy, record: Record, keys: Seen, now: datetime) -> Iterator[Step]:
    """For every key that is to go, what is next: REVOKE, HOLD, RELEASE, FORGET, LOOK or WAIT."""
    yield from revoke_at_once_steps(policy, record, keys, now)
    for generation in older(record):
        if _why_at_once(record, generation) is None:
            yield _after_grace(policy, record, generation, keys, now)


def revoke_at_once_steps(policy: Policy, record: Record, keys: Seen, now: datetime) -> Iterator[Step]:
    """The same for those keys alone that wait for no grace period: what nobody has, and what was condemned."""
    for generation in record.generations:
        why = _why_at_once(record, generation)
        if why is not None:
            yield _act(policy, record, generation, keys, now, why)


def _why_at_once(record: Record, generation: Generation) -> str | None:
    successor = live(record)
    if generation.condemned is Condemned.NOW:
        return "an operator ordered its revocation"
    if generation.condemned is Condemned.AT_LIVE and successor is not None and successor.number > generation.number:
        return f"an operator said that it leaked, and its successor {successor.name} is live"
    if generation.orphan is not None and not generation.offers:
        return f"nobody was given this key: {generation.orphan.why}"
    return None


def _after_grace(policy: Policy, record: Record, generation: Generation, keys: Seen, now: datetime) -> Step:
    def wait(why: str, until: datetime | None = None) -> Step:
        return Step(Do.WAIT, why, until=until, coming=Do.REVOKE, key_id=generation.key_id)

    grace_from = _grace_from(generation)
    if grace_from is None:
        return wait(f"{generation.name} is kept: {_not_superseded(policy, generation)}")
    ends = grace_from + policy.grace_period
    if now < ends:
        return wait(f"the grace period of the old key {generation.name} ends at {when(ends)}", ends)
    hindrance = _hindrance(policy, record, generation, keys, now, ends + policy.hold.at_most)
    if hindrance is not None:
        account = generation.scope.account
        if hindrance.until is not None and hindrance.until <= now:
            if account not in keys.unreadable:
                return Step(Do.LOOK, f"{hindrance.why}; that needs a fresh list", account=account)
            hindrance = replace(hindrance, until=None)
        return _held(generation, hindrance, ends + policy.hold.at_most, now)
    if generation.held is not None:
        return Step(Do.RELEASE, f"nothing holds {generation.name} any longer", key_id=generation.key_id)
    if policy.window is not None and not window_is_open(policy.window, now):
        opens = window_opens(policy.window, now)
        return wait(f"the old key {generation.name} is to be revoked when the window opens at {when(opens)}", opens)
    used = foreign_use(generation)
    last = f"it was last used at {when(used)}" if used else "no use of it by others is known"
    why = f"a later key is live, the grace period ended at {when(ends)}, and {last}"
    return _act(policy, record, generation, keys, now, why)


def _grace_from(generation: Generation) -> datetime | None:
    if generation.orphan is None:
        return generation.retiring_since
    if not set(generation.offers) <= set(generation.superseded):
        return None
    return max(generation.superseded[target] for target in generation.offers)


def _not_superseded(policy: Policy, generation: Generation) -> str:
    names = {sink.target: sink.name for sink in policy.deliver_to}
    left = [target for target in generation.offers if target not in generation.superseded]
    former = listed(sorted(target for target in left if target not in names))
    if former:
        return (
            f"it was offered to {former}, which gets no later key from this policy any more; if nobody uses it, "
            f"run: rotator revoke {generation.key_id}"
        )
    still = listed(sorted(names[target] for target in left))
    return f"it was offered to sink {still}, which has no later key yet"


def _held(generation: Generation, hindrance: _Hindrance, last_call: datetime, now: datetime) -> Step:
    overdue = now >= last_call
    known = generation.held
    if known is None or known.why != hindrance.why or (overdue and not known.overdue):
        return Step(Do.HOLD, hindrance.why, key_id=generation.key_id, overdue=overdue)
    until = hindrance.until
    if not overdue:
        until = min(until, last_call) if until is not None else last_call
    return Step(Do.WAIT, hindrance.why, until=until, coming=Do.REVOKE, key_id=generation.key_id, overdue=overdue)


# What speaks against revoking a retiring key or an offered orphan


@dataclass(frozen=True)
class _Hindrance:
    """What speaks against revoking a key past its grace; `until` when it may end by itself, as a list then tells."""

    why: str
    until: datetime | None = None


@dataclass(frozen=True)
class _Case:
    """A key past its grace, the live key that replaced it, and all that is known. `last_call` ends `hold.at_most`."""

    policy: Policy
    record: Record
    generation: Generation
    successor: Generation
    keys: Seen
    now: datetime
    last_call: datetime


def _hindrance(
    policy: Policy, record: Record, generation: Generation, keys: Seen, now: datetime, last_call: datetime
) -> _Hindrance | None:
    successor = live(record)
    if successor is None or successor.number <= generation.number:
        return _Hindrance(f"{generation.name} is kept: no later key of the policy is live")
    case = _Case(policy, record, generation, successor, keys, now, last_call)
    for check in _HINDRANCES:
        found = check(case)
        if found is not None:
            return replace(found, why=f"{generation.name} is kept: {found.why}")
    return None


def _live_key_was_refused(case: _Case) -> _Hindrance | None:
    return _Hindrance(f"Neon refused its successor {case.successor.name}") if was_refused(case.successor) else None


def _live_key_is_gone(case: _Case) -> _Hindrance | None:
    successor = case.successor
    if is_missing(successor) or gone_from(list_of(case.keys, successor.scope), successor):
        return _Hindrance(f"the live key {successor.name} is missing from Neon's list")
    return None


def _a_sink_lacks_the_live_key(case: _Case) -> _Hindrance | None:
    without = listed(sink.name for sink in lacking(case.policy, case.successor))
    return _Hindrance(f"sink {without} has no receipt of the live key {case.successor.name}") if without else None


def _a_file_lacks_the_live_key(case: _Case) -> _Hindrance | None:
    for sink in case.policy.deliver_to:
        if sink.reads_back and sink.target in case.successor.receipts and sink.target not in case.keys.contents:
            return _Hindrance(f"sink {sink.name} has not been read again yet")
    for trouble in file_troubles(case.policy, case.record, case.keys):
        return _Hindrance(trouble.why)
    return None


def _is_not_ours_to_revoke(case: _Case) -> _Hindrance | None:
    why = _not_ours(case.generation, case.keys)
    return _Hindrance(why) if why else None


def _use_cannot_be_known(case: _Case) -> _Hindrance | None:
    quiet, lag = quiet_period(case.policy, case.generation), case.keys.usage_lag
    if lag <= quiet or not quiet or _use_is_overridden(case):
        return None
    return _Hindrance(
        f"whether it is still used is not known, as Neon's last_used_at cannot be trusted: it does not show what this "
        f"program did itself {span(lag)} before"
    )


def _still_used(case: _Case) -> _Hindrance | None:
    generation, used = case.generation, foreign_use(case.generation)
    quiet = quiet_period(case.policy, generation)
    if used is None or not quiet or _use_is_overridden(case):
        return None
    silent_at = used + quiet + case.keys.usage_lag  # later uses may not show before
    listing = list_of(case.keys, generation.scope)
    if listing is not None and listing.requested_at >= silent_at:
        return None
    where = f" from {listed(generation.last_used_from)}" if generation.last_used_from else ""
    why = f"it was used at {when(used)}{where}; it is revoked when it has not been used for {span(quiet)}"
    return _Hindrance(why, until=silent_at)


def _new_key_unused(case: _Case) -> _Hindrance | None:
    wanted = case.policy.hold.until_new_key_used and not _use_is_overridden(case)
    if wanted and foreign_use(case.successor) is None:
        return _Hindrance(f"nobody has used the live key {case.successor.name} yet")
    return None


def _use_is_overridden(case: _Case) -> bool:
    return case.policy.hold.then is Then.REVOKE and case.now >= case.last_call


_HINDRANCES: tuple[Callable[[_Case], _Hindrance | None], ...] = (
    _live_key_was_refused,
    _live_key_is_gone,
    _a_sink_lacks_the_live_key,
    _a_file_lacks_the_live_key,
    _is_not_ours_to_revoke,
    _use_cannot_be_known,
    _still_used,
    _new_key_unused,
)


# What no order waives


def _act(policy: Policy, record: Record, generation: Generation, keys: Seen, now: datetime, why: str) -> Step:
    """REVOKE with this reason, or what is still to be seen first."""

    def wait(reason: str, until: datetime | None = None) -> Step:
        return Step(Do.WAIT, reason, until=until, coming=Do.REVOKE, key_id=generation.key_id)

    name, account = generation.name, generation.scope.account
    asked, to_do = generation.revocation, f"{generation.name} is to be revoked ({why})"
    if policy.paused or record.paused:
        return wait(f"{to_do}, but the policy is paused")
    not_ours = _not_ours(generation, keys)
    if not_ours:
        return wait(f"{name} is not revoked: {not_ours}")
    if asked is not None and asked.retry_at is not None and now < asked.retry_at:
        return wait(f"{name} could not be revoked: {asked.error}; next try at {when(asked.retry_at)}", asked.retry_at)
    if keys.distrust:
        return wait(f"{to_do}, but {keys.distrust}", now + _DISTRUST_ENDS)
    successor = live(record) if _needs_successor(generation) else None
    since = _list_since(generation, successor, now)
    if since > now:
        return wait(f"{to_do}, but the clock went back behind what was recorded at {when(since)}", since)
    for needed in dict.fromkeys([account, successor.scope.account if successor else account]):
        listing = keys.lists.get(needed)
        if needed in keys.unreadable:
            return wait(f"{to_do}, but Neon's list cannot be read: {keys.unreadable[needed]}")
        if listing is None or not since <= listing.requested_at <= now:
            return Step(Do.LOOK, f"{to_do}, and needs a fresh list first", account=needed)
        if listing.doubt:
            return wait(f"{to_do}, but {listing.doubt}")
    if generation.key_id not in keys.lists[account].keys:
        if asked is not None:
            return Step(Do.FORGET, f"{name} is gone from Neon's list, as was asked", key_id=generation.key_id)
        return wait(f"{to_do}, but is not in Neon's list; the next poll settles that")
    if successor is not None and successor.key_id not in keys.lists[successor.scope.account].keys:
        return wait(f"{name} is not revoked: the live key {successor.name} is missing from Neon's list")
    return Step(Do.REVOKE, why, key_id=generation.key_id)


def _not_ours(generation: Generation, keys: Seen) -> str:
    """Why this key must not be touched whoever asks, or an empty string."""
    key_id = generation.key_id
    if key_id in keys.own:
        return f"it is the management key ({keys.own[key_id]})"
    if key_id in keys.owners:
        return f"key {key_id} belongs to policy {keys.owners[key_id]}"
    listing = list_of(keys, generation.scope)
    key = listing.keys.get(key_id) if listing else None
    if key is not None and key.name != generation.name:
        return f"Neon lists key {key_id} as {key.name}, but the record says {generation.name}"
    if key is not None and not belongs(key, generation.scope):
        return f"Neon lists key {key_id} with {_project(key.project)}, but the record says {generation.scope}"
    return ""


def _project(project: str | None) -> str:
    return f"project {project}" if project else "no project"


def _needs_successor(generation: Generation) -> bool:
    nobody_has_it = generation.orphan is not None and not generation.offers
    return generation.condemned is not Condemned.NOW and not nobody_has_it


def _list_since(generation: Generation, successor: Generation | None, now: datetime) -> datetime:
    """The time that a list must have been asked for to be believed about these keys."""
    moments = [now - LIST_MAX_AGE, generation.recorded_at]
    if successor is not None:
        moments.append(successor.recorded_at)
    if generation.revocation is not None and generation.revocation.ended_at is not None:
        moments.append(generation.revocation.ended_at + INSTANT)
    return max(moments)
