"""The gaps between fire times, against `cronsim` itself; days and windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from rotator import cadence


def walked(expression: str, timezone: str) -> list[timedelta]:
    """Every gap in the days that are looked at, found by walking through all fire times."""
    zone = ZoneInfo(timezone)
    start = datetime(2028, 1, 1, tzinfo=zone)
    times = []
    for fires in CronSim(expression, start - timedelta(seconds=1)):
        if fires > start + timedelta(days=400):
            break
        times.append(fires.astimezone(UTC))
    return [later - earlier for earlier, later in pairwise(times)]


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Antarctica/Troll"]
EXPRESSIONS = [
    "0 3 * * *",
    "30 2 * * *",
    "0 3 * * 1",
    "0 3 1 * *",
    "0 0,23 * * *",
    "0 9 * * 1-5",
    "0 3 13 * 5",
    "0 0,2,4 * * *",
    "30 1,2,3 * * *",
    "0 * * * *",
    "*/20 * * * *",
    "0 */2 * * *",
    "0 */6 1,15 * *",
    "0 */24 * * *",
    "*/30 2 * * *",
    "59 23 L * *",
    "0 0 1 * *",
    "0 3 29 2 *",
    "15 1-4 * 3 sun",
]


@pytest.mark.parametrize("timezone", ZONES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_shortest_gap_is_that_of_a_walk_through_a_year(expression: str, timezone: str) -> None:
    gaps = walked(expression, timezone)
    found = cadence.shortest_gap(expression, timezone, down_to=timedelta(days=400))
    assert found == min(gaps, default=timedelta(days=400))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_longest_gap_is_that_of_a_walk_through_a_year(expression: str) -> None:
    assert cadence.longest_gap(expression) == max(walked(expression, "UTC"), default=timedelta(days=400))


def _field(values: st.SearchStrategy[int]) -> st.SearchStrategy[str]:
    several = st.lists(values, min_size=1, max_size=3).map(lambda found: ",".join(map(str, found)))
    return st.one_of(st.sampled_from(["*", "*/7", "*/24"]), several)


_EXPRESSIONS = st.tuples(
    st.lists(st.integers(0, 59), min_size=1, max_size=2).map(lambda found: ",".join(map(str, found))),
    _field(st.integers(0, 23)),
    _field(st.integers(1, 28)),
    _field(st.integers(1, 12)),
    _field(st.integers(0, 7)),
).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(_EXPRESSIONS, st.sampled_from(ZONES), st.integers(0, 400))
def test_a_grace_period_is_judged_as_a_walk_through_a_year_judges_it(
    expression: str, timezone: str, hours: int
) -> None:
    grace = timedelta(hours=hours)
    shortest = min(walked(expression, timezone), default=timedelta(days=400))
    assert (cadence.shortest_gap(expression, timezone, down_to=grace) <= grace) == (shortest <= grace)


@settings(deadline=None)
@given(st.text(alphabet="0123456789*,-/#LW @amonju", max_size=30))
def test_any_text_is_an_expression_or_not(text: str) -> None:
    wrong = cadence.check_cron(text)
    if wrong is None:
        assert next(CronSim(text, datetime(2028, 1, 1, tzinfo=UTC)))
    else:
        assert ";" in wrong


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("mon", {0}),
        ("tue-fri", {1, 2, 3, 4}),
        ("fri-mon", {4, 5, 6, 0}),
        ("mon,wed", {0, 2}),
        ("mon, wed-thu, sun", {0, 2, 3, 6}),
        ("sun-sat", set(range(7))),
        ("wed-wed", {2}),
        ("mon,mon", {0}),
    ],
)
def test_days(text: str, days: set[int]) -> None:
    assert cadence.parse_days(text) == days


@pytest.mark.parametrize("text", ["", "Monday", "Mon", "mon,", "mon-", "-mon", "mon-tue-wed", "1", "mon;tue"])
def test_what_is_no_day_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected days such as mon"):
        cadence.parse_days(text)


@pytest.mark.parametrize(
    ("days", "start", "end", "closed"),
    [
        ("mon-sun", 9, 17, timedelta(hours=16)),
        ("mon-fri", 9, 17, timedelta(hours=16)),
        ("mon,thu", 9, 17, timedelta(days=3, hours=-8)),
        ("sun", 9, 10, timedelta(days=7, hours=-1)),
        ("sat-sun", 22, 6, timedelta(hours=16)),
        ("mon-sun", 22, 6, timedelta(hours=16)),
    ],
)
def test_how_long_a_window_stays_closed_at_least(days: str, start: int, end: int, closed: timedelta) -> None:
    found = cadence.shortest_closed(cadence.parse_days(days), timedelta(hours=start), timedelta(hours=end))
    assert found == closed
