"""The service in a simulated world: what `assembly.py` and `daemon.py` do, in one thread, with a clock that is pushed.

It polls, gives policies their turns when they asked for one, looks for orders, asks for the time while the clock is in
doubt, loads the configuration again. Time jumps to whatever comes next, here or with others; effects of others happen
at their own moments, also in the middle of a call. It may die at every boundary, and is started again.
"""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from rotator.clock import NeonClock
from rotator.engine import STATE_AGAIN, Engine
from rotator.errors import RotatorError, StateUnavailable
from rotator.model import Event, Policy
from rotator.ports import Setup
from rotator.rate import RateLimit
from rotator.rounds import Rounds
from rotator.transitions import pause_after
from rotator.usage import UnusedRule

from .pace import Stop
from .people import Death
from .truth import Violation

if TYPE_CHECKING:
    from .world import World

NEVER = float("inf")
_ORDERS_WITHIN = 2.0
_ASK_AGAIN = 5.0


class Service:
    """One process after the other. `process` is a number of each life and of each time between two."""

    def __init__(self, world: World, lots: random.Random) -> None:
        self._world = world
        self._pace = world.pace
        self._memory = world.memory
        self._judge = world.judge
        self._lots = lots
        self.process = 0
        self.steps = self.restarts = 0
        self.running = False
        self.turns: list[str] = []
        self.loading: dict[int, Policy | None] = {}
        self.state_failed = False
        self._booting = False
        self._is_meanwhile = False
        self._next_poll = self._look_at = self._ask_at = self._reload_at = NEVER
        self._restart_at = 0.0
        self._unanswered = 0
        self._wakes: dict[str, float] = {}
        self._orders_seen: set[int] = set()
        self._nudge: str | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it runs, and no policy wants its turn now."""
        return self.running and not (self._wakes and min(self._wakes.values()) <= self._pace.seconds)

    def die(self, down: float) -> bool:
        """End the process now. It is started again after so long."""
        if not self.running and not self._booting:
            return False
        self._world.troubles.count("die")
        self._world.note(f"*** dies, and is down for {down:.0f} s")
        self._restart_at = self._pace.seconds + down
        raise Death

    def _died(self) -> None:
        if self._restart_at == NEVER:
            self._restart_at = self._pace.seconds
        self.running = self._booting = False
        self.turns.clear()
        self._wakes.clear()
        self._next_poll = self._look_at = self._ask_at = self._reload_at = NEVER
        self._judge.died()
        self.process += 1
        self.restarts += 1

    def _restart(self) -> None:
        """What `assembly.assemble` and `Service.run` do."""
        self._restart_at, self._booting = NEVER, True
        self.process += 1
        self._judge.restarted()
        self.clock = NeonClock(self._pace.since_boot, self._pace.local)
        self.stop = Stop(self._pace)
        try:
            newest = self._memory.newest_time()
            if newest is not None:
                self.clock.remembers(newest)
            rate = RateLimit(self._world.requests_per_minute, self.stop, self._pace.monotonic)
            self.provider = self._world.way_to_neon(self.clock, rate, self.stop)
            self.setup = self._setup()
            self.engine = Engine(self.setup, self._memory, self.clock, self._told, self.stop, self._lots)
            self.rounds = Rounds(self.engine, self._memory, self.clock, self._told)
            self.engine.start()
        except StateUnavailable:
            self._booting = False
            self._restart_at = self._pace.seconds + 10
            return
        self.running, self._booting = True, False
        self._orders_seen, self._nudge = set(), None
        self._world.configured(self.loading)
        self._poll()
        self._plan_anew()

    def _told(self, event: Event) -> None:
        if "napi_" in event.why:
            raise Violation("I5", f"a secret in the event {event.name}")
        if event.name in ("policy.waiting", "policy.refused", "state.unavailable", "list.unreadable", "turn.endless"):
            self._world.note(f"    {event.name}: {event.why}", event.policy)
        if event.name == "turn.endless":
            raise Violation("rest", event.why)

    def _setup(self) -> Setup:
        world = self._world
        self.loading = {line.number: line.desired for line in world.lines}
        policies = {policy.name: policy for policy in self.loading.values() if policy is not None}
        api_key_id = world.management.id if world.knows_itself and world.key_file is None else None
        sinks = {ref.name: world.sinks[ref.target] for policy in policies.values() for ref in policy.deliver_to}
        return Setup(self.provider, policies, sinks, UnusedRule(timedelta(days=90)), api_key_id)  # type: ignore[arg-type]

    def reload(self) -> None:
        """The configuration file has changed; the service is told so in a moment."""
        self._reload_at = self._pace.seconds + 0.5

    def order_given(self) -> None:
        """An order is in the state; the service looks for one every two seconds."""
        self._look_at = min(self._look_at, self._pace.seconds + _ORDERS_WITHIN)

    def plan_anew(self) -> None:
        """The main thread sees that the machine slept or that its clock was set."""
        if self.running:
            self._plan_anew()

    # What comes next

    def go_on(self) -> None:
        """Let time jump to whatever comes next, and let it happen."""
        due = min(self._restart_at, self._reload_at, self._look_at, self._ask_at, self._next_poll)
        wake = min(self._wakes.values(), default=NEVER)
        moment = min(due, wake)
        if self._pace.next_at() < moment:
            self._pace.advance_to(self._pace.next_at())
            return
        self._pace.advance_to(moment)
        try:
            self._do_what_is_due(moment)
        except Death:
            self._died()

    def _do_what_is_due(self, moment: float) -> None:
        if self._restart_at <= moment:
            self._restart()
        elif self._reload_at <= moment:
            self._reload_at = NEVER
            if self.running:
                self._load_again()
        elif self._look_at <= moment:
            self._look_at = NEVER
            if self.running:
                self._look_for_orders()
        elif self._ask_at <= moment:
            self._ask_at = NEVER
            self._ask_for_the_time()
        elif self._next_poll <= moment:
            self._poll_and_wake()
        else:
            name = min(self._wakes, key=lambda name: (self._wakes[name], name))
            self._turn(name)
        if self.running and self.clock.distrust and self._ask_at == NEVER:
            self._ask_at = self._pace.seconds + _ASK_AGAIN

    def _turn(self, name: str) -> None:
        self._wakes.pop(name, None)
        self.turns.append(name)
        self.state_failed = False
        before = self._memory.looks
        try:
            wake = self.engine.turn(name)
        finally:
            self.steps += max(0, self._memory.looks - before - 1)  # the last look of a turn finds nothing to do
        self.turns.pop()
        now = self.clock.now()
        if self.state_failed and (wake is None or wake > now + STATE_AGAIN):
            raise Violation("I8", f"the state failed, and is not tried again before {wake}")
        if wake is not None and name not in self._wakes:
            self._wakes[name] = self._pace.seconds + max(0.0, (wake - now).total_seconds())

    def _poll(self) -> set[str]:
        try:
            concerned = self.rounds.poll()
        except StateUnavailable:
            return set()
        with suppress(StateUnavailable):
            self.rounds.prune()
        return concerned

    def _poll_and_wake(self) -> None:
        self._world.boundary("before a poll")
        self._next_poll = self._pace.seconds + self._world.tempo.poll_every.total_seconds()
        for name in self._poll():
            self._wakes[name] = self._pace.seconds

    def _plan_anew(self) -> None:
        self._next_poll = self._pace.seconds + self._world.tempo.poll_every.total_seconds()
        with self._world.from_outside():
            try:
                names = {*self.setup.policies, *self._memory.records()}
            except StateUnavailable:
                names = set(self.setup.policies)
        for name in names:
            self._wakes[name] = self._pace.seconds
        self._look_at = self._pace.seconds

    def _look_for_orders(self) -> None:
        try:
            orders, nudge = self._memory.open_orders(), self._memory.meta("nudge")
            if any(order.policy is None for order in orders):
                self.rounds.obey()
        except StateUnavailable:
            self._look_at = self._pace.seconds + _ORDERS_WITHIN
            return
        if nudge != self._nudge:
            self._nudge = nudge
            for name in {*self.setup.policies, *self._memory.records()}:
                self._wakes[name] = self._pace.seconds
        for order in orders:
            if order.policy is not None and order.id not in self._orders_seen:
                self._orders_seen.add(order.id)
                self._wakes[order.policy] = self._pace.seconds

    def _ask_for_the_time(self) -> None:
        if not self.running or not self.clock.distrust:
            return
        try:
            self.provider.whoami()
            self._unanswered = 0
        except RotatorError:
            self._unanswered += 1
            pause = pause_after(self._unanswered, self._lots.random())
            self._ask_at = self._pace.seconds + pause.total_seconds()

    def _load_again(self) -> None:
        self._world.note("*** the configuration is loaded again")
        self._judge.pauses.retry_now()
        before, setup = self.loading, self._setup()
        try:
            self.engine.configure(setup)
        except StateUnavailable:
            self.loading = before
            self.reload()  # a person sees the message and tries again
            self._reload_at += 600
            return
        self.setup = setup
        self._world.configured(self.loading)
        self._plan_anew()

    def meanwhile(self) -> None:
        """What other threads do while this one waits for an answer."""
        trouble = self._world.troubles.of("meanwhile")
        if trouble is None or not self.running or len(self.turns) > 1 or self._is_meanwhile:
            return
        self._world.note(f"*** {trouble.kind}")
        self._is_meanwhile = True
        before, self.turns = self.turns, []
        failed = self._judge.write_failed, self.state_failed
        if trouble.kind == "configuration loaded meanwhile":
            self._reload_at = NEVER
            self._load_again()
        else:
            self._poll()
        if trouble.kind == "turns meanwhile":
            for line in self._world.lines:
                if line.policy is not None and line.name not in before:
                    self._turn(line.name)
        self.turns = before
        self._is_meanwhile = False
        self._judge.write_failed, self.state_failed = failed
