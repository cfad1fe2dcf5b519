"""The decision: what is the next step for a policy? Pure: no I/O, clock, randomness or logging.

`next_step` asks small checks in a fixed order and takes the first step that can be taken now. What
must be known comes first (the outcome of an intent, keys that turned up), then what an operator
ordered, then a hand-off under way, then revocations, and last a new key. A check that can do nothing
yet answers with WAIT or REFUSE; if no step can be taken now, a refusal is told before a wait, a wait for
the next poll before one for a time, and of several times the first. Whatever is told, it is decided again
at the first time that anything waits for, and at the next poll if anything waits for that. Every step says
why in a sentence that the log, `status`, `plan` and `history` show as it is.

The engine does one step, writes down what came of it, and asks again; nothing here plans ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime

from rotator.due import mint_step
from rotator.model import (
    CHECK_AGAIN_AFTER,
    LIST_MAX_AGE,
    ORDER_LAPSES_AFTER,
    SEEN_ALIVE_MAX_AGE,
    Check,
    Condemned,
    Do,
    Generation,
    Keys,
    OrderKind,
    Policy,
    Record,
    SinkRef,
    Step,
)
from rotator.revocation import revoke_at_once_steps, revoke_steps
from rotator.schedule import window_is_open, window_opens
from rotator.standing import (
    INSTANT,
    belongs,
    in_hand,
    is_missing,
    lacking,
    list_of,
    live,
    older,
    result_of,
    turned_up,
    unfinished,
    was_refused,
)
from rotator.transitions import stand_in
from rotator.words import when


def next_step(policy: Policy, record: Record, keys: Keys, now: datetime) -> Step:
    """The next step for this policy, given what is remembered and what was just seen.

    `record` is what must be remembered, `keys` what was seen outside, `now` a time on Neon's clock.
    The answer is never None: at the least it is a WAIT.
    """
    return _first(step for check in _CHECKS for step in check(policy, record, keys, now))


def last_step(record: Record, keys: Keys, now: datetime) -> Step:
    """The next step for a policy that is not configured any more.

    What nobody has is still revoked, and what an operator condemned; nothing else happens to its keys.
    """
    policy = stand_in(record.policy)
    steps = [step for check in _LAST_CHECKS for step in check(policy, record, keys, now)]
    idle = Step(Do.WAIT, f"policy {record.policy} is no longer in the configuration; its keys are left alone")
    return _first([*steps, idle])


def _first(steps: Iterable[Step]) -> Step:
    cannot_yet: list[Step] = []
    for step in steps:
        if step.do not in (Do.WAIT, Do.REFUSE):
            return step
        cannot_yet.append(step)
    timed = [step for step in cannot_yet if step.until is not None]
    soonest = min(timed, key=lambda step: (step.until, step.why), default=None)
    refusal = next((step for step in cannot_yet if step.do is Do.REFUSE), None)
    told = refusal or next((step for step in cannot_yet if step.until is None), soonest)
    assert told is not None  # noqa: S101 - as long as no key is made or handed out, `_mint` answers
    return replace(told, until=soonest.until if soonest else None, at_poll=told.until is None)


def _settle_intent(policy: Policy, record: Record, keys: Keys, now: datetime) -> Iterator[Step]:
    intent = record.intent
    if intent is None:
        return
    account = intent.scope.account
    listing = list_of(keys, intent.scope)
    since = max(intent.at, intent.ended_at or intent.at) + INSTANT
    question = f"whether Neon created {intent.name} is not known"
    if account in keys.unreadable:
        why = f"{question}, and its list cannot be read: {keys.unreadable[account]}"
        yield Step(Do.WAIT, why, coming=Do.MINT)
    elif now < since:
        yield Step(Do.WAIT, f"{question}; a list asked for after {when(since)} will tell", until=since, coming=Do.MINT)
    elif listing is None or listing.requested_at < since:
        yield Step(Do.LOOK, f"{question}; the list will tell", account=account)
    else:
        key = result_of(intent, listing)
        if key is not None:
            why = f"Neon created {intent.name}, but its secret never arrived"
            yield Step(Do.CLOSE_INTENT, why, key_id=key.id)
        elif listing.doubt:
            yield Step(Do.WAIT, f"{question}; {listing.doubt}", coming=Do.MINT)
        else:
            yield Step(Do.CLOSE_INTENT, f"Neon did not create {intent.name}")


def _recover(policy: Policy, record: Record, keys: Keys, now: datetime) -> Iterator[Step]:
    for closed, key in turned_up(record, keys):
        why = f"{closed.name} turned up in Neon's list although it was not there before"
        yield Step(Do.RECOVER, why, key_id=key.id, account=closed.scope.account)


def _lost_secrets(policy: Policy, record: Record, keys: Keys, now: datetime) -> Iterator[Step]:
    for generation in unfinished(record):
        if generation.key_id not in keys.in_hand:
            why = f"the process that held the secret of {generation.name} ended before it went live"
            yield Step(Do.ABANDON, why, key_id=generation.key_id)


def _adopt(policy: Policy, record: Record, keys: Keys, now: datetime) -> Iterator[Step]:
    wanted = policy.adopt
    if wanted is None or wanted in record.adopted:
        return
    account = policy.scope.account
    listing = list_of(keys, policy.scope)
    if account in keys.unreadable:
        why = f"key {wanted} is to be adopted, but Neon's list cannot be read: {keys.unreadable[account]}"
        yield Step(Do.WAIT, why)
    elif listing is None:
        yield Step(Do.LOOK, f"key {wanted} is to be adopted, so Neon's list is needed", account=account)
    elif wanted in keys.owners:
        yield Step(Do.REFUSE, f"key {wanted} cannot be adopted: it belongs to policy {keys.owners[wanted]}")
    elif wanted not in listing.keys and listing.doubt:
        yield Step(Do.WAIT, f"key {wanted} is to be adopted, but {listing.doubt}")
    elif wanted not in listing.keys and now - listing.requested_at > LIST_MAX_AGE:
        yield Step(Do.LOOK, f"key {wanted} is to be adopted, and may be newer than Neon's list", account=account)
    elif wanted not in listing.keys:
        why = f"key {wanted} cannot be adopted: it is not in the list of scope {policy.scope}"
        yield Step(Do.REFUSE, f"{why}; correct adopt or scope, or take adopt out of the policy")
    elif not belongs(listing.keys[wanted], policy.scope):
        found = listing.keys[wanted].project or "none"
        why = f"key {wanted} cannot be adopted: the policy's scope is {policy.scope}, the key's project is {found}"
        yield Step(Do.REFUSE, f"{why}; correct the scope")
    else:
        yield Step(Do.ADOPT, f"the configuration asks to adopt {listing.keys[wanted].name}", key_id=wanted)


def _orders(policy: Policy, record: Record, keys: Keys, now: datetime) -> Iterator[Step]:
    for order in record.orders:
        if now - order.at > ORDER_LAPSES_AFTER:
            what = f"the order to {order.kind} given at {when(order.at)} is older than an hour"
            yield Step(Do.LAPSE, f"{what} and lapses; give it again if it is still wanted", order=order.id)
        elif order.kind is OrderKind.REVOKE:
            yield Step(Do.OBEY, "an operator ordered a revocation", key_id=order.key_id, order=order.id)
        elif record.intent is None and in_hand(record, keys) is not None:
            yield Step(Do.OBEY, "an operator ordered a rotation, and one is under way: they are one", order=order.id)
        elif order.leaked and order.now and any(g.condemned is not Condemned.NOW for g in record.generations):
            why = "an operator ordered every key of the policy to be revoked before a new one is made"
            yield Step(Do.OBEY, why, order=order.id)


def _hand_off(policy: Policy, record: Record, keys: Keys, now: datetime) -> Iterator[Step]:
    generation = in_hand(record, keys)
    if generation is None or generation.condemned is Condemned.NOW:
        return
    name, key_id = generation.name, generation.key_id
    if is_missing(generation):
        yield Step(Do.ABANDON, f"{name} is gone from Neon before it went live", key_id=key_id, gone=True)
    elif generation.check is Check.PENDING:
        yield Step(Do.VERIFY, f"{name} is new: does Neon accept it?", key_id=key_id)
    elif was_refused(generation):
        yield Step(Do.ABANDON, f"Neon refused {name} although it had just created it", key_id=key_id)
    elif policy.management_key and generation.check is not Check.PASSED:
        yield _check_again(generation, now)
    elif missing := lacking(policy, generation):
        yield _deliver(policy, record, generation, missing[0], keys, now)
    elif keys.distrust:  # the grace period of the key before runs from the moment that is recorded now
        why = f"every sink has receipted {name}, but {keys.distrust}"
        yield Step(Do.WAIT, why, until=now + CHECK_AGAIN_AFTER, coming=Do.GO_LIVE, key_id=key_id)
    else:
        yield Step(Do.GO_LIVE, f"every sink has receipted {name}", key_id=key_id)


def _check_again(generation: Generation, now: datetime) -> Step:
    """The management key's successor replaces the only key that could mend a mistake, so it must have been accepted."""
    again = (generation.checked_at or now) + CHECK_AGAIN_AFTER
    why = f"{generation.name} is to be the management key, and Neon has not accepted it yet"
    if now < again:
        return Step(Do.WAIT, why, until=again, coming=Do.DELIVER, key_id=generation.key_id)
    return Step(Do.VERIFY, why, key_id=generation.key_id)


