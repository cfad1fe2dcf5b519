"""Months of life in a short run; and troubles in any order, which Hypothesis shrinks."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from . import people
from .run import TOLD, Tally, live_through
from .seeded_faults import FAULTS, ROOT, Fault
from .troubles import HAPPENINGS, KINDS, Trouble, Troubles, drawn
from .truth import Violation
from .world import World

STEPS, MOST_WORLDS = 12_000, 40


def test_months_of_trouble_violate_nothing() -> None:
    tally, seed = Tally(), 0
    while tally.steps < STEPS and tally.worlds < MOST_WORLDS:
        seed += 1
        live_through(seed, tally)
        assert not tally.violations, tally.violations[0]
    assert tally.created > 300
    assert tally.deaths > 50
    assert tally.calls > 5_000
    assert tally.failed_healthy == 0
    assert len(tally.troubles) > 40, "most kinds of trouble came up"


stories = st.lists(
    st.builds(
        Trouble,
        gap=st.integers(1, 60),
        kind=st.sampled_from(KINDS),
        lot=st.integers(0, 99).map(lambda percent: percent / 100),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 50), troubles=stories)
def test_no_story_violates_anything(seed: int, troubles: list[Trouble]) -> None:
    world = World(seed, Troubles(troubles), polls=150)
    try:
        world.run()
    except Violation:
        note("\n".join(list(world.story)[-TOLD:]))
        raise


def test_a_world_without_trouble_rotates_and_no_call_fails() -> None:
    world = World(2, Troubles([]), polls=300)
    world.run()
    made = [key for key in world.account.keys.values() if key.by_product]
    assert len(made) > 5
    assert world.judge.consumer_calls > 100
    assert world.judge.failed_calls == 0
    assert {key.death for key in made if not key.alive} == {"revoked"}


def test_a_seed_repeats_its_world() -> None:
    def told() -> list[str]:
        world = World(5, Troubles(drawn(random.Random("troubles 5"))), polls=100)
        world.run()
        return list(world.story)

    assert told() == told()


def test_every_kind_of_trouble_is_made_by_somebody() -> None:
    assert set(people._HAPPENINGS) == set(HAPPENINGS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_every_seeded_fault_still_applies(fault: Fault, tmp_path: Path) -> None:
    product = tmp_path / "rotator"
    shutil.copytree(ROOT / "rotator", product, ignore=shutil.ignore_patterns("__pycache__", "sandbox", "demo"))
    fault.apply(product)
    for name in {fault.file, *(also[0] for also in fault.also)}:
        compile((product / name).read_text(encoding="utf-8"), name, "exec")
