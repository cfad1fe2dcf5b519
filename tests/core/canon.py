"""When two worlds are the same: whatever happens next, both go on alike.

Ids become their rank, times the milliseconds from now, and what no rule asks any more is left out: times beyond the
longest that any rule counts (`longest`), words, the ends of things that are done. What is left is as small as the
rules allow, so that a policy that has digested its trouble is where it was before.

Left out although it is read: the words of `Generation.held`, which decide only whether they are written down again.
"""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from builders import APP, CI, DAY, HOUR, NOW, PERSONAL, VAULT

from rotator.model import Check, ClosedName, Condemned, Every, Generation, KeyList, OrderKind, Policy
from rotator.schedule import due_at
from rotator.standing import INSTANT, foreign_use

from .fold import World

_MS = timedelta(milliseconds=1)
_TARGETS = {APP.target: 0, CI.target: 1, VAULT.target: 2}
_ACCOUNTS = {"personal": 0, "org-a": 1}
_CHECKS = {check: number for number, check in enumerate(Check)}
_CONDEMNED = {None: 0, Condemned.AT_LIVE: 1, Condemned.NOW: 2}
_RECENT = 61_000  # lists are believed for 30 s, a key counts as seen alive for 60 s
_MANY = 12  # failures in a row after which no pause grows any more
_dues: dict[tuple[object, datetime], datetime] = {}


def longest(policy: Policy) -> int:
    """The longest time, in milliseconds, that a rule of this policy counts."""
    counted = policy.grace_period + policy.hold.at_most
    interval = policy.rotate.interval if isinstance(policy.rotate, Every) else timedelta(0)
    return max(counted, interval, 2 * HOUR) // _MS


def canonical(world: World) -> bytes:
    """16 bytes that are equal for worlds that go on alike."""
    return hashlib.blake2b(marshal.dumps(_Form(world).all(), 2), digest_size=16).digest()


