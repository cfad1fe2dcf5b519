"""The management key rotates itself: whatever dies, the service is never locked out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from world import Death, World

from rotator.model import OrderKind

POLICY = """
state: sqlite:///state.db
sinks:
  own: {{type: file, path: key}}
policies:
  admin:
    management_key: true
    adopt: {key}
    rotate: {{every: 30d}}
    grace_period: 24h
    deliver_to: [own]
"""
DAY = 86400.0
BOUNDARIES = 32


class Managing(World):
    """The policy adopts the key that the service was started with."""

    def load(self):  # type: ignore[no-untyped-def]  # as in World
        self.text = POLICY.format(key=self.neon.management_key_id)
        return super().load()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    small = Managing(tmp_path, "")
    yield small
    small.close()


def key_in_file(world: World) -> str:
    return (world.folder / "key").read_text().strip()


def test_the_new_key_is_taken_up_and_revokes_the_old_one(world: World) -> None:
    world.settle()
    world.push(days=30)
    world.settle()
    assert len(world.neon.keys()) == 2

    world.live_through(26 * 3600, step=3600)

    (key,) = world.neon.keys()
    assert key.name.startswith("admin-")
    assert key_in_file(world) == world.neon.secret_of(key.id)
    assert world.provider.management_key.reveal() == key_in_file(world)
    assert world.provider.whoami().auth_method == "api_key_user"


def test_five_rotations_in_a_row_leave_one_key_that_works(world: World) -> None:
    for _ in range(5):
        world.live_through(32 * DAY, step=DAY / 2)
        (key,) = world.neon.keys()
        assert key_in_file(world) == world.neon.secret_of(key.id)
    assert world.status("admin")["live"]["generation"] == 5


@pytest.mark.fault(
    "Keys",
    "A policy is to rotate the management key, and its id is not known",
    "Nothing is made; it is told what to set.",
)
def test_the_first_run_explains_how_to_set_it_up(tmp_path: Path, person_sees: Callable[[str], None]) -> None:
    world = World(tmp_path, POLICY.format(key=0).replace("    adopt: 0\n", ""))
    try:
        world.settle()
        assert [key.id for key in world.neon.keys()] == [world.neon.management_key_id]
        status = world.status("admin")
        assert status["state"] == "refused"
        assert f"set adopt: {world.neon.management_key_id} and neon.api_key_id" in status["next"]["why"]
        person_sees(status["next"]["why"])
    finally:
        world.close()


@pytest.mark.fault(
    "Keys",
    "Neon does not answer whether it accepts the new management key",
    "The key in use stays in its file until Neon has accepted its successor.",
)
def test_a_successor_that_neon_has_not_accepted_is_not_put_in_its_place(
    world: World, person_sees: Callable[[str], None]
) -> None:
    world.settle()
    world.push(days=30)
    before = key_in_file(world)
    world.neon.fault("error_before", on="auth", times=2)

    world.settle()
    assert key_in_file(world) == before
    assert "has not accepted it yet" in world.status("admin")["next"]["why"]

    world.live_through(120, step=20)
    assert key_in_file(world) != before
    assert world.works(key_in_file(world))
    person_sees(next(event.why for event in world.told("policy.waiting") if "accepted" in event.why))


@pytest.mark.fault(
    "Keys",
    "The key that the service uses is to be revoked by order",
    "It is not touched before its successor is in use.",
)
def test_the_key_in_use_is_not_revoked_even_by_order(world: World, person_sees: Callable[[str], None]) -> None:
    world.settle()
    world.order(OrderKind.REVOKE, "admin", key_id=world.neon.management_key_id)

    world.live_through(2 * 3600, step=600)

    assert [key.id for key in world.neon.keys()] == [world.neon.management_key_id]
    person_sees(
        world.status("admin")["older"][0]["held"]["why"]
        if world.status("admin")["older"]
        else world.status("admin")["next"]["why"]
    )


def test_a_rotation_has_as_many_boundaries_as_are_tried(world: World) -> None:
    world.settle()
    world.push(days=29.5)
    before = len(world.boundaries.passed)

    world.live_through(2.5 * DAY, step=DAY / 2)

    assert len(world.boundaries.passed) - before == BOUNDARIES


@pytest.mark.parametrize("deadly", range(BOUNDARIES))
def test_dying_at_any_boundary_locks_nobody_out(world: World, deadly: int) -> None:
    world.settle()
    world.push(days=29.5)
    world.boundaries.watch = lambda name: _key_in_file_works(world, name)
    world.boundaries.deadly = len(world.boundaries.passed) + deadly
    with pytest.raises(Death):
        world.live_through(2.5 * DAY, step=DAY / 2)
    world.restart()
    world.live_through(3600, step=600)
    world.live_through(3 * DAY, step=DAY / 4)

    (key,) = world.neon.keys()
    assert key_in_file(world) == world.neon.secret_of(key.id)
    assert world.status("admin")["state"] == "ok"


def _key_in_file_works(world: World, name: str) -> None:
    assert world.works(key_in_file(world)), f"the service would be locked out {name}"
