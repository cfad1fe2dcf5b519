"""Look, decide, do one step, write it down, look again.

A *turn* of a policy repeats that until the decision is to wait or to refuse. The order of writing and
doing is what makes a death at any line harmless: what is about to be done outside is committed before
it is done (an intent, an offer, a revocation), and what came of it right after, before anything else.
A process that finds one without the other knows what to ask Neon.

If the state cannot be written *before* an effect, the effect does not happen. If it cannot be written
*after* one, the outcome is kept in memory, with the secret, and is written before the policy's next
turn does anything; nothing else happens for that policy until then.

Secrets live in `_hands`, from Neon's answer until the last receipt, and nowhere else.
"""

from __future__ import annotations

import random
import string
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rotator import renames, transitions
from rotator.bookkeeping import bookkeeping
from rotator.decide import last_step, next_step
from rotator.due import due
from rotator.errors import (
    KeyNotFound,
    KeyRefused,
    NeedsPerson,
    OutcomeUnknown,
    RotatorError,
    StateUnavailable,
    TryLater,
)
from rotator.model import LIST_MAX_AGE, Do, Event, Generation, HandOff, Keys, Policy, Record, Step
from rotator.observe import observe
from rotator.outside import Outside
from rotator.ports import Clock, Setup, State, Tell, Transition
from rotator.secret import Secret
from rotator.standing import find, live
from rotator.transitions import Change

STATE_AGAIN = timedelta(seconds=15)
_STEPS_A_TURN = 100  # a chain of decisions longer than this is a fault of ours, and must not spin
_AT_ONCE_PER_SINK = 4
_BUSY_AGAIN = timedelta(milliseconds=500)
_NONCE = string.ascii_lowercase + string.digits
_Decision = Callable[[Record, Keys, datetime], Step]


@dataclass(frozen=True)
class _InHand:
    """A secret on its way to the sinks. `asked` is the steady clock's time, in seconds, before Neon was asked."""

    secret: Secret
    asked: float


