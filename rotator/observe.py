"""What a look outside teaches: changes of a record that follow from Neon's list and the sinks alone. Pure.

`observe` runs before every decision. It only ever adds knowledge: a `last_used_at` that vanishes or
goes back changes nothing that was known, and the absence of a key counts only in lists that are
believed, were asked for after the key was recorded, and came from a poll. `judge` says which lists
are believed; `own_keys` which keys may be the one that this process authenticates with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.model import (
    PERSONAL,
    Absence,
    Event,
    Generation,
    Held,
    Key,
    KeyList,
    Keys,
    Misdated,
    Offer,
    Policy,
    Record,
)
from rotator.standing import WHOLE_SECOND, file_troubles, foreign_use, gone_from, is_missing, list_of, live
from rotator.transitions import Change
from rotator.words import when

_POLLS_BEFORE_BELIEF = 3
_CHECKED_WITHIN = timedelta(minutes=5)  # a new key is checked right after its creation
_BY_COINCIDENCE = "it was used when this program made its own calls; neon.api_key_id would tell for certain"


def observe(policy: Policy, record: Record, keys: Keys) -> Change | None:
    """The record with what was just seen, or None if that changes nothing."""
    current = live(record)
    events: list[Event] = []
    generations = []
    for before in record.generations:
        after = _seen(_redated(before, keys.misdated), keys)
        if before is current:
            after, news = _missing_live(after, record)
            events += news
        if why := _somebody_has(policy, record, after, keys):
            after = _offered_to_all(policy, after)
            events.append(Event("orphan.handed_on", why, record.policy, after.number, after.key_id, after.name))
        generations.append(after)
    drifted = tuple(sorted(t.sink.target for t in file_troubles(policy, record, keys)))
    unread = [t for t in record.drifted if t not in keys.contents and any(s.target == t for s in policy.deliver_to)]
    drifted = tuple(sorted({*drifted, *unread}))
    for trouble in file_troubles(policy, record, keys):
        if trouble.sink.target not in record.drifted and current is not None:
            events.append(_event("sink.drifted", trouble.why, record, current))
    changed = replace(record, generations=tuple(generations), drifted=drifted)
    return Change(changed, tuple(events)) if changed != record else None


def _seen(generation: Generation, keys: Keys) -> Generation:
    listing = list_of(keys, generation.scope)
    if listing is None:
        return generation
    key = listing.keys.get(generation.key_id)
    if key is None:
        return _absent(generation, listing)
    changed = _used(generation, key, keys)
    if changed.absence is not None:
        changed = replace(changed, absence=None, missing_reported=False)
    unfinished = not changed.live_since and not changed.orphan
    if unfinished and (changed.seen_at is None or listing.requested_at > changed.seen_at):
        changed = replace(changed, seen_at=listing.requested_at)
    return changed


def _redated(generation: Generation, misdated: Iterable[Misdated]) -> Generation:
    """The generation with the moments that grace periods count from no earlier than they can have been."""

    def of(at: datetime) -> datetime:
        for wrong in misdated:
            at = wrong.at if wrong.since < at <= wrong.until else at
        return at

    return replace(
        generation,
        receipts={target: of(at) for target, at in generation.receipts.items()},
        superseded={target: of(at) for target, at in generation.superseded.items()},
        retiring_since=of(generation.retiring_since) if generation.retiring_since is not None else None,
    )


def _absent(generation: Generation, listing: KeyList) -> Generation:
    before = generation.absence
    if not listing.polled or not gone_from(listing, generation):
        return generation
    if before is None:
        at = listing.requested_at
        return replace(generation, absence=Absence(listing.confirms, at, at))
    if listing.requested_at <= before.newest:
        return generation
    return replace(generation, absence=Absence(before.polls + 1, before.since, listing.requested_at))


def _used(generation: Generation, key: Key, keys: Keys) -> Generation:
    known, used, since = generation.last_used_at, key.last_used_at, keys.since
    if used is None or (known is not None and used <= known):
        return generation
    if keys.own.get(key.id, _BY_COINCIDENCE) != _BY_COINCIDENCE:
        # The list itself is a use of the key that it was asked for with. A key that is taken for ours only because
        # somebody used it at that moment must stay in use: this very use may be the one that holds it.
        return replace(generation, last_used_at=used, last_used_from=key.last_used_from, checked_at=used)
    gap = generation.longest_gap
    before = foreign_use(generation)  # from our own check of the new key to its first use is no gap
    if before is not None and since is not None and before >= since:
        gap = max(gap or timedelta(0), used - before)
    return replace(generation, last_used_at=used, last_used_from=key.last_used_from, longest_gap=gap)


def _missing_live(generation: Generation, record: Record) -> tuple[Generation, list[Event]]:
    if not is_missing(generation) or generation.missing_reported or generation.revocation is not None:
        return generation, []
    why = f"the live key {generation.name} is gone from Neon's list; its consumers cannot use it any more"
    return replace(generation, missing_reported=True), [_event("api_key.missing", why, record, generation)]


def _somebody_has(policy: Policy, record: Record, generation: Generation, keys: Keys) -> str:
    """What shows that an orphan was handed on although no offer of it is recorded, or an empty text.

    Every offer is recorded before it is made, so this is a state that was restored from a backup, and is older than
    what happened. The orphan may be at every sink then, perhaps as the key that everybody uses.
    """
    if generation.orphan is None or generation.offers:
        return ""
    used = foreign_use(generation)
    was_checked = generation.checked_at is None and generation.fingerprint is not None  # by us, before we died
    if used is not None and not (was_checked and used <= generation.created_at + _CHECKED_WITHIN):
        return f"{generation.name} was used at {when(used)}, so it was handed on, which this state does not know"
    for trouble in file_troubles(policy, record, keys):
        held = keys.contents.get(trouble.sink.target)
        unknown = generation.fingerprint is None and not trouble.lost and held != Held.UNREADABLE
        if unknown or held == generation.fingerprint:
            return f"{trouble.why}: that may be {generation.name}, handed on, which this state does not know"
    return ""


def _offered_to_all(policy: Policy, generation: Generation) -> Generation:
    assert generation.orphan is not None  # noqa: S101 - only asked of orphans
    targets = [sink.target for sink in policy.deliver_to] or ["somebody"]
    return replace(generation, offers=dict.fromkeys(targets, Offer(at=generation.orphan.since)))


def _event(name: str, why: str, record: Record, generation: Generation) -> Event:
    return Event(name, why, record.policy, generation.number, generation.key_id, generation.name, notify=True)


@dataclass(frozen=True)
class Judgement:
    """What was found suspicious in the lists of an account so far: the keys they lacked, polls in a row."""

    lacked: frozenset[int] = frozenset()
    polls: int = 0


def judge(
    listing: KeyList, known: Set[int], own: int | None, before: Judgement, vouched: bool
) -> tuple[KeyList, Judgement]:
    """The list with its doubt, and what to remember for the next poll.

    `known` are the keys that should be in it, `own` our own key's id if it is known and of this account,
    `vouched` whether `GET /auth` has just succeeded.
    """
    if own is not None and own not in listing.keys:
        doubt = (
            "Neon's list lacks the management key itself, so it is not believed; if neon.api_key_id is another key's, "
            "correct it"
        )
        return replace(listing, doubt=doubt), Judgement()
    if listing.account == PERSONAL and not listing.keys:
        return replace(listing, doubt="Neon's list is empty, so it is not believed"), Judgement()
    lacked = frozenset(known - listing.keys.keys())
    several = len(lacked) > 1 and len(lacked) * 10 > len(known)
    if not lacked or not (several or len(lacked) == len(known)):
        return listing, Judgement()
    polls = before.polls + listing.polled if lacked == before.lacked else int(listing.polled)
    now = Judgement(lacked, polls)
    if polls >= _POLLS_BEFORE_BELIEF and vouched:
        return replace(listing, confirms=polls), now
    doubt = (
        f"Neon's list lacks {len(lacked)} of {len(known)} known keys, so it is not believed before "
        f"{_POLLS_BEFORE_BELIEF} polls in a row agree"
    )
    return replace(listing, doubt=doubt), now


def own_keys(
    configured: int | None,
    fingerprints: Mapping[int, str],
    fingerprint: str,
    uses: Iterable[tuple[datetime, datetime]],
    lists: Iterable[KeyList],
) -> dict[int, str]:
    """The keys that may be the management key, each with how that is known.

    `configured` is `neon.api_key_id`, `fingerprints` those of the policies' keys by id, as far as they are
    known, `fingerprint` the management key's, `uses` when our last calls began and ended. Only where no
    id is known is a key taken for ours by the times of its use, and never one with another fingerprint. A
    list is a call of ours too: a use that it shows from its own time on may be its own, however many followed.
    A configured id that the lists refute protects nothing; it counts as if there were none.
    """
    lists = tuple(lists)
    for key_id, known in fingerprints.items():
        if known == fingerprint:
            return {key_id: "its fingerprint is that of the key in use"}
    if configured is not None and configured not in fingerprints and not _in_no_list(configured, lists):
        return {configured: "neon.api_key_id says so"}
    spans = [(start - WHOLE_SECOND, end + WHOLE_SECOND) for start, end in uses]
    return {
        key.id: _BY_COINCIDENCE
        for listing in lists
        for key in listing.keys.values()
        if key.id not in fingerprints
        and key.last_used_at is not None
        and _may_be_ours(key.last_used_at, listing, spans)
    }


def wrong_id(configured: int | None, own: Mapping[int, str], lists: Iterable[KeyList]) -> str:
    """What is wrong with `neon.api_key_id`, given what `own_keys` made of it, or an empty string.

    That of a key which this program has replaced since, and knows its successor, is not wrong.
    """
    if configured is None or configured in own or any(how != _BY_COINCIDENCE for how in own.values()):
        return ""
    known = any(configured in listing.keys for listing in lists)
    found = "the key of a policy, and not the key in use" if known else "in no list of the account"
    return (
        f"{configured} is {found}, so it does not protect the management key; take the id that rotator keys "
        "shows as the key that this program authenticates with, or leave it out"
    )


def _in_no_list(configured: int, lists: Collection[KeyList]) -> bool:
    """Whether a personal list is known, and neither it nor any other has the key.

    Lists of organizations alone say nothing: the management key is as a rule a personal one.
    """
    return any(listing.account == PERSONAL for listing in lists) and all(configured not in each.keys for each in lists)


def _may_be_ours(used: datetime, listing: KeyList, spans: Iterable[tuple[datetime, datetime]]) -> bool:
    return used >= listing.requested_at - WHOLE_SECOND or any(start <= used <= end for start, end in spans)
