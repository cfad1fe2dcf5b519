"""Whatever goes wrong, and whenever the process dies: in the end one live key, everywhere, and nothing left over."""

from __future__ import annotations

import pytest
from builders import APP, CI, DAY, VAULT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .fold import World, a_world
from .invariants import TO_ADOPT

LONGEST = 25 * DAY


def tell(world: World, turns: int) -> None:
    for _ in range(turns):
        world.turn()
        world.pause()
    world.run_until_quiet(LONGEST)


def run(troubles: list[int], turns: int, world: World | None = None) -> None:
    world = world or a_world(troubles)
    try:
        tell(world, turns)
    except AssertionError as error:
        error.add_note("\n".join(world.story[-60:]))
        raise


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(troubles=st.lists(st.integers(0, 22), max_size=60), turns=st.integers(1, 25))
def test_every_story_ends_well(troubles: list[int], turns: int) -> None:
    run(troubles, turns)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    troubles=st.lists(st.sampled_from([0, 0, 0, 1, 3, 4, 5, 6, 7, 8]), max_size=80),
    sinks=st.permutations([APP, CI, VAULT]),
    turns=st.integers(5, 40),
)
def test_every_story_with_three_sinks_ends_well(troubles: list[int], sinks: list[object], turns: int) -> None:
    run(troubles, turns, a_world(troubles, *sinks))  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(troubles=st.lists(st.integers(0, 22), max_size=60), turns=st.integers(1, 25))
def test_every_story_of_an_adopted_key_ends_well(troubles: list[int], turns: int) -> None:
    run(troubles, turns, a_world(troubles, adopt=TO_ADOPT.id))


@pytest.mark.parametrize("first", range(9))
@pytest.mark.parametrize("second", range(8))
def test_any_two_troubles_one_after_the_other(first: int, second: int) -> None:
    run([first, 0, 0, second, 0, first, second], 6)
