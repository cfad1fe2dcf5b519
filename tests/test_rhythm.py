"""What samples of use say of a key's rhythm and of who has moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rotator.rhythm import Movers, Sample, mover_words, movers, rhythm, rhythm_words

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
A, B, C = "203.0.113.7", "2001:db8::1", "198.51.100.4"


def used(*days_ago: float, by: tuple[str, ...] = ()) -> list[Sample]:
    return [Sample(1, NOW - timedelta(days=days), by) for days in days_ago]


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        pytest.param([], "", id="nothing is said of a key that was never seen in use"),
        pytest.param(used(3), "", id="nor of one use, which has no gap"),
        pytest.param(used(10, 3), "used about every 7d (1 gap was seen); silent for 3d", id="two uses have one gap"),
        pytest.param(used(10, 3, 3), "used about every 7d (1 gap was seen); silent for 3d", id="a sample twice is one"),
        pytest.param(used(3, 24, 17, 10), "used about every 7d (3 gaps were seen); silent for 3d", id="in any order"),
        pytest.param(used(40, 3, 2, 1, 0), "used about every 1d (4 gaps were seen); silent for 0s", id="one outlier"),
    ],
)
def test_the_usual_gap_is_the_median_of_those_seen(samples: list[Sample], words: str) -> None:
    assert rhythm_words(samples, NOW) == words


def test_a_rhythm_says_how_many_observations_stand_behind_it() -> None:
    found = rhythm(used(21, 14, 7))
    assert found is not None
    assert (found.usual_gap, found.gaps, found.last_used_at) == (timedelta(days=7), 2, NOW - timedelta(days=7))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param([], [], Movers((), ()), id="nobody"),
        pytest.param(used(2, by=(A,)), [], Movers((), (A,)), id="one who stays"),
        pytest.param(used(2, by=(A,)), used(1, by=(A,)), Movers((A,), ()), id="one who moved"),
        pytest.param(used(1, by=(A,)), used(2, by=(A,)), Movers((), (A,)), id="one who went back, or uses both"),
        pytest.param(used(2, by=(A,)) + used(3, by=(B,)), used(1, by=(B, C)), Movers((B,), (A,)), id="some did"),
        pytest.param(used(2, by=(A, C)), used(1, by=(C,)), Movers((), (A,)), id="a proxy is not the client"),
        pytest.param([], used(1, by=(B,)), Movers((), ()), id="a user of the new key alone is not of interest"),
    ],
)
def test_an_address_has_moved_if_its_newest_use_is_of_the_new_key(
    old: list[Sample], new: list[Sample], expected: Movers
) -> None:
    assert movers(old, new) == expected


def test_movers_in_words() -> None:
    old = used(2, by=(A,)) + used(2, by=(C,)) + used(2, by=(B,))
    assert mover_words(old, used(1, by=(B,))) == (
        f"{B} has moved to the new key; {C} and {A} have not been seen with the new key yet"
    )
    assert mover_words([], []) == ""
