"""Who else acts in the world: consumers, operators, people in Neon's console, and bad luck.

Consumers read the place that they belong to and call Neon with what they hold. A prompt one reads again well
within the grace period; one that is *stuck* goes on with the key that it has. `strike` makes a trouble happen.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from rotator import renames, transitions
from rotator.errors import StateUnavailable
from rotator.model import Every, Order, OrderKind, Policy, Scope

from . import plans
from .account import Made
from .places import Place
from .troubles import Trouble
from .truth import Given, Line

if TYPE_CHECKING:
    from .world import World

HOUR = 3600.0


class Death(BaseException):
    """The process ends here: not an Exception, so nothing handles it."""


@dataclass(eq=False)
class Consumer:
    """Somebody who needs a key. `stuck_until` is when it reads its place again."""

    line: Line
    place: Place
    address: str
    holds: Made | None = None
    read_at: float = float("-inf")
    stuck_until: float = 0.0
    gone: bool = False


class People:
    """Everybody but the product. `lots` decides what a trouble leaves open."""

    def __init__(self, world: World, lots: random.Random) -> None:
        self._world = world
        self._lots = lots
        self._pace = world.pace
        self.consumers: list[Consumer] = []
        self.strays = 0

    # Consumers

    def settle_at(self, line: Line, place: Place) -> None:
        """A place has one consumer or two of each line that delivers there."""
        if any(c.line is line and c.place is place for c in self.consumers):
            return
        for _ in range(self._lots.choice((1, 1, 2))):
            consumer = Consumer(line, place, f"203.0.113.{len(self.consumers) + 2}")
            self.consumers.append(consumer)
            self._pace.after(self._lots.random() * 60, partial(self._live, consumer))

    def _live(self, consumer: Consumer) -> None:
        """One call, and when the next one is."""
        world, now, line = self._world, self._pace.seconds, consumer.line
        policy = line.policy or line.desired or line.first
        assert policy is not None
        grace = policy.grace_period.total_seconds()
        if now >= consumer.stuck_until:
            consumer.holds, consumer.read_at = consumer.place.holds.get(line.number), now
        key = consumer.holds
        if consumer.gone or (line.policy is not None and consumer.place.name not in line.places):
            key = None  # whoever reads a place that is served no more has gone elsewhere
        if key is not None:
            worked = world.account.use(key, consumer.address)
            world.judge.called(worked, key, line.number, consumer.place, consumer.read_at)
            if not worked:  # whoever is refused looks whether there is another key
                consumer.stuck_until = 0.0
        stuck = now < consumer.stuck_until
        quiet = policy.hold.while_old_key_used_within
        asked = quiet.total_seconds() if quiet else min(HOUR, grace)
        pause = min(grace * 0.4, asked * 0.4 if stuck else 8 * HOUR)
        self._pace.after(max(60.0, pause) * (0.6 + 0.4 * self._lots.random()), partial(self._live, consumer))

    # Troubles

    def strike(self, trouble: Trouble) -> None:
        """Let it happen. A trouble that has nobody to hit passes by; one that hits is counted."""
        if _HAPPENINGS[trouble.kind](self, trouble.lot):
            self._world.troubles.count(trouble.kind)
            self._world.note(f"*** {trouble.kind}")

    def end(self) -> None:
        """Everybody reads again what they should use."""
        for consumer in self.consumers:
            consumer.stuck_until = 0.0
            consumer.gone = consumer.line.desired is None

    def _line(self, lot: float) -> Line | None:
        lines = [line for line in self._world.lines if line.policy is not None and line.desired is not None]
        return lines[int(lot * 997) % len(lines)] if lines else None

    def _key(self, lot: float) -> Made | None:
        line = self._line(lot)
        keys = [key for key in line.made if key.alive] if line else []
        return keys[int(lot * 9973) % len(keys)] if keys else None

    def _place(self, lot: float, *kinds: str) -> Place | None:
        line = self._line(lot)
        places = [place for place in line.places.values() if not kinds or place.kind in kinds] if line else []
        return places[int(lot * 9973) % len(places)] if places else None

    def _lasts(self, lot: float, longest: float) -> float:
        """From a minute to that long, short ones as likely as long ones."""
        return float(60.0 * (longest / 60.0) ** (lot * 99 % 1))

    # The process and the machine

    def die(self, lot: float) -> bool:
        return self._world.service.die(0.0 if lot < 0.7 else self._lasts(lot, 600))

    def stay_down(self, lot: float) -> bool:
        return self._world.service.die(self._lasts(lot, 3 * 24 * HOUR))

    def sleep(self, lot: float) -> bool:
        """The machine sleeps: time goes on, its monotonic clock does not, the one that counts from the boot does."""
        lasts = self._lasts(lot, 24 * HOUR)
        self._pace.slept += lasts
        return self._miss(lasts)

    def freeze(self, lot: float) -> bool:
        """A virtual machine is frozen: all its clocks stand still."""
        lasts = self._lasts(lot, 24 * HOUR)
        self._pace.frozen += lasts
        self._world.frozen.append(self._pace.seconds + lasts)
        return self._miss(lasts)

    def _miss(self, lasts: float) -> bool:
        self._world.slept_at = self._pace.seconds
        self._pace.advance(lasts)
        self._world.doubts.append(self._pace.seconds)
        self._world.service.plan_anew()
        return True

    def step_clock(self, lot: float) -> bool:
        self._pace.local_error = (lot - 0.5) * 10**6
        self._world.service.plan_anew()
        return True

    def state_down(self, lot: float) -> bool:
        self._world.state_down_until = self._pace.seconds + self._lasts(lot, 12 * HOUR)
        return True

    def state_read_only(self, lot: float) -> bool:
        self._world.state_read_only_until = self._pace.seconds + self._lasts(lot, 12 * HOUR)
        return True

    # Operators

    def give(self, line: Line | None, given: Given) -> bool:
        """An order goes through the state, as the commands do it beside a running service."""
        name = line.name if line else None
        try:
            with self._world.from_outside():
                at = self._world.state_time()
                order = Order(0, given.kind, at, name, given.key_id, given.leaked, given.now)
                self._world.memory.add_order(replace(order, unmanaged=given.unmanaged))
        except StateUnavailable:
            return False
        (line.orders if line else self._world.judge.orders).append(given)
        self._world.service.order_given()
        return True

    def rotate(self, lot: float, leaked: bool = False, now: bool = False) -> bool:
        line = self._line(lot)
        if line is None:
            return False
        return self.give(line, Given(OrderKind.ROTATE, self._pace.seconds, leaked=leaked, now=now))

    def revoke(self, lot: float) -> bool:
        key = self._key(lot)
        if key is None or key.line is None:
            return False
        line = self._world.lines[key.line]
        return self.give(line, Given(OrderKind.REVOKE, self._pace.seconds, key_id=key.id))

    def revoke_unmanaged(self, lot: float) -> bool:
        keys = [k for k in self._world.account.alive.values() if k.line is None and not k.by_product]
        key = keys[int(lot * 9973) % len(keys)]
        account, now = self._world.account, self._pace.seconds
        known = self._world.knows_itself or not (account.lag or account.frozen or now < self._world.weather.stale_until)
        if lot > 0.8 and known:
            key = self._world.management  # a mistake that must do no harm
        if self._is_wanted(key) or not self._world.watches(key.scope.account):
            return False
        return self.give(None, Given(OrderKind.REVOKE, self._pace.seconds, key_id=key.id, unmanaged=True))

    def pause(self, lot: float) -> bool:
        line = self._line(lot)
        if line is None or line.paused_since is not None or not self.set_paused(line, True):
            return False
        self._pace.after(self._lasts(lot, 3 * 24 * HOUR), lambda: self.resume(line))
        return True

    def resume(self, line: Line) -> None:
        if line.paused_since is not None and not self.set_paused(line, False):
            self._pace.after(HOUR, lambda: self.resume(line))

    def set_paused(self, line: Line, paused: bool) -> bool:
        world = self._world
        try:
            with world.from_outside():
                former = renames.wanted(
                    {other.desired.name: other.desired for other in world.lines if other.desired is not None},
                    renames.read(world.memory.meta(renames.META)),
                )
                name = line.desired.name if line.desired is not None else line.name
                changes = renames.changing(name, former, world.memory.records(), lambda r: transitions.pause(r, paused))
                world.memory.change_many(world.state_time(), changes)
                world.memory.set_meta("nudge", str(self._pace.seconds))
        except StateUnavailable:
            return False
        line.paused_since = self._pace.seconds if paused else None
        world.service.order_given()
        return True

    # People in Neon's console

    def revoke_by_hand(self, lot: float) -> bool:
        key = self._key(lot)
        if key is None or key is self._world.management:
            return False
        self._world.account.kill(key, "hand")
        self._world.judge.killed(key)
        return True

    def create_by_hand(self, lot: float) -> bool:
        self.strays += 1
        scope = self._lots.choice(plans.SCOPES)
        self._world.account.create(scope, f"by-hand-{self.strays}")
        return True

    def create_look_alike(self, lot: float) -> bool:
        line = self._line(lot)
        if line is None or line.policy is None:
            return False
        self.strays += 1
        name = f"{line.name}-20260101T000000Z-{self.strays:06}"
        self._world.account.create(line.policy.scope, name)
        return True

    def _is_wanted(self, key: Made) -> bool:
        return any(line.desired is not None and line.desired.adopt == key.id for line in self._world.lines)

    # Consumers and sinks

    def stick(self, lot: float) -> bool:
        return self._stick(lot, self._lasts(lot, 10 * 24 * HOUR))

    def stick_for_ever(self, lot: float) -> bool:
        return self._stick(lot, float("inf"))

    def _stick(self, lot: float, lasts: float) -> bool:
        consumers = [c for c in self.consumers if c.holds is not None and c.holds.alive]
        if not consumers:
            return False
        consumers[int(lot * 9973) % len(consumers)].stuck_until = self._pace.seconds + lasts
        return True

    def sink_down(self, lot: float) -> bool:
        place = self._place(lot)
        if place is None:
            return False
        place.down_until = self._pace.seconds + self._lasts(lot, 5 * 24 * HOUR)
        return True

    def sink_gone(self, lot: float) -> bool:
        place = self._place(lot, "webhook")
        if place is None:
            return False
        place.gone = True
        if lot < 0.7:
            self._pace.after(self._lasts(lot, 24 * HOUR), lambda: setattr(place, "gone", False))
        return True

    def lose_file(self, lot: float) -> bool:
        return self._touch(lot, scribbled=False)

    def overwrite_file(self, lot: float) -> bool:
        return self._touch(lot, scribbled=True)

    def _touch(self, lot: float, scribbled: bool) -> bool:
        place = self._place(lot, "file")
        if place is None or place is self._world.key_file:
            return False
        place.excused |= place.holds.keys()
        place.holds = dict.fromkeys(place.holds)
        place.scribbled, place.touched = scribbled, self._pace.seconds
        return True

    def hide_file(self, lot: float) -> bool:
        place = self._place(lot, "file")
        if place is None:
            return False
        place.unreadable_until = place.touched = self._pace.seconds + self._lasts(lot, 24 * HOUR)
        return True

    # Neon

    def neon_down(self, lot: float) -> bool:
        self._world.weather.down_until = self._pace.seconds + self._lasts(lot, 24 * HOUR)
        return True

    def neon_refuses(self, lot: float) -> bool:
        self._world.weather.refuses_until = self._pace.seconds + self._lasts(lot, 6 * HOUR)
        return True

    def usage_lags(self, lot: float) -> bool:
        account = self._world.account
        account.lag = self._lasts(lot, 8 * HOUR)
        self._pace.after(self._lasts(lot * 7 % 1, 48 * HOUR), lambda: setattr(account, "lag", 0.0))
        return True

    def usage_frozen(self, lot: float) -> bool:
        account = self._world.account
        account.frozen = self._pace.seconds
        self._pace.after(self._lasts(lot, 72 * HOUR), lambda: setattr(account, "frozen", None))
        return True

    def lists_partial(self, lot: float) -> bool:
        weather = self._world.weather
        weather.partial_until, weather.partial_lot = self._pace.seconds + self._lasts(lot, 6 * HOUR), lot
        return True

    def lists_empty(self, lot: float) -> bool:
        self._world.weather.empty_until = self._pace.seconds + self._lasts(lot, 6 * HOUR)
        return True

    def lists_stale(self, lot: float) -> bool:
        weather = self._world.weather
        weather.stale_since, weather.stale_until = self._pace.seconds, self._pace.seconds + self._lasts(lot, 3 * HOUR)
        return True

    # The configuration

    def _reload(self, line: Line, policy: Policy | None) -> bool:
        line.desired = policy
        self._world.service.reload()
        return True

    def add_sink(self, lot: float) -> bool:
        line = self._line(lot)
        if line is None or line.desired is None or len(line.desired.deliver_to) > 3:
            return False
        ref = self._world.new_sink(line, lot)
        if ref is None:
            return False
        if lot > 0.4:  # not everybody who is named is there yet
            self._world.place_of(ref).down_until = self._pace.seconds + self._lasts(lot, 5 * 24 * HOUR)
        refs = list(line.desired.deliver_to)
        refs.insert(int(lot * 99) % (len(refs) + 1), ref)
        return self._reload(line, replace(line.desired, deliver_to=tuple(refs)))

    def remove_sink(self, lot: float) -> bool:
        line = self._line(lot)
        if line is None or line.desired is None or len(line.desired.deliver_to) < 2:
            return False
        refs = list(line.desired.deliver_to)
        del refs[int(lot * 9973) % len(refs)]
        return self._reload(line, replace(line.desired, deliver_to=tuple(refs)))

    def move_sink(self, lot: float) -> bool:
        """A sink keeps its name and gets another target."""
        line = self._line(lot)
        if line is None or line.desired is None or line.desired.management_key:
            return False
        refs = list(line.desired.deliver_to)
        place = int(lot * 9973) % len(refs)
        refs[place] = self._world.moved_sink(line, refs[place].name)
        return self._reload(line, replace(line.desired, deliver_to=tuple(refs)))

    def change_scope(self, lot: float) -> bool:
        line = self._line(lot)
        if line is None or line.desired is None or line.desired.management_key:
            return False
        scope: Scope = plans.SCOPES[int(lot * 99) % len(plans.SCOPES)]
        return scope != line.desired.scope and self._reload(line, replace(line.desired, scope=scope))

    def change_cadence(self, lot: float) -> bool:
        line = self._line(lot)
        if line is None or line.desired is None:
            return False
        gap = self._world.tempo.gap
        hold = plans.a_hold(self._lots, gap)
        rotate, grace = Every(gap * (1 + int(lot * 3))), gap * (0.05 + 0.5 * lot)
        return self._reload(line, replace(line.desired, rotate=rotate, grace_period=grace, hold=hold))

    def remove_policy(self, lot: float) -> bool:
        """A policy goes, and comes back after some time as it was."""
        line = self._line(lot)
        if line is None or line.desired is None or len([x for x in self._world.lines if x.desired]) < 2:
            return False
        was = replace(line.desired, renamed_from=None)
        self._pace.after(self._lasts(lot, 10 * 24 * HOUR), lambda: self._bring_back(line, was))
        return self._reload(line, None)

    def _bring_back(self, line: Line, policy: Policy) -> None:
        if line.desired is None:
            self._reload(line, replace(policy, name=line.name))

    def rename_policy(self, lot: float) -> bool:
        line = self._line(lot)
        if line is None or line.desired is None or line.policy is None or line.desired.name != line.name:
            return False
        if line.policy.name != line.name:
            return False  # a name that was never loaded says nothing to the service
        self.strays += 1
        name = f"renamed-{self.strays}"
        return self._reload(line, replace(line.desired, name=name, renamed_from=line.name))

    def adopt_elsewhere(self, lot: float) -> bool:
        """A policy is taken out of the configuration, and another takes over its live key."""
        lines = [line for line in self._world.lines if line.desired is not None and not line.desired.management_key]
        if len(lines) < 2:
            return False
        old, new = lines[int(lot * 997) % len(lines)], lines[(int(lot * 997) + 1) % len(lines)]
        live = [key for key in old.made if key.alive and key.live_at is not None]
        if not live or new.desired is None:
            return False
        key = max(live, key=lambda key: key.order)
        old.desired = None
        return self._reload(new, replace(new.desired, adopt=key.id, scope=key.scope))

    def load_again(self, lot: float) -> bool:
        self._world.service.reload()
        return True


_HAPPENINGS: dict[str, Callable[[People, float], bool]] = {
    "die": People.die,
    "stay down": People.stay_down,
    "order rotate": People.rotate,
    "order leaked": lambda people, lot: people.rotate(lot, leaked=True),
    "order leaked now": lambda people, lot: people.rotate(lot, leaked=True, now=True),
    "order revoke": People.revoke,
    "order revoke unmanaged": People.revoke_unmanaged,
    "pause": People.pause,
    "revoke by hand": People.revoke_by_hand,
    "create by hand": People.create_by_hand,
    "create a look-alike": People.create_look_alike,
    "straggler": People.stick,
    "straggler for ever": People.stick_for_ever,
    "sink down": People.sink_down,
    "sink gone": People.sink_gone,
    "file lost": People.lose_file,
    "file overwritten": People.overwrite_file,
    "file unreadable": People.hide_file,
    "state down": People.state_down,
    "state read-only": People.state_read_only,
    "neon down": People.neon_down,
    "neon refuses": People.neon_refuses,
    "usage lags": People.usage_lags,
    "usage frozen": People.usage_frozen,
    "lists partial": People.lists_partial,
    "lists empty": People.lists_empty,
    "lists stale": People.lists_stale,
    "machine sleeps": People.sleep,
    "machine frozen": People.freeze,
    "local clock stepped": People.step_clock,
    "sink added": People.add_sink,
    "sink removed": People.remove_sink,
    "sink moved": People.move_sink,
    "scope changed": People.change_scope,
    "cadence changed": People.change_cadence,
    "policy removed": People.remove_policy,
    "policy renamed": People.rename_policy,
    "adopted elsewhere": People.adopt_elsewhere,
    "configuration loaded again": People.load_again,
}
