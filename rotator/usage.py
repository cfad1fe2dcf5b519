"""Which keys are unused, and what role each key of an account has. Pure.

A key is unused when it is old and was never used, or was not used for `unused_keys.after`. Keys that
are on their way out (retiring, held, orphans) are not flagged: something is done about them already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase

from rotator.model import Generation, Key, KeyList, Policy, Record
from rotator.standing import WHOLE_SECOND, live
from rotator.words import span, when


class Role(StrEnum):
    LIVE = "live"
    RETIRING = "retiring"
    HELD = "held"
    ORPHAN = "orphan"
    MANAGEMENT = "management"
    ABANDONED = "abandoned"
    UNMANAGED = "unmanaged"


@dataclass(frozen=True)
class UnusedRule:
    """`unused_keys` of the configuration: `ignore` are globs over key names."""

    after: timedelta
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeyReport:
    """One key of an account: whose it is, what it is there for, and why it is flagged, if it is."""

    key: Key
    account: str
    role: Role
    policy: str | None
    generation: int | None
    unused: bool
    why: str


def role_of(record: Record, generation: Generation) -> Role:
    """What a policy's key is there for. A key on its way to the sinks counts as live."""
    if generation.orphan is not None:
        return Role.ORPHAN
    if generation.live_since is None or generation is live(record):
        return Role.LIVE
    return Role.HELD if generation.held is not None else Role.RETIRING


def inventory(
    lists: Iterable[KeyList],
    records: Mapping[str, Record],
    policies: Iterable[str],
    own: Mapping[int, str],
    rule: UnusedRule,
    now: datetime,
) -> list[KeyReport]:
    """Every key of the listed accounts, in the order of their ids."""
    configured = set(policies)
    owners = {g.key_id: (record, g) for record in records.values() for g in record.generations}
    reports = []
    for listing in lists:
        for key in listing.keys.values():
            record, generation = owners.get(key.id, (None, None))
            role = _role(key, record, generation, configured, own)
            why = "" if role in _LEAVING else _why_unused(key, generation, rule, now)
            reports.append(
                KeyReport(
                    key=key,
                    account=listing.account,
                    role=role,
                    policy=record.policy if record else None,
                    generation=generation.number if generation else None,
                    unused=bool(why),
                    why=why or _WORDS[role],
                )
            )
    return sorted(reports, key=lambda report: report.key.id)


_LEAVING = (Role.RETIRING, Role.HELD, Role.ORPHAN)
_WORDS = {
    Role.LIVE: "the live key of its policy",
    Role.RETIRING: "replaced, in its grace period",
    Role.HELD: "replaced, and held past its grace period",
    Role.ORPHAN: "its secret was lost before it went live; it is on its way out",
    Role.MANAGEMENT: "the key that this program authenticates with",
    Role.ABANDONED: "its policy is no longer in the configuration",
    Role.UNMANAGED: "no policy owns it; it is only listed",
}


def _role(
    key: Key, record: Record | None, generation: Generation | None, configured: set[str], own: Mapping[int, str]
) -> Role:
    if record is None or generation is None:
        return Role.MANAGEMENT if key.id in own else Role.UNMANAGED
    if record.policy not in configured:
        return Role.ABANDONED
    return role_of(record, generation)


def _why_unused(key: Key, generation: Generation | None, rule: UnusedRule, now: datetime) -> str:
    """Why the key is flagged as unused, or an empty string."""
    if any(fnmatchcase(key.name, pattern) for pattern in rule.ignore):
        return ""
    used = key.last_used_at
    if generation is not None and generation.checked_at is not None and used is not None:
        used = used if used > generation.checked_at + WHOLE_SECOND else None
    last = used or key.created_at
    if now - last < rule.after:
        return ""
    if used is None:
        return f"never used since it was created {span(now - key.created_at)} ago"
    return f"not used since {when(used)}, {span(now - used)} ago"


def accounts_in_use(policies: Mapping[str, Policy], records: Mapping[str, Record]) -> set[str]:
    """The accounts that some policy has a key in, or may yet find one in."""
    scopes = {policy.scope for policy in policies.values()}
    scopes |= {generation.scope for record in records.values() for generation in record.generations}
    scopes |= {record.intent.scope for record in records.values() if record.intent is not None}
    scopes |= {closed.scope for record in records.values() for closed in record.closed}
    return {scope.account for scope in scopes}