def _deliver(policy: Policy, record: Record, generation: Generation, sink: SinkRef, keys: Keys, now: datetime) -> Step:
    name, key_id = generation.name, generation.key_id
    offer = generation.offers.get(sink.target)

    def wait(why: str, until: datetime | None = None) -> Step:
        return Step(Do.WAIT, why, until=until, coming=Do.DELIVER, key_id=key_id, sink=sink.name)

    if record.gone.get(sink.target) == sink.settings:
        why = f"sink {sink.name} answered 410 Gone to {name}; change or remove it in the configuration, or run"
        return Step(Do.REFUSE, f"{why}: rotator rotate {policy.name} to try it again", key_id=key_id, sink=sink.name)
    pause_ends = record.offered.get(sink.target)
    if offer is None and pause_ends is not None and now < pause_ends:
        why = f"sink {sink.name} may still be taking in an earlier key"
        return wait(f"{why}; {name} is offered to it at {when(pause_ends)}", pause_ends)
    if offer is None and not _window_passes(policy, record, now) and policy.window is not None:
        opens = window_opens(policy.window, now)
        return wait(f"{name} is offered to sink {sink.name} when the window opens at {when(opens)}", opens)
    if offer is not None and offer.retry_at is not None and now < offer.retry_at:
        return wait(
            f"sink {sink.name} did not take {name}: {offer.error}; next try at {when(offer.retry_at)}", offer.retry_at
        )
    seen = max(t for t in (generation.recorded_at, generation.seen_at) if t is not None)
    if now - seen > SEEN_ALIVE_MAX_AGE:
        account = generation.scope.account
        listing = list_of(keys, generation.scope)
        if account in keys.unreadable:
            return wait(
                f"{name} is offered to sink {sink.name} when Neon's list can be read: {keys.unreadable[account]}"
            )
        if listing is None or now - listing.requested_at > SEEN_ALIVE_MAX_AGE:
            why = f"{name} was last seen alive at {when(seen)}; is it still there?"
            return Step(Do.LOOK, why, account=account)
        if key_id not in listing.keys:
            if listing.doubt:
                return wait(f"{name} is not in Neon's list, but {listing.doubt}")
            return Step(Do.ABANDON, f"{name} is gone from Neon before it went live", key_id=key_id, gone=True)
    attempt = "again, " if offer is not None and offer.failures else ""
    return Step(Do.DELIVER, f"{attempt}sink {sink.name} has no receipt of {name} yet", key_id=key_id, sink=sink.name)


