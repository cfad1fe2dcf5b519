"""The documented rate limits, on a clock of their own."""

from __future__ import annotations

from rotator.sandbox.limits import RateLimits


def admitted(limits: RateLimits, times: list[float], route: str = "r", creates: bool = False) -> int:
    return sum(limits.admit("account", route, at, creates_organization_key=creates) for at in times)


def test_a_route_takes_forty_a_second() -> None:
    limits = RateLimits()
    assert admitted(limits, [0.0] * 50) == 40
    assert admitted(limits, [0.9] * 5, "another route") == 5
    assert admitted(limits, [0.99] * 5) == 0
    assert admitted(limits, [1.0] * 50) == 40


def test_an_account_takes_seven_hundred_a_minute_over_all_routes() -> None:
    limits = RateLimits()
    times = [second + part / 30 for second in range(30) for part in range(30)]
    by_turns = [limits.admit("account", f"route {index % 2}", at) for index, at in enumerate(times)]
    assert sum(by_turns) == 700
    assert by_turns[:700] == [True] * 700
    assert limits.admit("another account", "route 0", times[-1])
    assert limits.admit("account", "route 0", 60.0)


def test_ten_organization_keys_a_second_are_made() -> None:
    limits = RateLimits()
    assert admitted(limits, [0.0] * 15, creates=True) == 10
    assert admitted(limits, [0.0] * 5) == 5


def test_what_was_refused_does_not_count() -> None:
    limits = RateLimits()
    assert admitted(limits, [0.0] * 40 + [0.5] * 1000) == 40
    assert admitted(limits, [1.0] * 40) == 40
