"""How far `last_used_at` lags behind, measured on our own calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from rotator.lag import Unseen, follow, lag_of

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
POLL = timedelta(minutes=5)


def at(polls: float) -> datetime:
    return NOW + polls * POLL


def after_polls(shown_at_poll: list[datetime | None]) -> tuple[Unseen, datetime]:
    """One call with our own key a poll: the list itself; `shown` is what the list says of it."""
    unseen = Unseen()
    for poll, shown in enumerate(shown_at_poll):
        unseen = follow(unseen, [at(n) for n in range(max(0, poll - 3), poll)], shown, at(poll))
    return unseen, at(len(shown_at_poll) - 1)


def test_a_list_that_shows_our_last_call_does_not_lag() -> None:
    unseen, asked = after_polls([None, at(0), at(1), at(2)])
    assert lag_of(unseen, asked) == timedelta(0)


def test_nor_does_one_that_shows_the_request_for_itself() -> None:
    unseen, asked = after_polls([at(0), at(1), at(2), at(3)])
    assert lag_of(unseen, asked) == timedelta(0)


def test_whole_seconds_are_no_lag() -> None:
    call = NOW + timedelta(milliseconds=900)
    unseen = follow(Unseen(), [call], NOW, NOW + POLL)
    assert lag_of(unseen, NOW + POLL) == timedelta(0)


def test_the_oldest_call_that_is_not_shown_says_how_far_a_list_lags() -> None:
    unseen, asked = after_polls([None, None, at(0), at(1), at(2)])
    assert lag_of(unseen, asked) == POLL


def test_a_field_that_is_frozen_lags_more_with_every_poll() -> None:
    lags = [lag_of(*after_polls([at(0)] * polls)) for polls in range(3, 200)]
    assert lags == [POLL * (polls - 2) for polls in range(3, 200)]


def test_a_field_that_was_frozen_and_moves_again_does_not_lag() -> None:
    unseen, _ = after_polls([at(0)] * 60)
    moved = follow(unseen, [at(59)], at(59), at(60))
    assert lag_of(moved, at(60)) == timedelta(0)


def test_a_key_that_was_never_used_as_far_as_the_list_says_lags_since_our_first_call() -> None:
    unseen, asked = after_polls([None] * 10)
    assert lag_of(unseen, asked) == 9 * POLL