def _window_passes(policy: Policy, record: Record, now: datetime) -> bool:
    current = live(record)
    if window_is_open(policy.window, now) or current is None or is_missing(current):
        return True
    return record.rotation is not None and record.rotation.urgent


def _forget(policy: Policy, record: Record, keys: Keys, now: datetime) -> Iterator[Step]:
    for generation in record.generations:
        leaves = generation.condemned is Condemned.NOW or generation in older(record)
        if leaves and is_missing(generation):
            how = "as was asked" if generation.revocation else "somebody else revoked it"
            yield Step(Do.FORGET, f"{generation.name} is gone from Neon's list: {how}", key_id=generation.key_id)


def _mint(policy: Policy, record: Record, keys: Keys, now: datetime) -> Iterator[Step]:
    if record.intent is None and in_hand(record, keys) is None:
        yield mint_step(policy, record, keys, now)


def _last_orders(policy: Policy, record: Record, keys: Keys, now: datetime) -> Iterator[Step]:
    """An order to rotate cannot be carried out any more, but ends like every order."""
    for step in _orders(policy, record, keys, now):
        kind = next(order.kind for order in record.orders if order.id == step.order)
        if step.do is Do.LAPSE or kind is OrderKind.REVOKE:
            yield step


_Check = Callable[[Policy, Record, Keys, datetime], Iterator[Step]]
_CHECKS: tuple[_Check, ...] = (
    _settle_intent,
    _recover,
    _lost_secrets,
    _adopt,
    _orders,
    _hand_off,
    _forget,
    revoke_steps,
    _mint,
)
_LAST_CHECKS: tuple[_Check, ...] = (
    _settle_intent,
    _recover,
    _lost_secrets,
    _last_orders,
    _forget,
    revoke_at_once_steps,
)
