"""What truly happened to a policy's keys, and what may be revoked by that: the design's rules without the record.

The record is what the program believes. Here is what the world around it knows: who may hold which key, who
confirmed it, since when it is live, what operators ordered. All by key id; a later key has a larger id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rotator.model import Generation, Policy, Then


@dataclass
class Truth:
    """`sent` are keys that a sink may have, `taken` when it confirmed one, `used` when somebody else last used one."""

    sent: set[tuple[int, str]] = field(default_factory=set)
    taken: dict[tuple[int, str], datetime] = field(default_factory=dict)
    live: dict[int, datetime] = field(default_factory=dict)
    excused: dict[int, tuple[str, ...]] = field(default_factory=dict)
    ordered: set[int] = field(default_factory=set)
    used: dict[int, datetime] = field(default_factory=dict)
    said_gone: set[str] = field(default_factory=set)

    def copy(self) -> Truth:
        return Truth(
            set(self.sent),
            dict(self.taken),
            dict(self.live),
            dict(self.excused),
            set(self.ordered),
            dict(self.used),
            set(self.said_gone),
        )

    def against_revoking(self, policy: Policy, old: Generation, listed: set[int], now: datetime) -> list[str]:
        """The sentences that do not hold."""
        key_id = old.key_id
        if key_id in self.ordered:
            return []
        targets = [target for sent, target in self.sent if sent == key_id]
        if key_id not in self.live and not targets:
            return []  # nobody has it
        later = [other for other in self.live if other > key_id]
        if not later:
            return ["a later key went live"]
        new, grace_from = max(later), self._grace_from(old, targets, later)
        ends = grace_from + policy.grace_period if grace_from is not None else None
        overridden = policy.hold.then is Then.REVOKE and ends is not None and now >= ends + policy.hold.at_most
        used, quiet = self.used.get(key_id), policy.hold.while_old_key_used_within
        if quiet is None:
            quiet = min(timedelta(hours=1), policy.grace_period)  # at the least
        rules = {
            "the newest key that went live exists": new in listed,
            "every sink has confirmed it": all(
                (new, sink.target) in self.taken or sink.target in self.excused.get(new, ())
                for sink in policy.deliver_to
            ),
            "the grace period has passed since": ends is not None and now >= ends,
            "nobody used the old key of late": overridden or used is None or not quiet or now >= used + quiet,
        }
        return [rule for rule, holds in rules.items() if not holds]

    def _grace_from(self, old: Generation, targets: list[str], later: list[int]) -> datetime | None:
        if old.orphan is None:
            return min(self.live[key_id] for key_id in later)
        since = []
        for target in targets:
            taken = [
                at for (key_id, at_target), at in self.taken.items() if at_target == target and key_id > old.key_id
            ]
            if not taken:
                return None
            since.append(min(taken))
        return max(since, default=self.live.get(old.key_id))