class Engine:
    """Carries out policies. Safe for threads: one turn of a policy at a time, several policies at once."""

    def __init__(
        self,
        setup: Setup,
        state: State,
        clock: Clock,
        tell: Tell,
        stop: threading.Event,
        lots: random.Random | None = None,
    ) -> None:
        self.outside = Outside(setup, state, clock)
        self._state = state
        self._clock = clock
        self._tell = tell
        self._stop = stop
        self._lots = lots or random.SystemRandom()
        self._hands: dict[str, dict[int, _InHand]] = {}
        self._unwritten: dict[str, list[Transition]] = {}
        self._outlooks: dict[str, Step] = {}
        self._turns: dict[str, threading.Lock] = {}
        self._slots: dict[str, threading.BoundedSemaphore] = {}
        self._renames: renames.Former = {}
        self._renaming = threading.Lock()
        self._guard = threading.Lock()

    @property
    def setup(self) -> Setup:
        """What the engine acts on now."""
        return self.outside.setup

    def start(self) -> None:
        """Take up the state: records under their new names, and which keys there are."""
        self._renames = renames.wanted(self.setup.policies, renames.read(self._state.meta(renames.META)))
        for new in list(self._renames):
            self._rename(new)
        for record in self._state.records().values():
            self.outside.remember(record)

    def configure(self, setup: Setup) -> None:
        """Act on this from now on. Hand-offs that wait are tried at once; policies get new names with their next turn.

        Raises StateUnavailable; then all stays as it was.
        """
        names = list(self._state.records())
        for record in self._state.change_many(self._clock.now(), dict.fromkeys(names, _retry_now)).values():
            self.outside.remember(record)
        wanted = renames.wanted(setup.policies, self._renames)
        if wanted:
            self._state.set_meta(renames.META, renames.written(wanted))
        with self._guard:
            self.outside.setup, self._renames = setup, wanted
        self.outside.lists.renew()

    def _rename(self, new: str) -> None:
        """Let a policy take over the record of the one that it was, with the secrets in hand and what is unwritten."""
        former = self._renames.get(new, ())
        for old in former:
            # Nobody holds one turn's lock and waits for another's but here, one thread at a time.
            with self._renaming, self._turn_lock(old), self._turn_lock(new):
                if self._state.rename(old, new, self._clock.now()):
                    if old in self._hands:
                        self._hands[new] = self._hands.pop(old)
                    if old in self._unwritten:
                        self._unwritten[new] = self._unwritten.pop(old)
                    with self._guard:
                        self._outlooks.pop(old, None)
        with self._guard:
            if self._renames.get(new) == former:
                del self._renames[new]
            left = dict(self._renames)
        self._state.set_meta(renames.META, renames.written(left))

    # A turn

    def turn(self, name: str) -> datetime | None:
        """Do all that can be done for a policy now; when to look again, None for at the next poll.

        Raises nothing that the world can cause: what failed is in the record, the log and the outlook.
        A policy that is not configured any more has its turns too, of a narrower kind.
        """
        try:
            with self._guard:
                setup, wanted = self.setup, dict(self._renames)
            for new, former in wanted.items():
                if name in (new, *former):
                    self._rename(new)
            with self._turn_lock(name):
                policy = setup.policies.get(name)
                self._write_unwritten(name)
                if policy is not None:
                    return self._take_turn(setup, policy, lambda r, keys, now: next_step(policy, r, keys, now))
                self._hands.pop(name, None)
                if self._is_forgotten(name):
                    return None
                return self._take_turn(setup, transitions.stand_in(name), last_step)
        except StateUnavailable as error:
            self._tell(Event("state.unavailable", str(error), name))
            return self._clock.now() + STATE_AGAIN

    def _is_forgotten(self, name: str) -> bool:
        """Whether nothing is left under this name, as when the policy is called something else now."""
        return self._state.record(name) == Record(policy=name) and name not in self._state.records()

    def in_hand(self, name: str) -> bool:
        """Whether a secret of this policy is on its way to the sinks."""
        return bool(self._hands.get(name))

    def waiting_for_poll(self) -> set[str]:
        """The policies whose last decision a poll may change."""
        with self._guard:
            return {name for name, step in self._outlooks.items() if step.at_poll or step.do is Do.REFUSE}

    def _take_turn(self, setup: Setup, policy: Policy, decide: _Decision) -> datetime | None:
        unreadable: dict[str, str] = {}
        for _ in range(_STEPS_A_TURN):
            record, keys, now = self._look(setup, policy, unreadable)
            step = decide(record, keys, now)
            if step.do in (Do.WAIT, Do.REFUSE):
                self._note(policy.name, step, now)
                return self._wake(step, unreadable, now)
            if self._stop.is_set():
                return None
            if setup is not self.setup:  # the configuration was loaded again; whoever did that wakes every policy
                return now
            busy_until = self._do(setup, policy, record, keys, step, now, unreadable)
            if busy_until is not None:
                return busy_until
        self._tell(Event("turn.endless", f"policy {policy.name} did not come to rest; please report this", policy.name))
        return self._clock.now() + timedelta(minutes=1)

    def _look(self, setup: Setup, policy: Policy, unreadable: Mapping[str, str]) -> tuple[Record, Keys, datetime]:
        record = self._state.record(policy.name)
        hand = self._hands.get(policy.name, {})
        keys = self.outside.keys(setup, policy, record, hand.keys(), unreadable)
        if observe(policy, record, keys) is not None:
            record = self._commit(policy.name, lambda r: observe(policy, r, keys))
        return record, keys, self._clock.now()

    def _wake(self, step: Step, unreadable: Mapping[str, str], now: datetime) -> datetime | None:
        times = [step.until] if step.until is not None else []
        troubles = self.outside.lists.troubles()
        times += [troubles[account][1] for account in unreadable if account in troubles]
        return max(min(times), now) if times else None

    # The steps

    def _do(
        self,
        setup: Setup,
        policy: Policy,
        record: Record,
        keys: Keys,
        step: Step,
        now: datetime,
        unreadable: dict[str, str],
    ) -> datetime | None:
        """Carry out one step. Answers with a time if the turn must end until then."""
        name, key_id, why = policy.name, step.key_id or 0, step.why
        if step.do is Do.LOOK:
            self._read_list(step, keys, now, unreadable)
        elif step.do is Do.MINT:
            self._mint(setup, policy, record, keys, step, now)
        elif step.do is Do.VERIFY:
            held = self._hands[name][key_id]
            outcome = setup.provider.check_key(held.secret)
            after = timedelta(seconds=self._clock.monotonic() - held.asked)
            self._commit_outcome(name, lambda r, at: transitions.checked(r, key_id, outcome, after, at))
        elif step.do is Do.DELIVER:
            return self._deliver(setup, policy, record, step, now)
        elif step.do is Do.REVOKE:
            self._revoke(setup, policy, record, keys, step, now)
        elif step.do is Do.GO_LIVE:
            self._commit(name, lambda r: transitions.go_live(r, key_id, why, now))
            self._drop(name, key_id)
        elif step.do is Do.ADOPT:
            # A key that is taken over leaves one record and enters the other at once, so that it is never in none.
            self._commit_together({**self._left_by(name, key_id), name: bookkeeping(policy, keys, step, now)})
        else:
            self._commit(name, bookkeeping(policy, keys, step, now))
            if step.do in (Do.ABANDON, Do.FORGET):
                self._drop(name, key_id)
        return None

    def _read_list(self, step: Step, keys: Keys, now: datetime, unreadable: dict[str, str]) -> None:
        account = step.account or ""
        try:
            self.outside.lists.look(account, keys.lists.get(account), now)
        except (TryLater, NeedsPerson) as error:
            self._complain(error)
            unreadable[account] = str(error)

    def _mint(self, setup: Setup, policy: Policy, record: Record, keys: Keys, step: Step, now: datetime) -> None:
        name = policy.name
        for sink in policy.deliver_to:
            try:
                setup.sinks[sink.name].check(probe=sink.target in record.offered)
            except (TryLater, NeedsPerson) as error:
                self._not_created(name, f"sink {sink.name} is not ready: {error}", error)
                return
        nonce = "".join(self._lots.choice(_NONCE) for _ in range(6))
        key_name = f"{name}-{now:%Y%m%dT%H%M%SZ}-{nonce}"
        urgent = due(policy, record, keys, now).urgent
        self._commit(name, lambda r: transitions.intend(r, policy, key_name, step.why, urgent, now))
        asked = self._clock.monotonic()
        try:
            key, secret = setup.provider.create_key(policy.scope, key_name)
        except (TryLater, NeedsPerson) as error:
            self._complain(error)
            self._not_created(name, f"Neon did not create a key: {error}", error)
        except OutcomeUnknown as error:
            why = f"whether Neon created {key_name} is not known: {error}"
            self._commit_outcome(name, lambda r, at: transitions.outcome_unknown(r, why, at))
        else:
            self._hands.setdefault(name, {})[key.id] = _InHand(secret, asked)
            self._commit_outcome(name, lambda r, at: transitions.created(r, key, secret.fingerprint, at))

    def _not_created(self, name: str, why: str, error: RotatorError) -> None:
        lot, asked = self._lots.random(), _retry_after(error)
        self._commit_outcome(name, lambda r, at: transitions.not_created(r, why, lot, asked, at))

    def _deliver(self, setup: Setup, policy: Policy, record: Record, step: Step, now: datetime) -> datetime | None:
        name, key_id = policy.name, step.key_id or 0
        ref = next(sink for sink in policy.deliver_to if sink.name == step.sink)
        slot = self._slot(ref.target)
        if not slot.acquire(blocking=False):
            return now + _BUSY_AGAIN
        try:
            self._commit(name, lambda r: transitions.offer(r, key_id, ref, step.why, now))
            hand_off = _hand_off(record, find(record, key_id), ref.name)
            setup.sinks[ref.name].deliver(hand_off, self._hands[name][key_id].secret)
        except (TryLater, NeedsPerson) as error:
            failed = transitions.SinkFailure.of(error, self._lots.random())
            self._commit_outcome(name, lambda r, at: transitions.offer_failed(r, key_id, ref, failed, at))
        else:
            self._commit_outcome(name, lambda r, at: transitions.receipted(r, key_id, ref, at))
        finally:
            slot.release()
        return None

    def _revoke(self, setup: Setup, policy: Policy, record: Record, keys: Keys, step: Step, now: datetime) -> None:
        name, key_id = policy.name, step.key_id or 0
        account = find(record, key_id).scope.account
        self._commit(name, lambda r: transitions.revoking(r, key_id, step.why, now))
        try:
            # It may wait for its turn only as long as the list that it rests on is fresh.
            fresh_until = keys.lists[account].requested_at + LIST_MAX_AGE
            patience = max((fresh_until - self._clock.now()).total_seconds(), 0.0)
            setup.provider.revoke_key(account, key_id, patience=patience)
        except (TryLater, NeedsPerson, KeyNotFound, OutcomeUnknown) as error:
            self._complain(error)
            failure = f"Neon did not confirm the revocation: {error}"
            lot, asked = self._lots.random(), _retry_after(error)
            self._commit_outcome(name, lambda r, at: transitions.revoke_failed(r, key_id, failure, lot, asked, at))
        else:
            self._drop(name, key_id)
            self._commit_outcome(name, lambda r, at: transitions.revoked(r, key_id, step.why, at))

    def _left_by(self, name: str, key_id: int) -> dict[str, Transition]:
        """What takes a key from the records of policies that are not configured any more."""
        return {
            record.policy: lambda r: transitions.hand_over(r, key_id, name)
            for record in self._state.records().values()
            if record.policy != name and any(g.key_id == key_id for g in record.generations)
        }

    def _complain(self, error: RotatorError) -> None:
        if isinstance(error, KeyRefused):
            self._tell(Event("management_key.refused", str(error)))

    # Writing down

    def _commit(self, name: str, transition: Transition) -> Record:
        """Write a change down; its events are told after they are remembered."""
        told: list[Event] = []
        record = self._state.change(name, self._clock.now(), _noting(transition, told))
        self._written([record], told)
        return record

    def _commit_together(self, changes: Mapping[str, Transition]) -> None:
        """The same for several records, in one transaction."""
        told: list[Event] = []
        noting = {name: _noting(transition, told) for name, transition in changes.items()}
        self._written(self._state.change_many(self._clock.now(), noting).values(), told)

    def _written(self, records: Iterable[Record], told: Iterable[Event]) -> None:
        for record in records:
            self.outside.remember(record)
        for event in told:
            self._tell(event)

    def _commit_outcome(self, name: str, transition: Callable[[Record, datetime], Change]) -> None:
        """Write down what came of an effect; keep it in memory if the state cannot take it now."""
        at = self._clock.now()

        def outcome(record: Record) -> Change:
            return transition(record, at)

        try:
            self._commit(name, outcome)
        except StateUnavailable:
            self._unwritten.setdefault(name, []).append(outcome)
            raise

    def _write_unwritten(self, name: str) -> None:
        waiting = self._unwritten.get(name, [])
        while waiting:
            self._commit(name, waiting[0])
            waiting.pop(0)

    def _note(self, name: str, step: Step, now: datetime) -> None:
        with self._guard:
            if self._outlooks.get(name) == step:
                return
        self._state.set_outlooks({name: outlook_of(step, now)})
        with self._guard:
            self._outlooks[name] = step
        self._tell(Event("policy.refused" if step.do is Do.REFUSE else "policy.waiting", step.why, name))

    def _drop(self, name: str, key_id: int) -> None:
        self._hands.get(name, {}).pop(key_id, None)

    def _turn_lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._turns.setdefault(name, threading.Lock())

    def _slot(self, target: str) -> threading.BoundedSemaphore:
        with self._guard:
            return self._slots.setdefault(target, threading.BoundedSemaphore(_AT_ONCE_PER_SINK))


