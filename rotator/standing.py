"""Where a policy's keys stand: questions that the decision, `status` and the transitions share. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.model import (
    Check,
    ClosedName,
    Generation,
    Held,
    Intent,
    Key,
    KeyList,
    Keys,
    Order,
    OrderKind,
    Policy,
    Record,
    Scope,
    SinkRef,
)

WHOLE_SECOND = timedelta(seconds=1)  # Neon's times have no fraction, so one of ours may seem up to this much later
INSTANT = timedelta.resolution  # a list asked for after something was asked for this much later, or more
CLOCK_AHEAD = timedelta(minutes=5)  # so far our own time may be ahead of Neon's without a doubt, see `clock.JUMP`
_MISSING_AFTER_POLLS = 2


def live(record: Record) -> Generation | None:
    """The live key: the newest that went live and was not replaced.

    A retiring key does not become the live one again when its successor is revoked: the sinks have no use for it.
    """
    return max((g for g in record.generations if g.live_since and not g.retiring_since), key=order_of, default=None)


def in_hand(record: Record, keys: Keys) -> Generation | None:
    """The newest generation on its way to the sinks whose secret this process holds."""
    return max((g for g in unfinished(record) if g.key_id in keys.in_hand), key=order_of, default=None)


def unfinished(record: Record) -> list[Generation]:
    """Generations that are neither live nor orphans: their secret is, or was, in some process's memory."""
    return [g for g in record.generations if not g.live_since and not g.orphan]


def older(record: Record) -> list[Generation]:
    """Retiring and held keys, and orphans, oldest first."""
    newest = live(record)
    return sorted((g for g in record.generations if g.orphan or (g.live_since and g is not newest)), key=order_of)


def order_of(generation: Generation) -> tuple[int, datetime, int]:
    """By number; adopted keys, which share the number 0, by age."""
    return (generation.number, generation.created_at, generation.key_id)


def find(record: Record, key_id: int | None) -> Generation:
    """The generation with this key. Raises KeyError."""
    for generation in record.generations:
        if generation.key_id == key_id:
            return generation
    raise KeyError(key_id)


def lacking(policy: Policy, generation: Generation) -> list[SinkRef]:
    """The policy's sinks that owe a receipt of this generation, in order."""
    return [s for s in policy.deliver_to if s.target not in generation.receipts and s.target not in generation.excused]


def rotate_order(record: Record) -> Order | None:
    """The oldest open order to rotate."""
    return min((o for o in record.orders if o.kind is OrderKind.ROTATE), key=lambda order: order.id, default=None)


def is_missing(generation: Generation) -> bool:
    """Whether two believed lists in a row lacked the key."""
    return generation.absence is not None and generation.absence.polls >= _MISSING_AFTER_POLLS


def list_of(keys: Keys, scope: Scope) -> KeyList | None:
    """The newest list that a key of this scope would be in."""
    return keys.lists.get(scope.account)


def gone_from(listing: KeyList | None, generation: Generation) -> bool:
    """Whether a believed list, asked for after the key was recorded, lacks it."""
    return (
        listing is not None
        and not listing.doubt
        and listing.requested_at > generation.recorded_at
        and generation.key_id not in listing.keys
    )


def foreign_use(generation: Generation) -> datetime | None:
    """When somebody other than this program last used the key, as far as is known."""
    used, checked = generation.last_used_at, generation.checked_at
    if used is None or (checked is not None and used <= checked + WHOLE_SECOND):
        return None
    return used


def quiet_period(policy: Policy, generation: Generation) -> timedelta:
    """How long an old key must have been unused before it is revoked; 0 for never mind.

    `auto` is twice the longest gap between two uses that was seen in one run, at least an hour or the
    grace period if that is shorter, at most `hold.at_most`.
    """
    set_by_user = policy.hold.while_old_key_used_within
    if set_by_user is not None:
        return set_by_user
    least = min(timedelta(hours=1), policy.grace_period)
    return min(max(2 * (generation.longest_gap or timedelta(0)), least), policy.hold.at_most)


def named_like(policy: str, keys: Iterable[Key]) -> list[Key]:
    """Keys with a name as this policy gives them, by id. No proof that it did."""
    pattern = re.compile(re.escape(policy) + r"-\d{8}T\d{6}Z-[a-z0-9]{6}")
    return sorted((key for key in keys if pattern.fullmatch(key.name)), key=lambda key: key.id)


def belongs(key: Key, scope: Scope) -> bool:
    """Whether a listed key has this scope (its list says the account)."""
    return key.project == scope.project


def result_of(intent: Intent, listing: KeyList) -> Key | None:
    """The key that an intent created, if the list holds it: its exact name, created after the intent."""
    return made_under(intent.name, intent.at, listing)


def found_again(closed: ClosedName, listing: KeyList) -> Key | None:
    """The key that a remembered name was kept for, if it is in the list."""
    if closed.key_id is not None:
        return listing.keys.get(closed.key_id)
    return made_under(closed.name, closed.not_before, listing)


def made_under(name: str, not_before: datetime, listing: KeyList) -> Key | None:
    """The key of this name that was created since `not_before`.

    A `Date` that is wrong by less than a jump is followed, so the key may be that much older than what is recorded.
    """
    earliest = not_before - CLOCK_AHEAD - WHOLE_SECOND
    for key in listing.keys.values():
        if key.name == name and key.created_at >= earliest:
            return key
    return None


def turned_up(record: Record, keys: Keys) -> list[tuple[ClosedName, Key]]:
    """Keys in the lists under a remembered name, which the record does not have."""
    known = {generation.key_id for generation in record.generations}
    found = []
    for closed in record.closed:
        listing = list_of(keys, closed.scope)
        key = found_again(closed, listing) if listing else None
        if key is not None and key.id not in known:
            found.append((closed, key))
    return found


@dataclass(frozen=True)
class FileTrouble:
    """What is wrong with a file sink that should hold the live key; `lost` when it holds nothing that works."""

    sink: SinkRef
    lost: bool
    why: str


def file_troubles(policy: Policy, record: Record, keys: Keys) -> list[FileTrouble]:
    """File sinks that do not hold the live key although they receipted it.

    A sink that has since been offered a newer generation may hold that one instead.
    """
    current = live(record)
    if current is None or current.fingerprint is None:
        return []
    troubles = []
    for sink in policy.deliver_to:
        found = keys.contents.get(sink.target)
        if not sink.reads_back or found is None or sink.target not in current.receipts:
            continue
        newer = {g.fingerprint for g in record.generations if g.number > current.number and sink.target in g.offers}
        if found == current.fingerprint or found in newer:
            continue
        if found in record.spent:
            troubles.append(FileTrouble(sink, True, f"sink {sink.name} holds a key that is gone from Neon"))
        elif found == Held.NOTHING:
            troubles.append(FileTrouble(sink, True, f"sink {sink.name} has lost the live key {current.name}"))
        elif found == Held.UNREADABLE:
            troubles.append(FileTrouble(sink, False, f"sink {sink.name} cannot be read, so what it holds is unknown"))
        else:
            troubles.append(
                FileTrouble(sink, False, f"sink {sink.name} holds another secret than the live key {current.name}")
            )
    return troubles


def was_refused(generation: Generation) -> bool:
    """Whether Neon refused the key when it was new."""
    return generation.check is Check.REFUSED
