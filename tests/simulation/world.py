"""One world: the real core and engine between a simulated Neon, sinks, state and people, for months.

The world knows the truth: the account, the places and who holds what there, the policies through all their
configurations. `service.py` drives the product in it, `people.py` makes the trouble, `judge.py` watches.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from rotator.clock import NeonClock, carried_on
from rotator.errors import StateUnavailable
from rotator.model import Event, Every, OrderKind, Policy, Record, Scope, SinkRef
from rotator.rate import RateLimit
from rotator.standing import live, older, unfinished
from rotator.usage import accounts_in_use

from . import plans
from .account import Account, Made, strangers
from .judge import Judge
from .memory import Memory
from .pace import Pace, Stop
from .people import People
from .places import Place, SimulatedSink, SinkHooks
from .provider import Hooks, Provider, Weather
from .service import Service
from .troubles import Troubles
from .truth import Given, Line, Violation

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
        self.requests_per_minute = lots.choice((20, 60, 600, 600))
        self.state_down_until = self.state_read_only_until = 0.0
        self.slept_at = float("-inf")
        self.doubts: list[float] = []
        self.frozen: list[float] = []
        self.wrong_dates: list[float] = []
        self.story: deque[str] = deque(maxlen=_STORY)
        self.ended = False
        self.tempo = plans.a_tempo(lots)
        self.lasts = min(
            self.tempo.gap.total_seconds() * self.tempo.rotations, polls * self.tempo.poll_every.total_seconds()
        )
        self.clock_mends_within = 2 * self.tempo.poll_every.total_seconds() + 3600
        self.judge: Judge = Judge(self)
        self.memory: Memory = Memory(("ops",), self._gate, self._wrote)
        self.service = Service(self, random.Random(f"engine {seed}"))
        self.people = People(self, random.Random(f"people {seed}"))
        self.management = self.account.create(Scope(), "rotator-admin")
        self.key_file: Place | None = None
        self._noted: dict[str | None, str] = {}
        self._latencies = random.Random(f"latency {seed}")
        self._sink_lots = random.Random(f"sinks {seed}")
        self._plan_lots = lots
        self.knows_itself = lots.random() < 0.65
        self._shared = {place.name: place for place in plans.shared_places()}
        self.sinks: dict[str, SimulatedSink] = {}
        self._named: dict[str, int] = {}
        self._outside = False
        self._decided = 0.0
        self._places = 0
        strangers(self.account, ACCOUNTS)
        self._found(lots)

    # The beginning

    def _found(self, lots: random.Random) -> None:
        for number in range(lots.choice((1, 1, 2, 2, 3, 4))):
            line = Line(number, ("ci", "app", "batch", "edge")[number])
            self.lines.append(line)
            self.name(line, line.name)
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
            self.sinks[ref.target].place.holds[line.number] = old

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
        return self.sinks.setdefault(sink.ref.target, sink).ref

    def new_sink(self, line: Line, lot: float) -> SinkRef | None:
        """One more sink for a policy, or None if it has that one already."""
        ref = self._new_sink(line, lot)
        assert line.desired is not None
        return None if any(ref.name == known.name for known in line.desired.deliver_to) else ref

    def configured(self, loaded: Mapping[int, Policy | None]) -> None:
        """The product acts on the configuration that it was given last."""
        for line in self.lines:
            before, line.policy = line.policy, loaded[line.number]
            if line.policy is not None and line.name != line.policy.name:
                self.name(line, line.policy.name)
            if line.policy is not before or line.policy is None:
                line.changed_at = self.pace.seconds
            if line.policy is None:
                line.removed_at = self.pace.seconds
            sinks = line.policy.deliver_to if line.policy is not None else ()
            line.places = {place.name: place for place in map(self.place_of, sinks)}
            for place in line.places.values():
                held = place.holds.get(line.number)
                if held is None or not held.alive:
                    place.excused.add(line.number)
                self.people.settle_at(line, place)

    def place_of(self, ref: SinkRef) -> Place:
        return self.sinks[ref.target].place

    def moved_sink(self, line: Line, name: str) -> SinkRef:
        """A new place for a sink of one policy. A shared one is replaced by one of its own."""
        self._places += 1
        place = plans.own_place(self._sink_lots, f"{line.name}-{self._places}")
        return self._sink_at(place, place.name if name in self._shared else name)

    # What the product meets

    def _hooked(self, sink: SimulatedSink) -> SimulatedSink:
        sink.hooks = SinkHooks(
            boundary=self.boundary,
            meanwhile=self.service.meanwhile,
            trouble=self.troubles.of,
            line_of=self._number_of,
            delivering=self.judge.delivering,
            arrived=self.judge.arrived,
            receipted=self.judge.receipted,
            failed=self.judge.pauses.failed,
            process=lambda: self.service.process,
        )
        return sink

    def way_to_neon(self, clock: NeonClock, rate: RateLimit, stop: Stop) -> Provider:
        """The provider of a new process."""
        hooks = Hooks(
            boundary=self.boundary,
            meanwhile=self.service.meanwhile,
            trouble=self.troubles.of,
            creating=self.judge.creating,
            create_ended=self.judge.create_ended,
            revoking=self.judge.revoking,
            revoke_ended=self.judge.revoke_ended,
            created=self._created,
            killed=self.judge.killed,
            latency=lambda: 0.02 + self._latencies.random() * 0.5,
            process=lambda: self.service.process,
            requested=self.judge.pauses.requested,
            heard=self.judge.tolerance.heard,
            wrong_date=self._wrong_date,
        )
        return Provider(self.account, clock, rate, stop, self.weather, self._reference, hooks)

    def _created(self, key: Made, number: int) -> None:
        key.line = number
        self.lines[number].made.append(key)
        self.judge.created(key)

    @property
    def clock_is_local(self) -> bool:
        """Whether the process has heard no time of Neon's yet."""
        return self.service.clock.skew() is None

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
                self.service.state_failed = True
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
                named = (
                    number for number, policy in self.service.loading.items() if policy and policy.name == event.policy
                )
                line = self.lines[next(named)]
                policy = self.service.loading[line.number]
                self.judge.renamed(policy.renamed_from if policy and policy.renamed_from else line.name)
                self.name(line, event.policy or "")
        self.judge.wrote(records, events)

    # For the judge and the people

    @property
    def acting(self) -> Line | None:
        """The policy whose turn it is, unless another process acts."""
        turns = self.service.turns
        return self.lines[self._number_of(turns[-1])] if turns and not self._outside else None

    @property
    def process(self) -> int:
        """The number of the process that runs."""
        return self.service.process

    @property
    def provider(self) -> Provider:
        """The running process's way to Neon."""
        return self.service.provider

    def name(self, line: Line, name: str) -> None:
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
        return self.service.running and account in accounts_in_use(self.service.setup.policies, {})

    def note(self, text: str, policy: str | None = None) -> None:
        """A line of the story; what is only repeated is left out."""
        if self._noted.get(policy) == text:
            return
        self._noted[policy] = text
        days, rest = divmod(self.pace.seconds, 86400)
        clock = f"{int(days):3}d {int(rest // 3600):02}:{int(rest % 3600 // 60):02}:{rest % 60:05.2f}"
        self.story.append(f"{clock} {policy or ''} {text}")

    # From the beginning to the end

    def run(self) -> None:
        """Live through it all, then let the trouble end and see that everything converges. Raises Violation."""
        try:
            while self.pace.seconds < self.lasts:
                self.service.go_on()
            self.note("*** all goes well from now on")
            self._converge()
        except Violation:
            raise
        except Exception as error:
            raise Violation("crash", f"{type(error).__name__}: {error}") from error

    def _converge(self) -> None:
        self.troubles.end()
        self.people.end()
        self.ended = True
        pace, weather = self.pace, self.weather
        weather.down_until = weather.refuses_until = weather.partial_until = 0.0
        weather.empty_until = weather.stale_until = 0.0
        self.state_down_until = self.state_read_only_until = 0.0
        self.account.lag, self.account.frozen = 0.0, None
        for place in {sink.place.name: sink.place for sink in self.sinks.values()}.values():
            place.down_until = place.unreadable_until = 0.0
            place.gone = False
        for line in self.lines:
            self.people.resume(line)
            if line.desired is not None:  # a moment without any rotation is what is waited for
                line.desired = replace(line.desired, rotate=Every(self.tempo.gap * 10), window=None)
        self.service.reload()
        longest = self.tempo.gap * 2
        for line in self.lines:
            policy = line.policy
            if policy is not None:
                longest = max(longest, policy.grace_period + policy.hold.at_most + self.tempo.gap)
        end = pace.seconds + (longest + timedelta(days=5)).total_seconds()
        asked_at = pace.seconds
        while pace.seconds < end:
            self.service.go_on()
            if not self.service.is_idle:
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
                self.service.reload()
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