def outlook_of(step: Step, now: datetime) -> dict[str, Any]:
    """A decision as it is kept for `status`: plain JSON, without what only the engine needs."""
    return {
        "do": step.do.value,
        "coming": step.coming.value if step.coming else None,
        "until": step.until.isoformat() if step.until else None,
        "why": step.why,
        "key_id": step.key_id,
        "sink": step.sink,
        "decided_at": now.isoformat(),
    }


def _hand_off(record: Record, generation: Generation, sink: str) -> HandOff:
    replaced = live(record)
    return HandOff(
        policy=record.policy,
        generation=generation.number,
        key_id=generation.key_id,
        key_name=generation.name,
        created_at=generation.created_at,
        fingerprint=generation.fingerprint or "",
        sink=sink,
        replaces_id=replaced.key_id if replaced else None,
        replaces_name=replaced.name if replaced else None,
    )


def _noting(transition: Transition, told: list[Event]) -> Transition:
    def noted(record: Record) -> Change | None:
        change = transition(record)
        told.extend(change.events if change is not None else ())
        return change

    return noted


def _retry_now(record: Record) -> Change:
    return Change(transitions.retry_now(record))


def _retry_after(error: RotatorError) -> timedelta | None:
    return error.retry_after if isinstance(error, TryLater) else None
