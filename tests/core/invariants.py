"""What must hold of a world at every step: I1 to I4 and I6 of the design."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builders import NAME, a_foreign

from rotator.model import Condemned, Generation, Keys
from rotator.standing import unfinished

from .rules import against_revoking_by_rule, against_touching

if TYPE_CHECKING:
    from .fold import World

TO_ADOPT = a_foreign(3, "made-by-hand")
FOREIGN = (a_foreign(1), a_foreign(2, f"{NAME}-20200101T000000Z-aaaaaa"))


def check_closing(world: World, keys: Keys) -> None:
    """Before an intent is closed."""
    intent = world.record.intent
    assert intent is not None
    listing = keys.lists.get(intent.scope.account)
    told = listing is not None and listing.requested_at > (intent.ended_at or intent.at)
    assert told, "an intent is closed without a list asked for after the POST"


def check_revocation(world: World, old: Generation, keys: Keys) -> None:
    """Before a key is revoked."""
    policy = world.acting_policy()
    assert not policy.paused, "it is paused"
    assert not world.record.paused, "it is paused"
    wrong = against_touching(keys, old, world.now)
    by_order = old.condemned is Condemned.NOW or (
        old.condemned is Condemned.AT_LIVE
        and any(g.live_since for g in world.record.generations if g.number > old.number)
    )
    nobody_has_it = old.orphan is not None and not old.offers
    if not by_order and not nobody_has_it:
        wrong += against_revoking_by_rule(policy, world.record, keys, old, world.now)
    listed = {key_id for listing in keys.lists.values() for key_id in listing.keys}
    wrong += world.truth.against_revoking(policy, old, listed, world.now)
    assert wrong == [], f"I1: {old.key_id} is revoked, but it does not hold that {', '.join(wrong)}"


def check_invariants(world: World) -> None:
    """After every step."""
    for key in FOREIGN:
        assert world.alive(key.id), "I4: a key that no policy owns was revoked"
    assert TO_ADOPT.id in world.made or world.alive(TO_ADOPT.id), "I4: a key was revoked that was not adopted"
    for sink in world.policy.deliver_to:
        held = world.sinks.get(sink.target)
        if held is not None and sink.target not in world.broken:
            assert world.alive(held), f"I2: sink {sink.name} holds {held}, which was revoked"
    known = {g.key_id for g in world.record.generations}
    names = {closed.name for closed in world.record.closed}
    if world.record.intent is not None:
        names.add(world.record.intent.name)
    for keys in world.neon.values():
        for key in keys.values():
            assert key.id not in world.made or key.id in known or key.name in names, f"I3: {key} is forgotten"
    in_flight = [g for g in unfinished(world.record) if g.key_id in world.in_hand]
    assert len(in_flight) + (world.record.intent is not None) <= 1, "I6: two rotations at once"
