"""A little world around the core: Neon, sinks, a process that dies, a person. No I/O, no clock, no threads.

`World.turn` does what the engine does: look, decide, do one step, write it down, look again, until the step is to
wait or to refuse. What goes wrong is told by `troubles`, a list of numbers: every effect and every pause takes
the next one, and 0, also when the list is at its end, means that all goes well. So a story is a list of numbers,
and a shorter list with smaller numbers is a simpler story.

At every step the world holds the program against the invariants of the design: I1 to I4 and I6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from builders import APP, CI, DAY, HOUR, MINUTE, NAME, NOW, ORG, PERSONAL, SECOND, VAULT, a_foreign

from rotator import transitions
from rotator.bookkeeping import bookkeeping
from rotator.decide import next_step
from rotator.model import (
    Check,
    Condemned,
    Do,
    Every,
    Held,
    Key,
    KeyList,
    Keys,
    Order,
    OrderKind,
    Policy,
    Record,
    SinkRef,
    Step,
)
from rotator.observe import Judgement, judge, observe
from rotator.standing import find, live, older, unfinished
from rotator.transitions import Change, SinkFailure

POLL = 5 * MINUTE
MOST_STEPS = 60
TO_ADOPT = a_foreign(3, "made-by-hand")
FOREIGN = (a_foreign(1), a_foreign(2, f"{NAME}-20200101T000000Z-aaaaaa"))


class World:
    """One policy and all that surrounds it."""

    def __init__(self, troubles: Sequence[int], policy: Policy) -> None:
        self.troubles = list(troubles)
        self.policy = policy
        self.now = NOW
        self.next_poll = NOW
        self.record = Record(policy=NAME, next_generation=2)
        self.neon: dict[str, dict[int, Key]] = {"personal": {k.id: k for k in (*FOREIGN, TO_ADOPT)}, "org-a": {}}
        self.made: set[int] = set()
        self.dead_by_others: set[int] = set()
        self.late: list[tuple[str, Key]] = []
        self.sinks: dict[str, int] = {}
        self.broken: set[str] = set()
        self.in_hand: set[int] = set()
        self.lists: dict[str, KeyList] = {}
        self.judgements: dict[str, Judgement] = {}
        self.since = NOW
        self.ids = 100
        self.step: Step | None = None
        self.story: list[str] = []

    # What goes wrong

    def trouble(self, kinds: int) -> int:
        """The next trouble, 0 for none."""
        return self.troubles.pop(0) % kinds if self.troubles else 0

    def die(self) -> None:
        """The process dies; another one starts at once."""
        self.story.append("dies")
        self.in_hand.clear()
        self.lists.clear()
        self.judgements.clear()
        self.since = self.now

    # The engine

    def turn(self) -> Step:
        """One turn. Fails if it does not come to rest."""
        unreadable: dict[str, str] = {}
        for _ in range(MOST_STEPS):
            keys = self.look(unreadable)
            step = next_step(self.policy, self.record, keys, self.now)
            assert step.until is None or step.until > self.now, step
            if step.do in (Do.WAIT, Do.REFUSE):
                assert "another secret" not in step.why, "nobody else writes the file"
                self.step = step
                return step
            self.story.append(f"{self.now:%d %H:%M:%S} {step.do} {step.key_id or ''}: {step.why}")
            self.act(step, keys, unreadable)
            self.now += SECOND
            self.check_invariants()
        raise AssertionError("a turn did not come to rest")

    def look(self, unreadable: dict[str, str]) -> Keys:
        contents = {}
        for sink in self.policy.deliver_to:
            if sink.reads_back:
                held = self.sinks.get(sink.target)
                contents[sink.target] = f"sha256:{held}" if held else Held.NOTHING.value
        keys = Keys(
            lists=dict(self.lists),
            unreadable=dict(unreadable),
            since=self.since,
            in_hand=frozenset(self.in_hand),
            contents=contents,
            own={1: "neon.api_key_id says so"},
        )
        self.commit(observe(self.policy, self.record, keys))
        return keys

    def commit(self, change: Change | None) -> None:
        if change is not None:
            left = tuple(order for order in self.record.orders if order.id not in change.closed_orders)
            self.record = replace(change.record, orders=left)

    def read(self, account: str, *, polled: bool) -> None:
        known = {g.key_id for g in self.record.generations if g.scope.account == account and g.revocation is None}
        answer = KeyList(account, self.now, dict(self.neon[account]), polled=polled)
        before = self.judgements.get(account, Judgement())
        own = 1 if account == "personal" else None
        self.lists[account], self.judgements[account] = judge(answer, known, own, before, vouched=True)

    def act(self, step: Step, keys: Keys, unreadable: dict[str, str]) -> None:
        key_id = step.key_id or 0
        if step.do is Do.LOOK:
            account = step.account or ""
            if self.trouble(6) == 5:
                unreadable[account] = "HTTP 503"
            else:
                self.read(account, polled=False)
        elif step.do is Do.MINT:
            self.mint(step)
        elif step.do is Do.VERIFY:
            outcomes = (Check.PASSED, Check.PASSED, Check.INCONCLUSIVE, Check.REFUSED)
            self.commit(transitions.checked(self.record, key_id, outcomes[self.trouble(4)], self.now))
        elif step.do is Do.DELIVER:
            self.deliver(step, key_id)
        elif step.do is Do.REVOKE:
            self.revoke(step, key_id)
        elif step.do is Do.GO_LIVE:
            self.commit(transitions.go_live(self.record, key_id, step.why, self.now))
            self.in_hand.discard(key_id)
        else:
            if step.do is Do.ADOPT:
                self.made.add(key_id)
            self.commit(bookkeeping(self.policy, keys, step, self.now)(self.record))
            if step.do in (Do.ABANDON, Do.FORGET):
                self.in_hand.discard(key_id)

    def mint(self, step: Step) -> None:
        assert self.record.intent is None
        assert not [g for g in unfinished(self.record) if g.key_id in self.in_hand], "two keys at once"
        what = self.trouble(9)
        if what == 1:
            self.commit(transitions.not_created(self.record, "a sink is down", 0.5, None, self.now))
            return
        name = f"{NAME}-{self.now:%Y%m%dT%H%M%SZ}-{self.ids:06}"
        self.commit(transitions.intend(self.record, self.policy, name, step.why, False, self.now))
        scope = self.policy.scope
        if what == 2:
            self.commit(transitions.not_created(self.record, "HTTP 503", 0.5, MINUTE, self.now))
            return
        if what == 3:
            self.die()
            return
        self.ids += 1
        key = Key(self.ids, name, self.now.replace(microsecond=0), project=scope.project)
        self.made.add(key.id)
        if what in (4, 5, 6):  # the answer is lost; Neon made the key, did not make it, or makes it later
            if what == 4:
                self.neon[scope.account][key.id] = key
            if what == 6:
                self.late.append((scope.account, key))
            self.now += 30 * SECOND
            self.commit(transitions.outcome_unknown(self.record, "timed out", self.now))
            return
        self.neon[scope.account][key.id] = key
        if what == 7:
            self.die()
            return
        self.in_hand.add(key.id)
        self.commit(transitions.created(self.record, key, f"sha256:{key.id}", self.now))
        if what == 8:
            self.die()

    def deliver(self, step: Step, key_id: int) -> None:
        sink = next(s for s in self.policy.deliver_to if s.name == step.sink)
        assert key_id in self.in_hand
        self.commit(transitions.offer(self.record, key_id, sink, step.why, self.now))
        what = self.trouble(8)
        if what in (1, 6):  # died before anything was sent
            self.die()
            return
        if what not in (2, 7):
            self.sinks[sink.target] = key_id
            self.broken.discard(sink.target)
            if not self.alive(key_id):
                assert key_id in self.dead_by_others
                self.broken.add(sink.target)
        if what == 3:
            self.die()
            return
        if what in (2, 4, 5, 7):
            failure = SinkFailure("it failed", 0.5, gone=what == 5)
            self.commit(transitions.offer_failed(self.record, key_id, sink, failure, self.now))
            return
        self.commit(transitions.receipted(self.record, key_id, sink, self.now))

    def revoke(self, step: Step, key_id: int) -> None:
        generation = find(self.record, key_id)
        account = generation.scope.account
        listing, there = self.lists[account], key_id in self.neon[account]
        assert key_id in listing.keys, "I1: it is not in the list"
        assert self.now - listing.requested_at <= 30 * SECOND, "I1: the list is old"
        self.commit(transitions.revoking(self.record, key_id, step.why, self.now))
        what = self.trouble(6) if there else 5
        if what == 1:
            self.die()
            return
        if what != 2 and there:
            del self.neon[account][key_id]
            if generation.condemned is Condemned.NOW:
                self.dies_by_others(key_id)
            elif generation.condemned is Condemned.AT_LIVE:  # a sink that came since has no later key
                successor = live(self.record)
                without = set(self.sinks) - set(successor.receipts if successor else ())
                self.broken |= {target for target in without if self.sinks[target] == key_id}
        if what == 3:
            self.die()
        elif what in (2, 4, 5):
            self.commit(transitions.revoke_failed(self.record, key_id, "HTTP 500", 0.5, None, self.now))
        else:
            self.in_hand.discard(key_id)
            self.commit(transitions.revoked(self.record, key_id, step.why, self.now))

    # What must hold

    def alive(self, key_id: int) -> bool:
        return any(key_id in keys for keys in self.neon.values())

    def dies_by_others(self, key_id: int) -> None:
        self.dead_by_others.add(key_id)
        self.broken |= {target for target, held in self.sinks.items() if held == key_id}

    def check_invariants(self) -> None:
        for key in FOREIGN:
            assert self.alive(key.id), "I4: a key that no policy owns was revoked"
        for sink in self.policy.deliver_to:
            held = self.sinks.get(sink.target)
            if held is not None and sink.target not in self.broken:
                assert self.alive(held), f"I2: sink {sink.name} holds {held}, which was revoked"
        known = {g.key_id for g in self.record.generations}
        names = {closed.name for closed in self.record.closed}
        if self.record.intent is not None:
            names.add(self.record.intent.name)
        for keys in self.neon.values():
            for key in keys.values():
                assert key.id not in self.made or key.id in known or key.name in names, f"I3: {key} is forgotten"
        in_flight = [g for g in unfinished(self.record) if g.key_id in self.in_hand]
        assert len(in_flight) + (self.record.intent is not None) <= 1, "I6: two rotations at once"

    # Time, and what others do

    def pause(self) -> None:
        """Until the next decision, at which something may have happened."""
        step = self.step
        assert step is not None
        self.happen(self.trouble(16))
        until = min(step.until or self.next_poll, self.next_poll)
        self.now = max(self.now + SECOND, until)
        if self.now >= self.next_poll:
            self.next_poll = self.now + POLL
            for account in self.neon:
                self.read(account, polled=True)

    def happen(self, what: int) -> None:
        self.story.append(f"event {what}") if what else None
        generations = self.record.generations
        if what == 1:
            self.die()
        elif what in (2, 3, 4):
            self.order(Order(0, OrderKind.ROTATE, self.now, NAME, leaked=what > 2, now=what == 4))
        elif what == 5 and generations:
            victim = generations[self.trouble(7) % len(generations)]
            self.order(Order(0, OrderKind.REVOKE, self.now, NAME, key_id=victim.key_id))
        elif what == 6 and generations:
            victim = generations[self.trouble(7) % len(generations)]
            if self.neon[victim.scope.account].pop(victim.key_id, None):
                self.dies_by_others(victim.key_id)
        elif what == 7:
            self.sinks.pop(APP.target, None)
        elif what == 8 and generations:
            self.use(generations[self.trouble(7) % len(generations)].key_id)
        elif what == 9 and self.policy.deliver_to != (VAULT,):
            has = VAULT in self.policy.deliver_to
            sinks = tuple(s for s in self.policy.deliver_to if s != VAULT) if has else (*self.policy.deliver_to, VAULT)
            self.policy = replace(self.policy, deliver_to=sinks)
            held = self.sinks.get(VAULT.target)
            if held is not None and not self.alive(held):
                self.broken.add(VAULT.target)
        elif what == 10:
            self.policy = replace(self.policy, scope=ORG if self.policy.scope == PERSONAL else PERSONAL)
        elif what in (11, 12):
            self.now += DAY if what == 11 else 7 * HOUR
        elif what == 13:
            self.record = replace(self.record, paused=not self.record.paused)
        elif what == 14:
            self.record = transitions.retry_now(self.record)
        elif what == 15 and self.late:
            account, key = self.late.pop()
            self.neon[account][key.id] = key

    def order(self, order: Order) -> None:
        number = 1 + max((o.id for o in self.record.orders), default=0)
        self.record = replace(self.record, orders=(*self.record.orders, replace(order, id=number)))

    def use(self, key_id: int) -> None:
        for keys in self.neon.values():
            if key_id in keys:
                keys[key_id] = replace(keys[key_id], last_used_at=self.now, last_used_from=("203.0.113.7",))

    # The end

    def run_until_quiet(self, longest: timedelta) -> None:
        """All goes well from now on, and a person answers when asked."""
        self.troubles.clear()
        self.record = replace(self.record, paused=False)
        for account, key in self.late:
            self.neon[account][key.id] = key
        self.late.clear()
        end = self.now + longest
        while self.now < end:
            step = self.turn()
            self.check_invariants()
            if self.is_quiet():
                return
            if step.do is Do.REFUSE and not self.record.orders:
                reasons = ("older keys", "410", "cannot be adopted")
                assert any(reason in step.why for reason in reasons), f"nobody need be asked: {step.why}"
                self.order(Order(0, OrderKind.ROTATE, self.now, NAME))
            elif "run: rotator revoke" in step.why and not self.record.orders:
                self.order(Order(0, OrderKind.REVOKE, self.now, NAME, key_id=step.key_id))
            self.pause()
        raise AssertionError(f"it did not come to rest: {self.step}")

    def is_quiet(self) -> bool:
        """One live key that every sink holds, and nothing else."""
        current = live(self.record)
        if current is None or older(self.record) or unfinished(self.record) or self.record.intent:
            return False
        left = {key_id for keys in self.neon.values() for key_id in keys} & self.made
        holds = {self.sinks.get(sink.target) for sink in self.policy.deliver_to}
        return left == {current.key_id} == holds and self.record.rotation is None and not self.record.orders


def a_world(troubles: Sequence[int], *deliver_to: SinkRef, adopt: int | None = None) -> World:
    """A policy that rotates every week, to a file and a webhook unless sinks are given."""
    return World(troubles, Policy(NAME, Every(7 * DAY), deliver_to or (APP, CI), grace_period=HOUR, adopt=adopt))
