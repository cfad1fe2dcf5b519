"""A little world around the core: Neon, sinks, a process that dies, a person. No I/O, no clock, no threads.

`World.turn` does what the engine does: look, decide, do one step, write it down, look again, until the step is to
wait or to refuse. What goes wrong is told by `troubles`, a list of numbers: every effect and every pause takes
the next one, and 0, a number that means nothing there, and the end of the list mean that all goes well. So a story is
a list of numbers, and a shorter list with smaller numbers is a simpler story. `taken` tells what was chosen and of how
many, so that the stories of a turn can be enumerated (`explore.py`).

At every step the world holds the program against the invariants of the design: I1 to I4 and I6. It believes no
record: what is revoked is held against the rules (`rules.py`) and against what truly happened (`truth.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from builders import APP, CI, DAY, HOUR, MINUTE, NAME, NOW, SECOND

from rotator import transitions
from rotator.bookkeeping import bookkeeping
from rotator.decide import last_step, next_step
from rotator.model import (
    Check,
    Condemned,
    Do,
    Every,
    Generation,
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
from rotator.usage import accounts_in_use

from .invariants import FOREIGN, TO_ADOPT, check_closing, check_invariants, check_revocation
from .others import happen, possible
from .truth import Truth

MOST_STEPS = 60
MOST_OLDER = 5


class World:
    """One policy and all that surrounds it.

    After a pause longer than `grid` it wakes on a multiple of it. While it is `left_alone` there are faults, but no
    orders, no other configuration, and nobody who does anything by hand.
    """

    def __init__(
        self, troubles: Sequence[int], policy: Policy, poll: timedelta = 5 * MINUTE, grid: timedelta = SECOND
    ) -> None:
        self.troubles = list(troubles)
        self.taken: list[tuple[int, tuple[str, ...], int]] = []
        self.policy = policy
        self.configured = True
        self.left_alone = False
        self.now = NOW
        self.poll = poll
        self.grid = grid
        self.next_poll = NOW
        self.record = Record(policy=NAME, next_generation=2)
        self.neon: dict[str, dict[int, Key]] = {"personal": {k.id: k for k in (*FOREIGN, TO_ADOPT)}, "org-a": {}}
        self.made: set[int] = set()
        self.dead_by_others: set[int] = set()
        self.late: list[tuple[str, Key]] = []
        self.sinks: dict[str, int] = {}
        self.broken: set[str] = set()
        self.down: set[str] = set()
        self.in_hand: set[int] = set()
        self.lists: dict[str, KeyList] = {}
        self.judgements: dict[str, Judgement] = {}
        self.truth = Truth()
        self.since = NOW
        self.ids = 100
        self.step: Step | None = None
        self.story: list[str] = []
        self.did: list[Do] = []

    def copy(self) -> World:
        """The same world, to be continued otherwise. Its story begins anew."""
        twin = World.__new__(World)
        twin.__dict__.update(self.__dict__)
        twin.troubles, twin.taken, twin.story, twin.did = [], [], [], []
        twin.neon = {account: dict(keys) for account, keys in self.neon.items()}
        twin.made, twin.dead_by_others = set(self.made), set(self.dead_by_others)
        twin.late, twin.sinks = list(self.late), dict(self.sinks)
        twin.broken, twin.down, twin.in_hand = set(self.broken), set(self.down), set(self.in_hand)
        twin.lists, twin.judgements = dict(self.lists), dict(self.judgements)
        twin.truth = self.truth.copy()
        return twin

    # What goes wrong

    def trouble(self, *kinds: str) -> str:
        """What goes wrong now, or an empty string."""
        number = self.troubles.pop(0) if self.troubles else 0
        number = number if number <= len(kinds) else 0
        self.taken.append((number, kinds, 1))
        if number:
            self.story.append(kinds[number - 1])
        return kinds[number - 1] if number else ""

    def pick(self) -> Generation:
        """One of the policy's keys, for something to happen to it."""
        generations = self.record.generations
        number = (self.troubles.pop(0) if self.troubles else 0) % len(generations)
        self.taken.append((number, tuple(g.name for g in generations), 0))
        self.story.append(f"to {generations[number].key_id}")
        return generations[number]

    def die(self) -> None:
        """The process dies; another one starts at once."""
        self.in_hand.clear()
        self.lists.clear()
        self.judgements.clear()
        self.since = self.now

    # The engine

    def turn(self) -> Step:
        """One turn. Fails if it does not come to rest."""
        unreadable: dict[str, str] = {}
        if not self.configured:
            self.in_hand.clear()
        for _ in range(MOST_STEPS):
            keys = self.look(unreadable)
            if self.configured:
                step = next_step(self.policy, self.record, keys, self.now)
            else:
                step = last_step(self.record, keys, self.now)
            assert step.until is None or step.until > self.now, step
            if step.do in (Do.WAIT, Do.REFUSE):
                assert "another secret" not in step.why, "nobody else writes the file"
                self.step = step
                return step
            self.did.append(step.do)
            self.story.append(f"{self.now:%d %H:%M:%S} {step.do} {step.key_id or ''}: {step.why}")
            self.act(step, keys, unreadable)
            self.now += SECOND
            check_invariants(self)
        raise AssertionError("a turn did not come to rest")

    def look(self, unreadable: dict[str, str]) -> Keys:
        policy = self.acting_policy()
        contents = {}
        for sink in policy.deliver_to:
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
        self.commit(observe(policy, self.record, keys))
        return keys

    def acting_policy(self) -> Policy:
        return self.policy if self.configured else transitions.stand_in(NAME)

    def commit(self, change: Change | None) -> None:
        if change is not None:
            self.record = change.record
        if change is not None and change.closed_orders:
            left = tuple(order for order in self.record.orders if order.id not in change.closed_orders)
            self.record = replace(self.record, orders=left)

    def read(self, account: str, *, polled: bool, without: str = "") -> None:
        known = {g.key_id for g in self.record.generations if g.scope.account == account and g.revocation is None}
        shown = dict(self.neon[account])
        ours = sorted(shown.keys() & self.made)
        for key_id in ours if without == "all" else ours[-1:] if without else ():
            del shown[key_id]
        answer = KeyList(account, self.now, shown, polled=polled)
        before = self.judgements.get(account, Judgement())
        own = 1 if account == "personal" else None
        self.lists[account], self.judgements[account] = judge(answer, known, own, before, vouched=True)

    def act(self, step: Step, keys: Keys, unreadable: dict[str, str]) -> None:
        key_id = step.key_id or 0
        if step.do in (Do.OBEY, Do.MINT) and any(order.leaked for order in self.record.orders):
            self.truth.ordered |= {g.key_id for g in self.record.generations} - self.in_hand
        if step.do is Do.LOOK:
            account = step.account or ""
            what = "unread" if "neon" in self.down else self.trouble("unread", "the list lacks the newest key")
            if what == "unread":
                unreadable[account] = "HTTP 503"
            else:
                self.read(account, polled=False, without="newest" if what else "")
        elif step.do is Do.MINT:
            self.mint(step)
        elif step.do is Do.VERIFY:
            self.verify(key_id)
        elif step.do is Do.DELIVER:
            self.deliver(step, key_id)
        elif step.do is Do.REVOKE:
            self.revoke(step, keys, key_id)
        elif step.do is Do.GO_LIVE:
            self.commit(transitions.go_live(self.record, key_id, step.why, self.now))
            self.truth.live[key_id] = self.now
            self.in_hand.discard(key_id)
        else:
            if step.do is Do.ADOPT:
                self.made.add(key_id)
                self.truth.live[key_id] = self.now
                self.truth.excused[key_id] = tuple(sink.target for sink in self.policy.deliver_to)
            if step.do is Do.CLOSE_INTENT:
                check_closing(self, keys)
            self.commit(bookkeeping(self.policy, keys, step, self.now)(self.record))
            if step.do in (Do.ABANDON, Do.FORGET):
                self.in_hand.discard(key_id)

    def mint(self, step: Step) -> None:
        assert self.record.intent is None
        assert not [g for g in unfinished(self.record) if g.key_id in self.in_hand], "two keys at once"
        assert not self.record.paused, "it is paused"
        ordered = self.record.orders or (self.record.rotation is not None and self.record.rotation.ordered)
        assert len(older(self.record)) < MOST_OLDER or ordered, "too many older keys"
        what = self.trouble(
            "a sink is not ready",
            "no key (503)",
            "dies before the POST",
            "answer lost, key made",
            "answer lost, no key",
            "answer lost, key comes later",
            "dies after the POST",
            "dies with the key",
        )
        if what == "a sink is not ready":
            self.commit(transitions.not_created(self.record, "a sink is down", 0.5, None, self.now))
            return
        name = f"{NAME}-{self.now:%Y%m%dT%H%M%SZ}-{self.ids:06}"
        self.commit(transitions.intend(self.record, self.policy, name, step.why, False, self.now))
        scope = self.policy.scope
        if what == "no key (503)" or "neon" in self.down:
            self.commit(transitions.not_created(self.record, "HTTP 503", 0.5, MINUTE, self.now))
            return
        if what == "dies before the POST":
            self.die()
            return
        self.ids += 1
        key = Key(self.ids, name, self.now.replace(microsecond=0), project=scope.project)
        self.made.add(key.id)
        if what.startswith("answer lost"):
            if what == "answer lost, key made":
                self.neon[scope.account][key.id] = key
            if what == "answer lost, key comes later":
                self.late.append((scope.account, key))
            self.now += 30 * SECOND
            self.commit(transitions.outcome_unknown(self.record, "timed out", self.now))
            return
        self.neon[scope.account][key.id] = key
        self.now += SECOND
        if what == "dies after the POST":
            self.die()
            return
        self.in_hand.add(key.id)
        self.commit(transitions.created(self.record, key, f"sha256:{key.id}", self.now))
        if what == "dies with the key":
            self.die()

    def verify(self, key_id: int) -> None:
        what = "inconclusive" if "neon" in self.down else self.trouble("inconclusive", "refused", "dies")
        if what == "dies":
            self.die()
            return
        if not what:
            self.use(key_id)
        outcomes = {"": Check.PASSED, "inconclusive": Check.INCONCLUSIVE, "refused": Check.REFUSED}
        after = self.now - find(self.record, key_id).created_at
        self.commit(transitions.checked(self.record, key_id, outcomes[what], after, self.now))

    def deliver(self, step: Step, key_id: int) -> None:
        sink = next(s for s in self.policy.deliver_to if s.name == step.sink)
        assert key_id in self.in_hand
        before = self.policy.deliver_to[: self.policy.deliver_to.index(sink)]
        assert all((key_id, s.target) in self.truth.taken for s in before), "the sink before has not confirmed it"
        self.commit(transitions.offer(self.record, key_id, sink, step.why, self.now))
        if "sinks" in self.down:
            what = "fails"
        else:
            what = self.trouble(
                "dies before sending",
                "fails",
                "dies after sending",
                "fails, but has it",
                "410",
                "dies with the receipt",
            )
        if what == "dies before sending":
            self.die()
            return
        if what != "fails":
            self.truth.sent.add((key_id, sink.target))
            self.sinks[sink.target] = key_id
            self.broken.discard(sink.target)
            if not self.alive(key_id):
                assert key_id in self.dead_by_others
                self.broken.add(sink.target)
        if what == "dies after sending":
            self.die()
        elif what in ("", "dies with the receipt"):
            self.truth.taken[key_id, sink.target] = self.now
            self.commit(transitions.receipted(self.record, key_id, sink, self.now))
            if what:
                self.die()
        else:
            if what == "410":
                self.truth.said_gone.add(sink.target)
            failure = SinkFailure("it failed", 0.5, gone=what == "410")
            self.commit(transitions.offer_failed(self.record, key_id, sink, failure, self.now))

    def revoke(self, step: Step, keys: Keys, key_id: int) -> None:
        generation = find(self.record, key_id)
        account = generation.scope.account
        check_revocation(self, generation, keys)
        there = key_id in self.neon[account]
        self.commit(transitions.revoking(self.record, key_id, step.why, self.now))
        if "neon" in self.down:
            what = "fails"
        else:
            kinds = ("dies before the DELETE", "fails", "dies after the DELETE", "answer lost") if there else ()
            what = self.trouble(*kinds)
        if what == "dies before the DELETE":
            self.die()
            return
        if what != "fails" and there:
            del self.neon[account][key_id]
            if generation.condemned is Condemned.NOW:
                self.dies_by_others(key_id)
            elif generation.condemned is Condemned.AT_LIVE:  # a sink that came since has no later key
                successor = live(self.record)
                without = set(self.sinks) - set(successor.receipts if successor else ())
                self.broken |= {target for target in without if self.sinks[target] == key_id}
        if what == "dies after the DELETE":
            self.die()
        elif what or not there:
            self.commit(transitions.revoke_failed(self.record, key_id, "HTTP 500", 0.5, None, self.now))
        else:
            self.in_hand.discard(key_id)
            self.commit(transitions.revoked(self.record, key_id, step.why, self.now))

    def alive(self, key_id: int) -> bool:
        return any(key_id in keys for keys in self.neon.values())

    def dies_by_others(self, key_id: int) -> None:
        self.dead_by_others.add(key_id)
        self.broken |= {target for target, held in self.sinks.items() if held == key_id}

    # Time, and what others do

    def pause(self) -> None:
        """Until the next decision, at which something may have happened."""
        step = self.step
        assert step is not None
        orders = self.record.orders
        happen(self, self.trouble(*possible(self)))
        until = min(step.until or self.next_poll, self.next_poll)
        if self.record.orders != orders:  # an order is taken up at once
            until = self.now
        if until - self.now > self.grid:
            until += (NOW - until) % self.grid
        self.now = max(self.now + SECOND, until)
        if self.now >= self.next_poll:
            while self.next_poll <= self.now:
                self.next_poll += self.poll
            self.read_all()

    def read_all(self) -> None:
        if "neon" in self.down:
            return
        accounts = accounts_in_use({NAME: self.policy} if self.configured else {}, {NAME: self.record})
        self.lists = {account: listing for account, listing in self.lists.items() if account in accounts}
        what = self.trouble("no poll", "the poll lacks the newest key", "the poll lacks all keys") if self.made else ""
        if what == "no poll":
            return
        lacks = {"the poll lacks the newest key": "newest", "the poll lacks all keys": "all"}
        for account in accounts:
            self.read(account, polled=True, without=lacks.get(what, ""))

    def order(self, order: Order) -> None:
        number = 1 + max((o.id for o in self.record.orders), default=0)
        self.record = replace(self.record, orders=(*self.record.orders, replace(order, id=number)))
        if order.key_id is not None:
            self.truth.ordered.add(order.key_id)

    def use(self, key_id: int) -> bool:
        for keys in self.neon.values():
            if key_id in keys:
                keys[key_id] = replace(keys[key_id], last_used_at=self.now, last_used_from=("203.0.113.7",))
                return True
        return False

    # The end

    def calm(self) -> None:
        """All goes well from now on."""
        self.troubles.clear()
        self.down.clear()
        self.configured = True
        self.record = replace(self.record, paused=False)
        for account, key in self.late:
            self.neon[account][key.id] = key
        self.late.clear()

    def answer(self) -> None:
        """A person does what the program asks for, which it may ask only where a rule says so."""
        step, record = self.step, self.record
        assert step is not None
        if record.orders:
            return
        if step.do is Do.REFUSE:
            reasons = {
                "older keys": len(older(record)) >= MOST_OLDER,
                "410": any(sink.target in self.truth.said_gone for sink in self.policy.deliver_to),
                "cannot be adopted": self.policy.adopt not in self.neon[self.policy.scope.account],
            }
            needed = any(reason in step.why and holds for reason, holds in reasons.items())
            assert needed, f"nobody need be asked: {step.why}"
            self.order(Order(0, OrderKind.ROTATE, self.now, NAME))
        elif "run: rotator revoke" in step.why:
            generation = find(record, step.key_id)
            former = set(generation.offers) - {sink.target for sink in self.policy.deliver_to}
            assert former - set(generation.superseded), f"nobody need be asked: {step.why}"
            self.order(Order(0, OrderKind.REVOKE, self.now, NAME, key_id=step.key_id))

    def run_until_quiet(self, longest: timedelta) -> None:
        """All goes well from now on, and a person answers when asked."""
        self.calm()
        end = self.now + longest
        while self.now < end:
            self.turn()
            if self.is_quiet():
                return
            self.answer()
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
