"""The rules of the design for revoking a key, written down once more: an oracle that shares no code with the core.

Each function answers with the sentences that do not hold.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rotator.model import Check, Generation, KeyList, Keys, Policy, Record, Then
from rotator.schedule import window_is_open


def against_touching(keys: Keys, generation: Generation, now: datetime) -> list[str]:
    """What no order waives."""
    listing = keys.lists.get(generation.scope.account)
    key = listing.keys.get(generation.key_id) if listing else None
    rules = {
        "there is a list": listing is not None,
        "it is at most 30 s old and believed": listing is not None and is_fresh(listing, now),
        "it holds the key": key is not None,
        "the name is the one recorded": key is not None and key.name == generation.name,
        "the scope is the one recorded": key is not None and key.project == generation.scope.project,
        "it is not the management key": generation.key_id not in keys.own,
        "no other policy owns it": generation.key_id not in keys.owners,
        "the clock is to be trusted": not keys.distrust,
    }
    return [rule for rule, holds in rules.items() if not holds]


def is_fresh(listing: KeyList, now: datetime) -> bool:
    return timedelta(0) <= now - listing.requested_at <= timedelta(seconds=30) and not listing.doubt


def against_revoking_by_rule(policy: Policy, record: Record, keys: Keys, old: Generation, now: datetime) -> list[str]:
    """The conditions for a retiring key or an offered orphan."""
    lives = [g for g in record.generations if g.live_since and not g.retiring_since]
    new = max(lives, key=lambda g: (g.number, g.created_at), default=None)
    if new is None or new.number <= old.number:
        return ["a later generation is live"]
    new_list = keys.lists.get(new.scope.account)
    if old.orphan is None:
        grace_from = old.retiring_since
    else:
        superseded = [old.superseded.get(target) for target in old.offers]
        grace_from = None if None in superseded else max(at for at in superseded if at is not None)
    ends = grace_from + policy.grace_period if grace_from is not None else None
    used = old.last_used_at
    by_us = used is not None and old.checked_at is not None and used <= old.checked_at + timedelta(seconds=1)
    quiet = policy.hold.while_old_key_used_within
    if quiet is None:
        least = min(timedelta(hours=1), policy.grace_period)
        quiet = max(least, (old.longest_gap or timedelta(0)) * 2)
        quiet = min(quiet, policy.hold.at_most)
    old_list = keys.lists.get(old.scope.account)  # what it does not show yet is not known
    silent = used is None or (old_list is not None and used + quiet <= old_list.requested_at)
    in_use = not silent and not by_us and quiet > timedelta(0)
    new_used = new.last_used_at is not None and (
        new.checked_at is None or new.last_used_at > new.checked_at + timedelta(seconds=1)
    )
    overridden = policy.hold.then is Then.REVOKE and ends is not None and ends + policy.hold.at_most <= now

    def may_hold(target: str) -> set[str | None]:
        later = {g.fingerprint for g in record.generations if g.number > new.number and target in g.offers}
        return {new.fingerprint, *later}

    rules = {
        "it was never refused": new.check is not Check.REFUSED,
        "it is in the list": new_list is not None and new.key_id in new_list.keys,
        "that list is fresh and believed": new_list is not None and is_fresh(new_list, now),
        "it is not missing": new.absence is None or new.absence.polls < 2,
        "every sink has receipted it": all(
            s.target in new.receipts or s.target in new.excused for s in policy.deliver_to
        ),
        "every file still holds it": all(
            keys.contents.get(s.target) in may_hold(s.target)
            for s in policy.deliver_to
            if s.reads_back and s.target in new.receipts
        ),
        "the grace period has passed": ends is not None and ends <= now,
        "it is not in use": overridden or not in_use,
        "the new key is used": overridden or not policy.hold.until_new_key_used or new_used,
        "the window is open": window_is_open(policy.window, now),
    }
    return [rule for rule, holds in rules.items() if not holds]
