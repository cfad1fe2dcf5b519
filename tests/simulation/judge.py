"""The invariants of the design, held against what really happened.

The judge sees every effect when it reaches Neon or a sink, every change of the state when it is committed, and
every call of a consumer. It decides from the world's own truth and the configuration alone whether that was
allowed, and takes nothing from the product's records but the fact that something was written down (I3, I7).
What belongs together stands apart: which DELETE is allowed (`revocations.py`), when something may be tried again
(`pauses.py`), how far the product's times may be off (`tolerance.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rotator.model import PERSONAL, Cron, Event, OrderKind, Record, Scope

from .account import Made
from .pauses import Pauses
from .places import Place
from .revocations import Revocations
from .tolerance import CLOCK, Tolerance
from .truth import Given, Line, Surroundings, Violation

_A_MINUTE = 60.0
_LONGEST_LOST = 21600.0
_OUTCOMES = {
    "key.revoking": ("api_key.revoked", "key.gone", "revocation.failed", "order.lapsed"),
    "sink.offered": ("sink.receipted", "rotation.failed", "key.orphaned", "key.gone", "api_key.revoked"),
}


@dataclass
class _Post:
    """The last POST for a line: `ended` is what the product was told of it, empty while it is under way."""

    name: str
    account: str
    at: float
    ended: str = ""


class Judge:
    """Raises Violation."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._pace = world.account.pace
        self.tolerance = Tolerance(world)
        self.pauses = Pauses(world, self.tolerance)
        self._revocations = Revocations(world, self.tolerance)
        self.write_failed = False
        self.failed_calls = 0
        self.failed_healthy = 0
        self.consumer_calls = 0
        self.orders: list[Given] = []
        self._ids: dict[str, set[int]] = {}
        self._names: dict[str, set[str]] = {}
        self._open_intents: dict[str, str] = {}
        self._by_order: dict[str, bool] = {}
        self._by_process: dict[tuple[int, int], int] = {}
        self._told: dict[tuple[str, int | str], int] = {}
        self._done: dict[tuple[str, int | str], int] = {}
        self._last_create: dict[int, _Post] = {}

    # What effects have in common

    def _fail(self, invariant: str, what: str) -> None:
        raise Violation(invariant, what)

    def _effect(self, told: str, about: int | str, what: str) -> None:
        """Something is about to happen outside: it must stand in the history, and the state must have been written."""
        if self.write_failed:
            self._fail("I8", f"{what} although the state could not be written just before")
        count = self._done[told, about] = self._done.get((told, about), 0) + 1
        if self._told.get((told, about), 0) < count:
            self._fail("I7", f"{what} without an entry {told} before it")

    def restarted(self) -> None:
        """Another process begins."""
        self.pauses.restarted()
        self.write_failed = False

    # Creating

    def creating(self, scope: Scope, name: str) -> int:
        """A POST reaches Neon. The number of the line that it is for."""
        line = self._acting(f"{name} is created")
        now = self._pace.seconds
        self._effect("key.intended", name, f"{name} is created")
        if self._open_intents.get(line.name) != name:
            self._fail("I7", f"{name} is created, but is not the intent that the record has")
        self._paused(line, f"{name} is created")
        before = self._last_create.get(line.number)
        if before is not None and before.ended == "unknown":
            asked = self._world.account.asked.get(before.account, 0.0)
            slack = self.tolerance.slack(before.at)
            if asked < before.at - (slack if slack > CLOCK else 0.0):
                self._fail("I6", f"{name} is created before a list told what became of {before.name}")
        for key in line.made:
            given_up = key.orphaned or ("key.revoking", key.id) in self._told
            underway = key.alive and key.held_by == self._world.process and key.live_at is None and not given_up
            if underway and key.by_product:
                self._fail("I6", f"{name} is created while {key.name} is on its way to the sinks")
        if not self._by_order.pop(name, False):  # an order does not wait
            self.pauses.attempt(("create", line.number, ""), f"{name} is created")
            self._losses(line, name)
            self._due(line, name)
        line.begun = True
        self._last_create[line.number] = _Post(name, scope.account, now)
        return line.number

    def _due(self, line: Line, name: str) -> None:
        """A policy that is well, and was left alone since its key went live, gets no other before its time."""
        policy = line.policy
        live = max((key for key in line.made if key.live_at is not None), key=lambda key: key.order, default=None)
        if line.begun or policy is None or live is None or not live.alive or isinstance(policy.rotate, Cron):
            return
        since = live.live_at or 0.0
        disturbed = line.changed_at >= since or any(
            (key.died or 0.0) >= since and key.death != "revoked" for key in line.made
        )
        disturbed = disturbed or any(p.touched >= since or line.number in p.excused for p in line.places.values())
        disturbed = disturbed or live.scope != policy.scope
        if disturbed or live.adopted_at is not None or live.lacked or (line.orders and line.orders[-1].at >= since):
            return
        age = self._pace.seconds - live.created
        if age < policy.rotate.interval.total_seconds() - self.tolerance.slack(since) and not self.tolerance.doubted(
            since
        ):
            self._fail("due", f"{name} is created, but {live.name} is only {age:.0f} s old and all is well")

    def _losses(self, line: Line, name: str) -> None:
        lost_at = max(line.lost.values(), default=0.0)
        if len(line.lost) > 1:
            least = min(60.0 * 2.0 ** min(len(line.lost) - 2, 20), _LONGEST_LOST)
            if self._pace.seconds - lost_at < least - self.tolerance.slack(lost_at) and not self.tolerance.doubted(
                lost_at
            ):
                self._fail("I9", f"{name} is created {self._pace.seconds - lost_at:.0f} s after loss {len(line.lost)}")

    def create_ended(self, how: str, asked: timedelta | None) -> None:
        """What the product was told of its POST: `made`, `unknown` or `refused`."""
        line = self._world.acting
        if line is None or line.number not in self._last_create:
            return
        post = self._last_create[line.number]
        post.at, post.ended = self._pace.seconds, how
        if how == "refused":
            self.pauses.failed(("create", line.number, ""), asked)
        else:
            self.pauses.succeeded(("create", line.number, ""))

    def died(self) -> None:
        """The process ended; what became of a call under way it will never be told."""
        self.pauses.died()
        for post in self._last_create.values():
            if not post.ended:
                post.ended = "unknown"

    def created(self, key: Made) -> None:
        """A key is there that a POST of the product asked for, perhaps long ago."""
        self._known(key)

    # Handing off

    def delivering(self, place: Place, key: Made, number: int) -> None:
        """A sink is about to be sent a secret."""
        what = f"{place.name} is handed {key.name}"
        line = self._world.lines[number]
        self._effect("sink.offered", key.id, what)
        if key.line != number:
            self._fail("I1", f"{what}, which is not a key of policy {line.name}")
        if place.name not in line.places:
            self._fail("I2", f"{what}, but the policy {line.name} does not deliver there")
        if key.held_by != self._world.process:
            self._fail("I3", f"{what} by a process that never had it")
        failed_at = self.pauses.failed_at(("deliver", key.id, place.name))
        if failed_at is not None and failed_at > line.mended_at:
            self.pauses.attempt(("deliver", key.id, place.name), what)

    def arrived(self, place: Place, key: Made, number: int) -> None:
        """A place holds this key from now on."""
        place.excused.discard(number)
        if not key.alive:
            if key.death == "revoked":
                self._fail("I2", f"{place.name} is handed {key.name}, which was revoked before")
            place.excused.add(number)

    def receipted(self, place: Place, key: Made, number: int) -> None:
        """The product is about to hear that a place has the key."""
        key.receipted[place.name] = self._pace.seconds
        self.pauses.succeeded(("deliver", key.id, place.name))

    # Revoking

    def revoking(self, key: Made | None, account: str, key_id: int) -> None:
        """A DELETE reaches Neon."""
        world, line = self._world, self._world.acting
        what = f"key {key_id} is revoked"
        self._effect("key.revoking", key_id, what)
        if line is not None:
            self.pauses.attempt(("revoke", key_id, ""), what)
        if key is None:
            key = world.account.keys.get(key_id)
            if key is None:
                self._fail("I4", f"{what}, which never was there")
                return
        what = f"{key.name} (id {key.id}) is revoked"
        if key is world.management:
            self._fail("I1", f"{what}: the management key")
        if line is None:
            orders = sum(o.kind is OrderKind.REVOKE and o.key_id == key_id and o.unmanaged for o in self.orders)
            tries = self._by_process[world.process, key_id] = self._by_process.get((world.process, key_id), 0) + 1
            if not orders:
                self._fail("I4", f"{what}, which no policy owns, and no order named it")
            if tries > orders:  # a person who orders it again need not wait, but an order is carried out once
                self._fail("I9", f"{what}: for the {tries}. time in a process, by {orders} orders")
            if key.alive:
                key.death = "ordered"
            return
        if key.line != line.number:
            self._fail("I4", f"{what} by policy {line.name}, which does not own it")
        self._paused(line, what)
        if not key.alive:
            return
        self._revocations.listed(key, what)
        if self._revocations.ordered(line, key):
            key.death = "ordered"
            return
        key.death = "revoked"
        if not key.offered and key.live_at is None:
            if key.held_by == world.process and not key.orphaned:
                self._fail("I1", f"{what} on its way to the sinks")
            return
        if line.policy is None:
            self._fail("I1", f"{what} although its policy is not configured any more")
            return
        self._revocations.superseded(line, line.policy, key, what)

    def killed(self, key: Made) -> None:
        """A key stopped working; whoever should hold a key that works must not hold this one."""
        line = self._world.lines[key.line] if key.line is not None else None
        if line is not None and line.policy is not None:
            key.grace_at_death = line.policy.grace_period.total_seconds()
            served = (p for p in line.places.values() if line.number not in p.excused)
            key.served_at_death = frozenset((p.name, line.number) for p in served)
        for line in self._world.lines:
            if line.policy is None:
                continue
            for place in line.places.values():
                if place.holds.get(line.number) is not key or line.number in place.excused:
                    continue
                if key.death == "revoked" and key.line == line.number:
                    self._fail("I2", f"{key.name} was revoked, and {place.name} still holds it")
                place.excused.add(line.number)

    def revoke_ended(self, key_id: int, confirmed: bool, asked: timedelta | None) -> None:
        """What the product was told of its DELETE."""
        if confirmed:
            self.pauses.succeeded(("revoke", key_id, ""))
        else:
            self.pauses.failed(("revoke", key_id, ""), asked)

    def _paused(self, line: Line, what: str) -> None:
        if line.paused_since is not None and self._pace.seconds - line.paused_since > _A_MINUTE:
            self._fail("I1", f"{what} although the policy {line.name} is paused")

    def _acting(self, what: str) -> Line:
        line = self._world.acting
        if line is None:
            raise Violation("I6", f"{what} outside the turn of any policy")
        return line

    # What is written down

    def wrote(self, records: Mapping[str, Record], events: Sequence[Event]) -> None:
        """A transaction was committed: these records are what they are now, and these entries were made."""
        self.write_failed = False
        for event in events:
            if "napi_" in event.why:
                self._fail("I5", f"a secret in the event {event.name}: {event.why}")
            self._entry(event)
        for policy, record in records.items():
            self._ids[policy] = {generation.key_id for generation in record.generations}
            self._ids[policy] |= {closed.key_id for closed in record.closed if closed.key_id is not None}
            names = {closed.name for closed in record.closed}
            self._open_intents.pop(policy, None)
            if record.intent is not None:
                names.add(record.intent.name)
                self._open_intents[policy] = record.intent.name
            self._names[policy] = names
        for line in self._world.lines:
            if line.name in records:
                for key in line.made:
                    shown = self._world.provider.shown.get(key.scope.account)
                    # Not before: a process that died has not remembered that it saw the key again. Nor does it look
                    # at the list when it only notes an order or loads the configuration.
                    if line is self._world.acting and shown is not None and key.id in shown.keys:
                        key.lacked = 0
                    if key.alive and key.by_product:
                        self._known(key)

    def renamed(self, old: str) -> None:
        self._ids.pop(old, None)
        self._names.pop(old, None)
        self._open_intents.pop(old, None)

    def _entry(self, event: Event) -> None:
        about: int | str | None = event.key_name if event.name == "key.intended" else event.key_id
        if about is not None:
            self._told[event.name, about] = self._told.get((event.name, about), 0) + 1
        line = next((line for line in self._world.lines if line.name == event.policy), None)
        if event.name in ("rotation.failed", "revocation.failed", "order.lapsed"):
            self.pauses.recorded(event, line.number if line else None)
        if line is None:
            return
        if event.name == "key.intended":  # it ends the orders that there are; one that is given now asks for another
            orders = [order for order in line.orders if order.kind is OrderKind.ROTATE and not order.used]
            self._by_order[event.key_name or ""] = bool(orders)
            for order in orders:
                order.used = True
        if event.name in ("key.orphaned", "intent.closed"):
            self.tolerance.written_by_which_clock()
        now, key = self._pace.seconds, self._world.account.keys.get(event.key_id or 0)
        if event.name == "rotation.live" and key is not None:
            without = [name for name in line.places if name not in key.receipted]
            if without:
                self._fail("I1", f"{key.name} is taken for live, but {without} never confirmed it")
            key.live_at = now
            line.begun = False
            line.lost.clear()
        elif event.name == "key.adopted" and key is not None:
            key.live_at = key.adopted_at = now
            key.order, key.line = key.id - 10**9, line.number
            if key not in line.made:
                line.made.append(key)
        elif event.name == "key.orphaned" and key is not None:
            self._orphaned(line, key, event)
            if "turned up" in event.why:
                self.pauses.succeeded(("revoke", key.id, ""))  # the record begins with it anew
            else:
                line.lost[key.name] = now
        elif event.name == "intent.closed":
            line.lost[event.key_name or ""] = now
        elif event.name == "order.taken":
            line.mended_at = now
        elif event.name in ("api_key.missing", "key.gone") and key is not None and key.alive:
            key.orphaned = key.orphaned or event.name == "key.gone"
            self._missed(key, event)

    def _orphaned(self, line: Line, key: Made, event: Event) -> None:
        given_up = line.removed_at >= key.created  # taken out of the configuration, perhaps for a moment
        if "the process that held the secret" in event.why and key.held_by == self._world.process and not given_up:
            self._fail("I8", f"the secret of {key.name} was dropped by the process that still runs")
        key.orphaned = True

    def _missed(self, key: Made, event: Event) -> None:
        """A key that works is taken for gone: Neon's lists must have lacked it often enough to be believed."""
        shown = self._world.provider.shown.get(key.scope.account)
        if self.tolerance.slack(key.created) > CLOCK:  # an older list may seem to be asked for later
            return
        if shown is not None and not shown.keys and (key.scope.account == PERSONAL or key.lacked < 3):
            self._fail("I3", f"{event.name}: {key.name}, by {key.lacked} lists of which the last is empty")
        if key.lacked < 2:
            self._fail("I3", f"{event.name}: {key.name}, by {key.lacked} lists")

    def _known(self, key: Made) -> None:
        if any(key.id in ids for ids in self._ids.values()) or any(key.name in names for names in self._names.values()):
            return
        self._fail("I3", f"{key.name} (id {key.id}) is forgotten: no record knows it")

    # Consumers

    def called(self, worked: bool, key: Made, number: int, place: Place, read_at: float) -> None:
        """A consumer called Neon with the key that it read from its place at `read_at`."""
        self.consumer_calls += 1
        if worked or key.died is None:
            return
        self.failed_calls += 1
        late = read_at < key.died - key.grace_at_death + self.tolerance.slack(key.died)
        if key.death != "revoked" or (place.name, number) not in key.served_at_death or late:
            return
        self.failed_healthy += 1
        self._fail("I2", f"a consumer of {place.name} was refused with {key.name}, which was revoked")

    # The end

    def outcomes(self) -> None:
        """Every effect has its outcome in the history. The keys of a policy that was taken out are left alone."""
        left = {key.id for line in self._world.lines if line.policy is None for key in line.made if key.alive}
        for (name, about), count in self._done.items():
            ends = _OUTCOMES.get(name, ())
            if ends and about not in left and not any((end, about) in self._told for end in ends):
                self._fail("I7", f"key {about}: {count} times {name}, and the history has no outcome")
