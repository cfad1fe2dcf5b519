"""What would happen when, if everything went well: the decision, asked again and again. Pure.

`foresee` folds `next_step` over imagined outcomes: Neon creates and revokes, every sink takes what it is
offered at once, its consumers take the new key up, and nobody uses an old one any more. So `plan` can only
ever say what the service would do: both ask the same function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator import transitions
from rotator.bookkeeping import bookkeeping
from rotator.decide import next_step
from rotator.due import due
from rotator.model import Check, Do, Key, KeyList, Keys, Policy, Record, Step
from rotator.standing import WHOLE_SECOND, find
from rotator.transitions import Change

MOST = 200
_STEPS = 20 * MOST
_TOLD = {Do.MINT: "mint", Do.DELIVER: "deliver", Do.REVOKE: "revoke", Do.ADOPT: "adopt"}


@dataclass(frozen=True)
class Planned:
    """One thing that would happen, and why."""

    at: datetime
    policy: str
    step: str
    why: str


@dataclass(frozen=True)
class _World:
    record: Record
    keys: Keys
    now: datetime


def foresee(policy: Policy, record: Record, keys: Keys, now: datetime, until: datetime) -> list[Planned]:
    """What would happen to a policy up to `until`, in order; the first `MOST` things.

    A `refuse` stands once, where it is first met. The last entry is a `wait` where nothing can be said beyond it.
    """
    world = _World(record, keys, now)
    planned: list[Planned] = []
    for _ in range(_STEPS):
        step = next_step(policy, world.record, world.keys, world.now)
        rests = step.do in (Do.WAIT, Do.REFUSE)
        beyond = step.until is None or step.until > until
        if step.do in _TOLD or (step.do is Do.REFUSE and step.why not in (entry.why for entry in planned)):
            planned.append(Planned(world.now, policy.name, _TOLD.get(step.do, "refuse"), step.why))
        elif step.do is Do.WAIT and beyond and (step.until is None or not planned):
            planned.append(Planned(world.now, policy.name, "wait", step.why))
        if len(planned) >= MOST or (rests and beyond):
            break
        world = _at(world, step.until or world.now) if rests else _imagine(policy, world, step)
    return planned


def _at(world: _World, now: datetime) -> _World:
    lists = {name: replace(listing, requested_at=now) for name, listing in world.keys.lists.items()}
    return _World(world.record, replace(world.keys, lists=lists, unreadable={}, distrust=""), now)


def _imagine(policy: Policy, world: _World, step: Step) -> _World:
    if step.do is Do.LOOK:
        if step.account not in world.keys.lists:
            why = "it was not read for this plan"
            return replace(world, keys=replace(world.keys, unreadable={step.account or "": why}))
        return _at(world, world.now)
    if step.do is Do.MINT:
        return _minted(policy, world, step)
    record, keys, now = world.record, world.keys, world.now
    key_id = step.key_id or 0
    if step.do is Do.VERIFY:
        return replace(world, record=transitions.checked(record, key_id, Check.PASSED, timedelta(0), now).record)
    if step.do is Do.DELIVER:
        return _delivered(policy, world, step)
    if step.do is Do.GO_LIVE:
        live = _used(policy, transitions.go_live(record, key_id, step.why, now).record, key_id, now)
        return replace(world, record=live, keys=replace(keys, in_hand=frozenset()))
    if step.do is Do.REVOKE:
        account = find(record, key_id).scope.account
        left = {i: key for i, key in keys.lists[account].keys.items() if i != key_id}
        lists = _with_list(keys.lists, replace(keys.lists[account], keys=left))
        revoked = transitions.revoked(record, key_id, step.why, now)
        return replace(world, record=revoked.record, keys=replace(keys, lists=lists))
    return replace(world, record=_closing(record, bookkeeping(policy, keys, step, now)(record)))


def _minted(policy: Policy, world: _World, step: Step) -> _World:
    number = world.record.next_generation
    name = f"{policy.name}-{world.now:%Y%m%dT%H%M%SZ}"
    created_at = world.now.replace(microsecond=0)  # as Neon's times are
    key = Key(-number, name, created_at, project=policy.scope.project)  # no key of Neon's has such an id
    urgent = due(policy, world.record, world.keys, world.now).urgent
    record = _closing(world.record, transitions.intend(world.record, policy, name, step.why, urgent, world.now))
    record = transitions.created(record, key, f"sha256:{number}", world.now).record
    listing = world.keys.lists[policy.scope.account]
    lists = _with_list(world.keys.lists, replace(listing, keys={**listing.keys, key.id: key}))
    return replace(world, record=record, keys=replace(world.keys, lists=lists, in_hand=frozenset({key.id})))


def _delivered(policy: Policy, world: _World, step: Step) -> _World:
    key_id, now = step.key_id or 0, world.now
    sink = next(ref for ref in policy.deliver_to if ref.name == step.sink)
    record = transitions.offer(world.record, key_id, sink, step.why, now).record
    record = transitions.receipted(record, key_id, sink, now).record
    held = find(record, key_id).fingerprint or ""
    contents = {**world.keys.contents, sink.target: held} if sink.reads_back else world.keys.contents
    return replace(world, record=record, keys=replace(world.keys, contents=contents))


def _used(policy: Policy, record: Record, key_id: int, now: datetime) -> Record:
    """The consumers take the new key up at once. Told only where something waits for it: when, nobody knows."""
    if not policy.hold.until_new_key_used:
        return record
    used = now + 2 * WHOLE_SECOND  # later than our own check of the key
    return replace(
        record,
        generations=tuple(replace(g, last_used_at=used) if g.key_id == key_id else g for g in record.generations),
    )


def _with_list(lists: Mapping[str, KeyList], listing: KeyList) -> dict[str, KeyList]:
    return {**lists, listing.account: listing}


def _closing(record: Record, change: Change) -> Record:
    left = tuple(order for order in record.orders if order.id not in change.closed_orders)
    return replace(change.record, orders=left)