class _Form:
    def __init__(self, world: World) -> None:
        self.world, self.record, self.now = world, world.record, world.now
        self.cap = longest(world.policy)
        known = {g.key_id for g in self.record.generations}
        self.living = {i for keys in world.neon.values() for i in keys} & world.made
        late = {key.id for _, key in world.late}
        ids = known | self.living | late
        ids |= {i for listing in world.lists.values() for i in listing.keys.keys() & world.made}
        self.rank = {key_id: rank for rank, key_id in enumerate(sorted(ids))}
        unknown = [key for keys in world.neon.values() for key in keys.values() if key.id in self.living - known]
        self.named = {key.name: key.id for key in (*unknown, *(key for _, key in world.late))}
        self.closed = [closed for closed in self.record.closed if closed.name in self.named]

    def ago(self, at: datetime | None, most: int | None = None) -> int:
        """Milliseconds since, at most `most`; -1 for never."""
        return -1 if at is None else min((self.now - at) // _MS, most or self.cap)

    def ahead(self, at: datetime | None) -> int:
        """Milliseconds until, 0 for not."""
        return 0 if at is None or at <= self.now else (at - self.now) // _MS

    def all(self) -> tuple[Any, ...]:
        world, record = self.world, self.record
        period = DAY if world.policy.window is not None else 6 * HOUR
        order_at = min((o.at for o in record.orders if o.kind is OrderKind.ROTATE), default=None)
        failure, intent, rotation = record.failure, record.intent, record.rotation
        return (
            0 if isinstance(world.policy.rotate, Every) else ((self.now - NOW) % period) // _MS,
            self.ahead(world.next_poll),
            targets(sink.target for sink in world.policy.deliver_to),
            world.policy.scope == PERSONAL,
            world.configured,
            "sinks" in world.down,
            "neon" in world.down,
            tuple(self.generation(g) for g in record.generations),
            None
            if intent is None
            else (
                intent.scope == PERSONAL,
                self.ahead(since := max(intent.at, intent.ended_at or intent.at) + INSTANT),
                self.newer(intent.scope.account, since - INSTANT),
                self.rank.get(self.named.get(intent.name, 0), -1),
            ),
            None if rotation is None else (rotation.urgent, rotation.ordered),
            None
            if failure is None
            else (
                min(failure.count, _MANY),
                self.ahead(failure.retry_at),
                order_at is not None and order_at > failure.at,
            ),
            min(record.lost, _MANY),
            self.ahead(record.lost_retry_at),
            tuple(sorted((_TARGETS[t], self.ahead(at)) for t, at in record.offered.items() if at > self.now)),
            tuple(sorted(targets(record.gone))),
            tuple(sorted(targets(world.truth.said_gone & record.gone.keys()))),
            tuple(self.closing(c) for c in self.closed),
            len(record.adopted),
            record.paused,
            tuple(
                (o.kind is OrderKind.ROTATE, self.ago(o.at), self.rank.get(o.key_id or 0, -1), o.leaked, o.now)
                for o in record.orders
            ),
            tuple(sorted((_TARGETS[target], *self.content(target, held)) for target, held in world.sinks.items())),
            tuple(sorted(self.rank[i] for i in world.in_hand)),
            tuple(sorted(self.listed(account, listing) for account, listing in world.lists.items())),
            tuple(
                sorted(
                    (_ACCOUNTS[account], tuple(sorted(self.rank.get(i, -1) for i in j.lacked)), min(j.polls, 3))
                    for account, j in world.judgements.items()
                )
            ),
            tuple(
                (_ACCOUNTS[account], self.rank[i], self.ago(keys[i].last_used_at))
                for account, keys in world.neon.items()
                for i in sorted(keys.keys() & self.living)
            ),
            tuple((_ACCOUNTS[account], self.rank[key.id]) for account, key in world.late),
            self.truth(),
        )

    def closing(self, c: ClosedName) -> tuple[Any, ...]:
        return (
            self.rank[self.named[c.name]],
            self.ago(c.closed_at),
            targets(c.offered),
            tuple(sorted((_TARGETS[t], self.ago(at)) for t, at in c.superseded.items())),
            _CONDEMNED[c.condemned],
            self.ago(c.live_since),
        )

    def generation(self, g: Generation) -> tuple[Any, ...]:
        used = foreign_use(g)
        going = g.orphan is None and g.retiring_since is None  # live, or on its way to it
        revocation, absence = g.revocation, g.absence
        return (
            self.rank[g.key_id],
            _ACCOUNTS[g.scope.account],
            self.ahead(self.due(g)) if going else 0,
            self.ago(g.recorded_at, _RECENT),
            self.newer(g.scope.account, g.recorded_at),
            g.adopted,
            targets(g.excused),
            _CHECKS[g.check],
            tuple(sorted((_TARGETS[t], min(o.failures, _MANY), self.ahead(o.retry_at)) for t, o in g.offers.items())),
            tuple(sorted((_TARGETS[t], self.ago(at) if self.closed else 0) for t, at in g.receipts.items())),
            tuple(sorted((_TARGETS[t], self.ago(at)) for t, at in g.superseded.items())),
            g.live_since is not None,
            self.ago(g.retiring_since),
            g.orphan is not None,
            0 if g.held is None else 1 + g.held.overdue,
            _CONDEMNED[g.condemned],
            None
            if revocation is None
            else (
                self.ago(revocation.ended_at, _RECENT),
                min(revocation.failures, _MANY),
                self.ahead(revocation.retry_at),
            ),
            self.ago(g.seen_at, _RECENT) if going else 0,
            None if absence is None else (min(absence.polls, 2), self.newer(g.scope.account, absence.newest)),
            self.ago(used),
            used is not None and used >= self.world.since,
            0 if g.longest_gap is None else min(g.longest_gap // _MS, self.cap),
        )

    def due(self, g: Generation) -> datetime:
        rotate = self.world.policy.rotate
        born = g.created_at if g.adopted or isinstance(rotate, Every) else max(g.created_at, g.recorded_at)
        if (rotate, born) not in _dues:
            _dues[rotate, born] = due_at(self.world.policy, born)
        return _dues[rotate, born]

    def newer(self, account: str, than: datetime) -> bool:
        listing = self.world.lists.get(account)
        return listing is not None and listing.requested_at > than

    def content(self, target: str, held: int) -> tuple[int, bool, bool, bool]:
        spent = f"sha256:{held}" in self.record.spent
        return self.rank.get(held, -1), held in self.living, spent, target in self.world.broken

    def listed(self, account: str, listing: KeyList) -> tuple[Any, ...]:
        ours = sorted(listing.keys.keys() & self.rank.keys())
        return (
            _ACCOUNTS[account],
            self.ago(listing.requested_at, _RECENT),
            tuple((self.rank[i], self.ago(listing.keys[i].last_used_at)) for i in ours),
            listing.doubt != "",
            min(listing.confirms, 3),
            listing.polled,
        )

    def truth(self) -> tuple[Any, ...]:
        """What the rules ask of it about keys that can still be revoked."""
        truth = self.world.truth
        new = max(truth.live, default=0)
        keys = []
        for key_id in sorted(self.living):
            later = [at for other, at in truth.live.items() if other > key_id]
            sent = sorted(target for other, target in truth.sent if other == key_id)
            taken = {t: [at for (o, to), at in truth.taken.items() if to == t and o > key_id] for t in sent}
            keys.append(
                (
                    self.rank[key_id],
                    self.ago(truth.live.get(key_id)),
                    self.ago(min(later, default=None)),
                    tuple((_TARGETS[t], self.ago(min(taken[t], default=None))) for t in sent),
                    key_id in truth.ordered,
                    self.ago(truth.used.get(key_id)),
                )
            )
        confirmed = sorted(_TARGETS[target] for key_id, target in truth.taken if key_id == new)
        return self.rank.get(new, -1), tuple(confirmed), targets(truth.excused.get(new, ())), tuple(keys)


def targets(names: Iterable[str]) -> tuple[int, ...]:
    return tuple(_TARGETS[name] for name in names)
