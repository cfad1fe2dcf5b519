"""When a rotation is due and when a window is open, also where the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from builders import DAY, HOUR, NOW, a_policy
from hypothesis import given
from hypothesis import strategies as st

from rotator.model import Cron, Every, Window
from rotator.schedule import due_at, share, window_is_open, window_opens

BERLIN = "Europe/Berlin"
ALL_DAYS = frozenset(range(7))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_jitter_is_a_fixed_share_by_the_policy_s_name() -> None:
    assert share("ci-pipeline") == share("ci-pipeline") == pytest.approx(0.4388386800611279)
    assert share("ci-pipeline") != share("ci-pipeline2")


@given(st.text(max_size=40))
def test_jitter_only_ever_makes_it_later_and_never_by_all_of_it(name: str) -> None:
    assert 0 <= share(name) < 1


def test_every_counts_from_the_creation_and_adds_the_share_of_the_jitter() -> None:
    assert due_at(a_policy(rotate=Every(30 * DAY)), NOW) == NOW + 30 * DAY
    assert due_at(a_policy(rotate=Every(30 * DAY), jitter=HOUR), NOW) == NOW + 30 * DAY + HOUR * share("ci")


@pytest.mark.parametrize(
    ("expression", "timezone", "created", "due"),
    [
        pytest.param("0 3 * * 1", "UTC", "2026-11-23T02:59:59", "2026-11-23T03:00:00", id="the first after it"),
        pytest.param("0 3 * * 1", "UTC", "2026-11-23T03:00:00", "2026-11-30T03:00:00", id="not the very same"),
        pytest.param("0 3 * * 1", BERLIN, "2026-11-23T12:00:00", "2026-11-30T02:00:00", id="in winter time"),
        pytest.param("0 3 * * 1", BERLIN, "2026-07-21T12:00:00", "2026-07-27T01:00:00", id="in summer time"),
        pytest.param(
            "30 2 * * *", BERLIN, "2026-03-28T12:00:00", "2026-03-29T01:00:00", id="once where the hour is skipped"
        ),
        pytest.param(
            "30 2 * * *", BERLIN, "2026-10-24T12:00:00", "2026-10-25T00:30:00", id="at the first where it comes twice"
        ),
        pytest.param(
            "30 2 * * *", BERLIN, "2026-10-25T00:30:01", "2026-10-26T01:30:00", id="not at the second where it does"
        ),
        pytest.param("0 0 29 2 *", "UTC", "2026-01-01T00:00:00", "2028-02-29T00:00:00", id="years ahead"),
    ],
)
def test_cron(expression: str, timezone: str, created: str, due: str) -> None:
    policy = a_policy(rotate=Cron(expression, timezone), jitter=DAY)
    found = due_at(policy, at(created))
    assert found == at(due)
    assert found.tzinfo is UTC


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)))
def test_cron_is_always_later(created: datetime) -> None:
    assert due_at(a_policy(rotate=Cron("*/7 1-3 * * *", BERLIN)), created) > created


OFFICE = Window(frozenset({0, 1, 2, 3}), time(9), time(16), "UTC")
NIGHT = Window(frozenset({0, 4}), time(22), time(2), "UTC")
ROUND = Window(frozenset({0}), time(9), time(9), "UTC")


@pytest.mark.parametrize(
    ("window", "now", "is_open"),
    [
        pytest.param(None, "2026-11-23T00:00:00", True, id="no window is always open"),
        pytest.param(OFFICE, "2026-11-23T09:00:00", True, id="it opens on the minute"),
        pytest.param(OFFICE, "2026-11-23T08:59:59", False, id="not before"),
        pytest.param(OFFICE, "2026-11-23T15:59:59", True, id="it is open until its end"),
        pytest.param(OFFICE, "2026-11-23T16:00:00", False, id="and closed at it"),
        pytest.param(OFFICE, "2026-11-27T10:00:00", False, id="it is closed on other days"),
        pytest.param(NIGHT, "2026-11-23T23:00:00", True, id="over midnight: before it"),
        pytest.param(NIGHT, "2026-11-24T01:59:59", True, id="over midnight: after it, though that is another day"),
        pytest.param(NIGHT, "2026-11-23T01:00:00", False, id="over midnight: not on the day's own early hours"),
        pytest.param(NIGHT, "2026-11-24T02:00:00", False, id="over midnight: closed at its end"),
        pytest.param(ROUND, "2026-11-24T08:59:59", True, id="from an hour to the same hour is a day"),
        pytest.param(ROUND, "2026-11-24T09:00:00", False, id="and no more"),
        pytest.param(
            Window(ALL_DAYS, time(9), time(16), "America/New_York"),
            "2026-11-23T14:30:00",
            True,
            id="in the window's own time zone",
        ),
        pytest.param(
            Window(frozenset({0}), time(23), time(23, 30), "America/New_York"),
            "2026-11-24T04:15:00",
            True,
            id="the day is that of the time zone",
        ),
        pytest.param(
            Window(frozenset({6}), time(23, 50), time(23, 45), "America/New_York"),
            "2026-11-24T04:30:00",
            True,
            id="over midnight, and the day after is another one in UTC",
        ),
    ],
)
def test_window(window: Window | None, now: str, is_open: bool) -> None:
    assert window_is_open(window, at(now)) is is_open


@pytest.mark.parametrize(
    ("window", "now", "opens"),
    [
        pytest.param(OFFICE, "2026-11-23T08:00:00", "2026-11-23T09:00:00", id="later today"),
        pytest.param(OFFICE, "2026-11-23T16:00:00", "2026-11-24T09:00:00", id="tomorrow"),
        pytest.param(OFFICE, "2026-11-26T16:00:00", "2026-11-30T09:00:00", id="after the weekend"),
        pytest.param(NIGHT, "2026-11-24T02:00:00", "2026-11-27T22:00:00", id="over midnight"),
        pytest.param(
            Window(frozenset({0}), time(9), time(10), "UTC"),
            "2026-11-23T10:00:00",
            "2026-11-30T09:00:00",
            id="in a week",
        ),
        pytest.param(
            Window(ALL_DAYS, time(9), time(10), BERLIN),
            "2026-10-25T00:00:00",
            "2026-10-25T08:00:00",
            id="after summer time",
        ),
        pytest.param(
            Window(frozenset({6}), time(2, 30), time(3), BERLIN),
            "2026-03-22T02:00:00",
            "2026-04-05T00:30:00",
            id="in two weeks, where summer time skips the one in between",
        ),
        pytest.param(
            Window(frozenset({6}), time(2), time(3), BERLIN),
            "2026-03-22T03:00:00",
            "2026-04-05T00:00:00",
            id="also where it skips exactly that",
        ),
    ],
)
def test_when_a_window_opens(window: Window, now: str, opens: str) -> None:
    assert not window_is_open(window, at(now))
    assert window_opens(window, at(now)) == at(opens)
    assert window_is_open(window, at(opens))


@given(
    st.builds(
        Window,
        st.frozensets(st.integers(0, 6), min_size=1),
        st.times(),
        st.times(),
        st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]),
    ),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),
)
def test_a_closed_window_opens_in_the_future_and_is_open_then(window: Window, now: datetime) -> None:
    if not window_is_open(window, now):
        opens = window_opens(window, now)
        assert now < opens <= now + timedelta(days=15)
        assert window_is_open(window, opens)
        assert not window_is_open(window, opens - timedelta(microseconds=1))
        assert opens.astimezone(ZoneInfo(window.timezone)).weekday() in window.days
