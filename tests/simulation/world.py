"""One world: the real core and engine between a simulated Neon, sinks, state and people, for months.

The driver does what `daemon.py` does: it polls, gives policies their turns when they asked for one, looks for
orders, asks for the time while the clock is in doubt, loads the configuration again. It is one thread, and
time jumps to whatever comes next. Effects of others happen at their own moments, also in the middle of a call.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta

from rotator.clock import NeonClock, carried_on
from rotator.engine import STATE_AGAIN, Engine
from rotator.errors import RotatorError, StateUnavailable
from rotator.model import Event, Every, OrderKind, Policy, Record, Scope, SinkRef
from rotator.ports import Setup
from rotator.rate import RateLimit
from rotator.rounds import Rounds
from rotator.standing import live, older, unfinished
from rotator.transitions import pause_after
from rotator.usage import UnusedRule, accounts_in_use

from . import plans
from .account import Account, Made, strangers
from .judge import Given, Judge, Line, Violation
from .memory import Memory
from .pace import Pace, Stop
from .people import Death, People
from .places import Place, SimulatedSink, SinkHooks
from .provider import Hooks, Provider, Weather
from .troubles import Troubles

NEVER = float("inf")
ACCOUNTS = ("personal", "org-a", "org-b")
_ORDERS_WITHIN = 2.0
_ASK_AGAIN = 5.0
_STORY = 400


class World:
    """Everything there is. `troubles` says what goes wrong, `seed` draws all the rest."""

    def __init__(self, seed: int, troubles: Troubles, *, polls: int = 4000) -> None:
        lots = random.Random(f"world {seed}")
        self.troubles = troubles
        self.pace = Pace()
        self.account = Account(self.pace, random.Random(f"account {seed}"))
        self.weather = Weather()
        self.lines: list[Line] = []
        self.process = 0
        self.requests_per_minute = lots.choice((20, 60, 600, 600))
        self.state_down_until = self.state_read_only_until = 0.0
        self.slept_at = float("-inf")
        self.doubts: list[float] = []
        self.frozen: list[float] = []
        self.wrong_dates: list[float] = []
        self.steps = self.restarts = 0
        self.story: deque[str] = deque(maxlen=_STORY)
        self.ended = False
        self.tempo = plans.a_tempo(lots)
        self.lasts = min(
            self.tempo.gap.total_seconds() * self.tempo.rotations, polls * self.tempo.poll_every.total_seconds()
        )
        self.clock_mends_within = 2 * self.tempo.poll_every.total_seconds() + 3600
        self.judge = Judge(self)
        self.memory = Memory(("ops",), self._gate, self._wrote)
        self.people = People(self, random.Random(f"people {seed}"))
        self.management = self.account.create(Scope(), "rotator-admin")
        self.key_file: Place | None = None
        self._noted: dict[str | None, str] = {}
        self._latencies = random.Random(f"latency {seed}")
        self._engine_lots = random.Random(f"engine {seed}")
        self._sink_lots = random.Random(f"sinks {seed}")
        self._plan_lots = lots
        self.knows_itself = lots.random() < 0.65
        self._shared = {place.name: place for place in plans.shared_places()}
        self._sinks: dict[str, SimulatedSink] = {}
        self._named: dict[str, int] = {}
        self._loading: dict[int, Policy | None] = {}
        self._acting: list[str] = []
        self._is_meanwhile = False
        self._outside = False
        self._booting = False
        self._decided = 0.0
        self._state_failed = False
        self._places = 0
        self._next_poll = self._look_at = self._ask_at = self._reload_at = NEVER
        self._restart_at = 0.0
        self._running = False
        self._unanswered = 0
        self._wakes: dict[str, float] = {}
        self._orders_seen: set[int] = set()
        self._nudge: str | None = None
        strangers(self.account, ACCOUNTS)
        self._found(lots)

    # The beginning

    def _found(self, lots: random.Random) -> None:
        for number in range(lots.choice((1, 1, 2, 2, 3, 4))):
            line = Line(number, ("ci", "app", "batch", "edge")[number])
            self.lines.append(line)
            self._name(line, line.name)
            refs = tuple(self._new_sink(line, lots.random()) for _ in range(lots.choice((1, 2, 2, 3))))
            refs = tuple({ref.name: ref for ref in refs}.values())
            line.first = line.desired = plans.a_policy(lots, line.name, refs, self.tempo)
            if lots.random() < 0.2:
                self._given_before(line)

    def _given_before(self, line: Line) -> None:
        """The policy is to adopt a key that its sinks have had for long."""
        assert line.desired is not None
        old = self.account.create(line.desired.scope, f"by-hand-for-{line.name}")
        line.desired = replace(line.desired, adopt=old.id)
        for ref in line.desired.deliver_to:
            self._sinks[ref.target].place.holds[line.number] = old

    def _new_sink(self, line: Line, lot: float) -> SinkRef:
        names = list(self._shared)
        if lot < 0.45:
            place = self._shared[names[int(lot * 9973) % len(names)]]
            return self._sink_at(place, place.name)
        self._places += 1
        place = plans.own_place(self._sink_lots, f"{line.name}-{self._places}")
        return self._sink_at(place, place.name)

    def _sink_at(self, place: Place, name: str) -> SinkRef:
        sink = self._hooked(SimulatedSink(name, place, self._places, self.account, self._sink_lots))
        return self._sinks.setdefault(sink.ref.target, sink).ref

    def new_sink(self, line: Line, lot: float) -> SinkRef | None:
        """One more sink for a policy, or None if it has that one already."""
        ref = self._new_sink(line, lot)
        assert line.desired is not None
        return None if any(ref.name == known.name for known in line.desired.deliver_to) else ref

    def place_of(self, ref: SinkRef) -> Place:
        return self._sinks[ref.target].place

    def moved_sink(self, line: Line, name: str) -> SinkRef:
        """A new place for a sink of one policy. A shared one is replaced by one of its own."""
        self._places += 1
        place = plans.own_place(self._sink_lots, f"{line.name}-{self._places}")
        return self._sink_at(place, place.name if name in self._shared else name)

    # What the product meets

    def _hooked(self, sink: SimulatedSink) -> SimulatedSink:
        sink.hooks = SinkHooks(
            boundary=self.boundary,
            meanwhile=self._meanwhile,
            trouble=self.troubles.of,
            line_of=self._number_of,
            delivering=self.judge.delivering,
            arrived=self.judge.arrived,
            receipted=self.judge.receipted,
            failed=self.judge.failed,
            process=lambda: self.process,
        )
        return sink

    def _hooks(self) -> Hooks:
        return Hooks(
            boundary=self.boundary,
            meanwhile=self._meanwhile,
            trouble=self.troubles.of,
            creating=self.judge.creating,
            create_ended=self.judge.create_ended,
            revoking=self.judge.revoking,
            revoke_ended=self.judge.revoke_ended,
            created=self._created,
            killed=self.judge.killed,
            latency=lambda: 0.02 + self._latencies.random() * 0.5,
            process=lambda: self.process,
            requested=self.judge.requested,
            heard=self.judge.heard,
            wrong_date=self._wrong_date,
        )

    def _created(self, key: Made, number: int) -> None:
        key.line = number
        self.lines[number].made.append(key)
        self.judge.created(key)

    @property
    def clock_is_local(self) -> bool:
        """Whether the process has heard no time of Neon's yet."""
        return self.clock.skew() is None

    def _wrong_date(self, error: float) -> None:
        self.wrong_dates.append(self.pace.seconds)
        if abs(error) > 300:
            self.doubts.append(self.pace.seconds)

    def _reference(self) -> str:
        held = self.key_file.holds.get(0) if self.key_file is not None else None
        return held.secret if held is not None else self.management.secret

    def boundary(self, where: str) -> None:
        """Something may happen here; the process may end here."""
        trouble = self.troubles.boundary()
        if trouble is not None:
            self.people.strike(trouble)

    def _gate(self, writing: bool, done: bool) -> None:
        if done:
            if writing and not self._outside:
                self.judge.write_failed = False
                self.boundary("after a write")
            return
        if not self._outside:
            if writing:
                self.boundary("before a write")
            else:
                self._decided = self.pace.seconds
        now = self.pace.seconds
        failing = writing and not self._outside and self.troubles.of("write") is not None
        if now < self.state_down_until or (writing and now < self.state_read_only_until) or failing:
            if not self._outside:
                self.judge.write_failed = self.judge.write_failed or writing
                self._state_failed = True
            raise StateUnavailable("the state cannot be written: disk full")

    @contextmanager
    def from_outside(self) -> Iterator[None]:
        """Another process uses the state: no boundary of ours."""
        before, self._outside = self._outside, True
        try:
            yield
        finally:
            self._outside = before

    def _wrote(self, records: Mapping[str, Record], events: Sequence[Event]) -> None:
        for event in events:
            self.note(f"    {event.name}: {event.why}", event.policy)
            if event.name == "policy.renamed":
                named = (number for number, policy in self._loading.items() if policy and policy.name == event.policy)
                line = self.lines[next(named)]
                policy = self._loading[line.number]
                self.judge.renamed(policy.renamed_from if policy and policy.renamed_from else line.name)
                self._name(line, event.policy or "")
        self.judge.wrote(records, events)

    # For the judge and the people

    @property
    def acting(self) -> Line | None:
        """The policy whose turn it is, unless another process acts."""
        return self.lines[self._number_of(self._acting[-1])] if self._acting and not self._outside else None

    def _name(self, line: Line, name: str) -> None:
        line.name = name
        self._named[name] = line.number

    def decided_at(self) -> float:
        return self._decided

    def _number_of(self, policy: str) -> int:
        return self._named[policy]

    def state_time(self) -> datetime:
        """Neon's time, as far as the state knows it, for an order of another process."""
        with self.from_outside():
            left, newest = self.memory.meta("clock"), self.memory.newest_time()
        told, _, at = (left or "").partition(" ")
        times = [carried_on(datetime.fromisoformat(told), float(at), self.pace.since_boot())] if told else []
        times += [newest + timedelta(microseconds=1)] if newest else []
        return max(times, default=self.pace.local())

    def watches(self, account: str) -> bool:
        return account in accounts_in_use(self.setup.policies, {}) if self._running else False

    def note(self, text: str, policy: str | None = None) -> None:
        """A line of the story; what is only repeated is left out."""
        if self._noted.get(policy) == text:
            return
        self._noted[policy] = text
        days, rest = divmod(self.pace.seconds, 86400)
        clock = f"{int(days):3}d {int(rest // 3600):02}:{int(rest % 3600 // 60):02}:{rest % 60:05.2f}"
        self.story.append(f"{clock} {policy or ''} {text}")

    # The process

    def die(self, down: float) -> bool:
        """End the process now. It is started again after so long."""
        if not self._running and not self._booting:
            return False
        self.troubles.count("die")
        self.note(f"*** dies, and is down for {down:.0f} s")
        self._restart_at = self.pace.seconds + down
        raise Death

    def _died(self) -> None:
        if self._restart_at == NEVER:
            self._restart_at = self.pace.seconds
        self._running = self._booting = False
        self._acting.clear()
        self._wakes.clear()
        self._next_poll = self._look_at = self._ask_at = self._reload_at = NEVER
        self.judge.died()
        self.process += 1
        self.restarts += 1

    def _restart(self) -> None:
        """What `assembly.assemble` and `Service.run` do."""
        self._restart_at, self._booting = NEVER, True
        self.process += 1
        self.judge.restarted()
        self.clock = NeonClock(self.pace.since_boot, self.pace.local)
        self.stop = Stop(self.pace)
        try:
            newest = self.memory.newest_time()
            if newest is not None:
                self.clock.remembers(newest)
            rate = RateLimit(self.requests_per_minute, self.stop, self.pace.monotonic)
            self.provider = Provider(
                self.account, self.clock, rate, self.stop, self.weather, self._reference, self._hooks()
            )
            self.setup = self._setup()
            self.engine = Engine(self.setup, self.memory, self.clock, self._told, self.stop, self._engine_lots)
            self.rounds = Rounds(self.engine, self.memory, self.clock, self._told)
            self.engine.start()
        except StateUnavailable:
            self._booting = False
            self._restart_at = self.pace.seconds + 10
            return
        self._running, self._booting = True, False
        self._orders_seen, self._nudge = set(), None
        self._configured()
        self._poll()
        self._plan_anew()

    def _told(self, event: Event) -> None:
        if "napi_" in event.why:
            raise Violation("I5", f"a secret in the event {event.name}")
        if event.name in ("policy.waiting", "policy.refused", "state.unavailable", "list.unreadable", "turn.endless"):
            self.note(f"    {event.name}: {event.why}", event.policy)
        if event.name == "turn.endless":
            raise Violation("rest", event.why)

    def _setup(self) -> Setup:
        self._loading = {line.number: line.desired for line in self.lines}
        policies = {policy.name: policy for policy in self._loading.values() if policy is not None}
        api_key_id = self.management.id if self.knows_itself and self.key_file is None else None
        sinks = {ref.name: self._sinks[ref.target] for policy in policies.values() for ref in policy.deliver_to}
        return Setup(self.provider, policies, sinks, UnusedRule(timedelta(days=90)), api_key_id)  # type: ignore[arg-type]

    def _configured(self) -> None:
        """The product acts on the configuration that it was given last."""
        for line in self.lines:
            before, line.policy = line.policy, self._loading[line.number]
            if line.policy is not None and line.name != line.policy.name:
                self._name(line, line.policy.name)
            if line.policy is not before or line.policy is None:
                line.changed_at = self.pace.seconds
            line.places = {p.name: p for p in (self._sinks[ref.target].place for ref in _sinks_of(line.policy))}
            for place in line.places.values():
                held = place.holds.get(line.number)
                if held is None or not held.alive:
                    place.excused.add(line.number)
                self.people.settle_at(line, place)

    def reload(self) -> None:
        """The configuration file has changed; the service is told so in a moment."""
        self._reload_at = self.pace.seconds + 0.5

    def order_given(self) -> None:
        self._look_at = min(self._look_at, self.pace.seconds + _ORDERS_WITHIN)

    def plan_anew(self) -> None:
        """The main thread sees that the machine slept or that its clock was set."""
        if self._running:
            self._plan_anew()

    # The driver

    def run(self) -> None:
        """Live through it all, then let the trouble end and see that everything converges."""
        try:
            while self.pace.seconds < self.lasts:
                self._go_on()
            self.note("*** all goes well from now on")
            self._converge()
        except Violation:
            raise
        except Exception as error:
            raise Violation("crash", f"{type(error).__name__}: {error}") from error

    def _go_on(self) -> None:
        due = min(self._restart_at, self._reload_at, self._look_at, self._ask_at, self._next_poll)
        wake = min(self._wakes.values(), default=NEVER)
        moment = min(due, wake)
        if self.pace.next_at() < moment:
            self.pace.advance_to(self.pace.next_at())
            return
        self.pace.advance_to(moment)
        try:
            self._do_what_is_due(moment)
        except Death:
            self._died()

    def _do_what_is_due(self, moment: float) -> None:
        if self._restart_at <= moment:
            self._restart()
        elif self._reload_at <= moment:
            self._reload_at = NEVER
            if self._running:
                self._load_again()
        elif self._look_at <= moment:
            self._look_at = NEVER
            if self._running:
                self._look_for_orders()
        elif self._ask_at <= moment:
            self._ask_at = NEVER
            self._ask_for_the_time()
        elif self._next_poll <= moment:
            self._poll_and_wake()
        else:
            name = min(self._wakes, key=lambda name: (self._wakes[name], name))
            self._turn(name)
        if self._running and self.clock.distrust and self._ask_at == NEVER:
            self._ask_at = self.pace.seconds + _ASK_AGAIN

    def _turn(self, name: str) -> None:
        self._wakes.pop(name, None)
        self._acting.append(name)
        self._state_failed = False
        before = self.memory.looks
        try:
            wake = self.engine.turn(name)
        finally:
            self.steps += max(0, self.memory.looks - before - 1)  # the last look of a turn finds nothing to do
        self._acting.pop()
        now = self.clock.now()
        if self._state_failed and (wake is None or wake > now + STATE_AGAIN):
            raise Violation("I8", f"the state failed, and is not tried again before {wake}")
        if wake is not None and name not in self._wakes:
            self._wakes[name] = self.pace.seconds + max(0.0, (wake - now).total_seconds())

    def _poll(self) -> set[str]:
        try:
            concerned = self.rounds.poll()
        except StateUnavailable:
            return set()
        with suppress(StateUnavailable):
            self.rounds.prune()
        return concerned

    def _poll_and_wake(self) -> None:
        self.boundary("before a poll")
        self._next_poll = self.pace.seconds + self.tempo.poll_every.total_seconds()
        for name in self._poll():
            self._wakes[name] = self.pace.seconds

    def _plan_anew(self) -> None:
        self._next_poll = self.pace.seconds + self.tempo.poll_every.total_seconds()
        with self.from_outside():
            try:
                names = {*self.setup.policies, *self.memory.records()}
            except StateUnavailable:
                names = set(self.setup.policies)
        for name in names:
            self._wakes[name] = self.pace.seconds
        self._look_at = self.pace.seconds

    def _look_for_orders(self) -> None:
        try:
            orders, nudge = self.memory.open_orders(), self.memory.meta("nudge")
            if any(order.policy is None for order in orders):
                self.rounds.obey()
        except StateUnavailable:
            self._look_at = self.pace.seconds + _ORDERS_WITHIN
            return
        if nudge != self._nudge:
            self._nudge = nudge
            for name in {*self.setup.policies, *self.memory.records()}:
                self._wakes[name] = self.pace.seconds
        for order in orders:
            if order.policy is not None and order.id not in self._orders_seen:
                self._orders_seen.add(order.id)
                self._wakes[order.policy] = self.pace.seconds

    def _ask_for_the_time(self) -> None:
        if not self._running or not self.clock.distrust:
            return
        try:
            self.provider.whoami()
            self._unanswered = 0
        except RotatorError:
            self._unanswered += 1
            pause = pause_after(self._unanswered, self._engine_lots.random())
            self._ask_at = self.pace.seconds + pause.total_seconds()

    def _load_again(self) -> None:
        self.note("*** the configuration is loaded again")
        self.judge.retry_now()
        before, setup = self._loading, self._setup()
        try:
            self.engine.configure(setup)
        except StateUnavailable:
            self._loading = before
            self.reload()  # a person sees the message and tries again
            self._reload_at += 600
            return
        self.setup = setup
        self._configured()
        self._plan_anew()

    def _meanwhile(self) -> None:
        """What other threads do while this one waits for an answer."""
        trouble = self.troubles.of("meanwhile")
        if trouble is None or not self._running or len(self._acting) > 1 or self._is_meanwhile:
            return
        self.note(f"*** {trouble.kind}")
        self._is_meanwhile = True
        before, self._acting = self._acting, []
        failed = self.judge.write_failed, self._state_failed
        if trouble.kind == "configuration loaded meanwhile":
            self._reload_at = NEVER
            self._load_again()
        else:
            self._poll()
        if trouble.kind == "turns meanwhile":
            for line in self.lines:
                if line.policy is not None and line.name not in before:
                    self._turn(line.name)
        self._acting = before
        self._is_meanwhile = False
        self.judge.write_failed, self._state_failed = failed

    # The end

    def _converge(self) -> None:
        self.troubles.end()
        self.people.end()
        self.ended = True
        pace, weather = self.pace, self.weather
        weather.down_until = weather.refuses_until = weather.partial_until = 0.0
        weather.empty_until = weather.stale_until = 0.0
        self.state_down_until = self.state_read_only_until = 0.0
        self.account.lag, self.account.frozen = 0.0, None
        for place in {sink.place.name: sink.place for sink in self._sinks.values()}.values():
            place.down_until = place.unreadable_until = 0.0
            place.gone = False
        for line in self.lines:
            self.people.resume(line)
            if line.desired is not None:  # a moment without any rotation is what is waited for
                line.desired = replace(line.desired, rotate=Every(self.tempo.gap * 10), window=None)
        self.reload()
        longest = self.tempo.gap * 2
        for line in self.lines:
            policy = line.policy
            if policy is not None:
                longest = max(longest, policy.grace_period + policy.hold.at_most + self.tempo.gap)
        end = pace.seconds + (longest + timedelta(days=5)).total_seconds()
        asked_at = pace.seconds
        while pace.seconds < end:
            self._go_on()
            if not self._running or (self._wakes and min(self._wakes.values()) <= pace.seconds):
                continue
            if pace.seconds >= asked_at:
                if self._is_quiet():
                    break
                self._answer()
                asked_at = pace.seconds + 900
        else:
            raise Violation("end", f"it does not converge: {self._unquiet()}")
        self.judge.outcomes()
        if self.memory.broken_at() is not None:
            raise Violation("I7", f"the history's chain is broken at {self.memory.broken_at()}")
        if any("napi_" in text for text in self.memory.texts()):
            raise Violation("I5", "a secret stands in the state")

    def _answer(self) -> None:
        """A person looks at the status, and does what it asks for."""
        with self.from_outside():
            outlooks = self.memory.outlooks()
        for line in self.lines:
            outlook = outlooks.get(line.name)
            if outlook is None or self._record(line).orders:
                continue
            why = str(outlook["why"])
            if line.policy is None:
                continue
            if "cannot be adopted" in why:
                line.desired = replace(line.policy, adopt=None)
                self.reload()
            elif "run: rotator revoke" in why and "older keys" not in why:
                self.people.give(line, Given(OrderKind.REVOKE, self.pace.seconds, key_id=int(outlook["key_id"])))
            elif outlook["do"] == "refuse" or self._is_alarming(self._record(line)):
                self.people.give(line, Given(OrderKind.ROTATE, self.pace.seconds))

    def _is_alarming(self, record: Record) -> bool:
        """Whether a person was told that a sink drifted or that the live key is missing."""
        return bool(record.drifted) or any(generation.missing_reported for generation in record.generations)

    def _record(self, line: Line) -> Record:
        with self.from_outside():
            return self.memory.record(line.name)

    def _is_quiet(self) -> bool:
        return not self._unquiet()

    def _unquiet(self) -> str:
        """What is not yet as it should be in the end, or an empty text."""
        for line in self.lines:
            record = self._record(line)
            if line.policy is None:
                continue
            current = live(record)
            if current is None:
                return f"{line.name} has no live key"
            left = {key.id for key in line.made if key.alive}
            if left != {current.key_id}:
                return f"{line.name}: of {sorted(left)} only the live key {current.key_id} should be left"
            if older(record) or unfinished(record) or record.intent or record.rotation or record.orders:
                return f"{line.name}: something is under way: {record}"
            for place in line.places.values():
                held = place.holds.get(line.number)
                if (held is None or held.id != current.key_id) and not current.adopted:
                    return f"{line.name}: {place.name} holds {held and held.name}, the live key is {current.name}"
        return ""


def _sinks_of(policy: Policy | None) -> tuple[SinkRef, ...]:
    return policy.deliver_to if policy is not None else ()
