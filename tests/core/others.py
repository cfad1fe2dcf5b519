"""What others do to a world between two turns: operators, people, the configuration, the time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builders import APP, DAY, HOUR, NAME, ORG, PERSONAL, VAULT

from rotator import transitions
from rotator.model import Order, OrderKind, SinkRef

if TYPE_CHECKING:
    from .fold import World


def possible(world: World) -> list[str]:
    if world.left_alone:
        return ["dies"]
    what = ["dies", "rotate", "rotate --leaked", "rotate --leaked --now"]
    if world.record.generations:
        what += ["revoke", "revoked by hand", "used"]
    if APP.target in world.sinks:
        what.append("the file is lost")
    what += ["a day passes", "7 hours pass", "retried", "pause or resume"]
    what += ["a sink comes or goes", "the first sink comes or goes", "another scope", "the policy comes or goes"]
    what += ["sinks down or up", "neon down or up"]
    if world.late:
        what.append("the late key")
    return what


def happen(world: World, what: str) -> None:
    if what == "dies":
        world.die()
    elif what.startswith("rotate"):
        world.order(Order(0, OrderKind.ROTATE, world.now, NAME, leaked="leaked" in what, now="now" in what))
    elif what == "revoke":
        world.order(Order(0, OrderKind.REVOKE, world.now, NAME, key_id=world.pick().key_id))
    elif what == "revoked by hand":
        victim = world.pick()
        if world.neon[victim.scope.account].pop(victim.key_id, None):
            world.dies_by_others(victim.key_id)
    elif what == "used":
        victim = world.pick()
        if world.use(victim.key_id):
            world.truth.used[victim.key_id] = world.now
    elif what == "the file is lost":
        world.sinks.pop(APP.target, None)
    elif what in ("a day passes", "7 hours pass"):
        world.now += DAY if what == "a day passes" else 7 * HOUR
    elif what == "retried":
        world.record = transitions.retry_now(world.record)
    elif what == "pause or resume":
        world.record = replace(world.record, paused=not world.record.paused)
    elif what == "a sink comes or goes":
        toggle(world, VAULT)
    elif what == "the first sink comes or goes":
        toggle(world, APP)
    elif what == "another scope":
        world.policy = replace(world.policy, scope=ORG if world.policy.scope == PERSONAL else PERSONAL)
    elif what == "the policy comes or goes":
        world.configured = not world.configured
    elif what.endswith("down or up"):
        world.down ^= {what.split()[0]}
    elif what == "the late key":
        account, key = world.late.pop()
        world.neon[account][key.id] = key


def toggle(world: World, sink: SinkRef) -> None:
    left = tuple(s for s in world.policy.deliver_to if s != sink)
    if not left:
        return
    sinks = left if sink in world.policy.deliver_to else (*left, sink)
    world.policy = replace(world.policy, deliver_to=sinks)
    held = world.sinks.get(sink.target)
    if held is not None and not world.alive(held):
        world.broken.add(sink.target)
