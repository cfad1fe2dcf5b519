"""I1: which DELETE is allowed. The rules of the design, asked of what really is."""

from __future__ import annotations

from datetime import timedelta

from rotator.model import OrderKind, Policy, Then
from rotator.schedule import window_is_open

from .account import Made
from .pace import START
from .tolerance import CLOCK, Tolerance
from .truth import Line, Surroundings, Violation

_LIST_AGE = 30.0
_AN_HOUR = 3600.0


class Revocations:
    """Raises Violation."""

    def __init__(self, world: Surroundings, tolerance: Tolerance) -> None:
        self._world = world
        self._pace = world.account.pace
        self._tolerance = tolerance

    def listed(self, key: Made, what: str) -> None:
        """The newest list is fresh, and has the key."""
        shown = self._world.provider.shown.get(key.scope.account)
        if shown is None or key.id not in shown.keys:
            raise Violation("I1", f"{what}, but is not in the newest list")
        age = self._pace.since_boot() - shown.since_boot  # a machine that is frozen cannot know it
        if self._world.slept_at < self._world.decided_at() and age > _LIST_AGE + self._tolerance.slack(shown.asked):
            raise Violation("I1", f"{what} by a list that is {age:.0f} s old")
        if shown.keys[key.id].name != key.name:
            raise Violation("I1", f"{what}, but is listed under another name")

    def ordered(self, line: Line, key: Made) -> bool:
        """Whether an operator ordered this revocation."""
        for order in line.orders:
            if order.kind is OrderKind.REVOKE and order.key_id == key.id:
                return True
            if order.leaked and key.created <= order.at + _AN_HOUR and (order.now or line.later(key)):
                return True
        return False

    def superseded(self, line: Line, policy: Policy, key: Made, what: str) -> None:
        """The rules of the design for a key that somebody may hold."""
        now = self._pace.seconds
        doubted = False
        later = line.later(key)
        if not later:
            raise Violation("I1", f"{what}, but no later key is live")
        successor = max(later, key=lambda other: other.order)
        self._successor(line, policy, successor, what)
        if key.live_at is not None:
            first = min(later, key=lambda other: other.live_at or 0.0)
            # The time of going live is taken before it is written down; the machine may sleep between the two.
            receipted = max(first.receipted.values(), default=float("inf"))
            since = max(min(first.live_at or 0.0, receipted), key.adopted_at or 0.0)
            # A process that comes after one whose machine was frozen during the hand-off cannot know it.
            frozen = any(first.created <= at <= since for at in self._world.frozen)
            doubted = frozen and first.held_by != self._world.process
            # What was forgotten and came back counts from the receipts, which may be by a clock that was in doubt.
            doubted = doubted or (key.orphaned and self._tolerance.doubted(since))
        else:
            since = self._superseded_everywhere(line, key, what)
            doubted = self._tolerance.doubted(since)  # a receipt may be by a clock that was in doubt
        grace, slack = policy.grace_period.total_seconds(), self._tolerance.slack(since)
        if now - since < grace - slack and not doubted:
            raise Violation("I1", f"{what} {now - since:.0f} s after it was replaced; its grace is {grace:.0f} s")
        moments = [START + timedelta(seconds=now + off) for off in (-slack, 0.0, slack)]
        # A machine that was frozen between the decision and the call knows of it with Neon's next answer.
        if not any(window_is_open(policy.window, moment) for moment in moments) and not self._tolerance.doubted(now):
            raise Violation("I1", f"{what} outside the rotation window")
        overridden = policy.hold.then is Then.REVOKE and (
            doubted or now - since >= grace + policy.hold.at_most.total_seconds() - slack
        )
        if not overridden:
            self._unused(policy, key, successor, what)

    def _successor(self, line: Line, policy: Policy, successor: Made, what: str) -> None:
        shown = self._world.provider.shown.get(successor.scope.account)
        if shown is None or successor.id not in shown.keys:
            raise Violation("I1", f"{what}, but the live key {successor.name} is not in the newest list")
        if successor.refused:
            raise Violation("I1", f"{what}, but Neon refused the live key {successor.name}")
        for place in line.places.values():
            if place.name not in successor.receipted and successor.adopted_at is None:
                raise Violation("I1", f"{what}, but {place.name} has no receipt of {successor.name}")
            held = place.holds.get(line.number)  # one that is on its way to the sinks is as good
            holds = held is not None and held.order >= successor.order and not place.scribbled
            later = place.touched >= self._world.decided_at()
            if place.reads_back and successor.adopted_at is None and not holds and not later:
                raise Violation("I1", f"{what}, but {place.name} does not hold {successor.name}")

    def _superseded_everywhere(self, line: Line, key: Made, what: str) -> float:
        """Since when every place that was offered the key has a later one."""
        latest = 0.0
        for place in key.offered:
            times = [k.receipted[place] for k in line.made if k.order > key.order and place in k.receipted]
            if not times:
                raise Violation("I1", f"{what}, but {place} was offered it and has no later key")
            latest = max(latest, min(times, default=0.0))
        return latest

    def _unused(self, policy: Policy, key: Made, successor: Made, what: str) -> None:
        hold, shown = policy.hold, key.shown
        quiet = hold.while_old_key_used_within
        if quiet is None:
            quiet = min(timedelta(hours=1), policy.grace_period, hold.at_most)
        ours = shown is not None and any(abs(shown - at) <= 2 for at in key.checked)
        if shown is not None and not ours:
            listed = self._world.provider.shown[key.scope.account]  # what it does not show yet cannot be known
            ago = listed.asked - shown
            if ago < quiet.total_seconds() - self._tolerance.slack():
                raise Violation("I1", f"{what} by a list of {ago:.0f} s after a use; {quiet} of silence asked for")
        # A machine that was frozen between the creation and our check takes its own use for somebody else's.
        until = max(successor.checked, default=0.0)
        frozen = any(successor.created <= at <= until + CLOCK for at in self._world.frozen)
        if hold.until_new_key_used and successor.shown is None and not frozen:
            raise Violation("I1", f"{what}, but nobody has used {successor.name} yet")
