"""The limit of requests: never more than allowed in any minute, in order, and ending with the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rotator.errors import TryLater
from rotator.rate import RateLimit


class PushedTime(threading.Event):
    """A clock that is pushed on by waiting for it; also the event that stops the service."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now += timeout
        return self.is_set()


def a_limit(per_minute: int) -> tuple[RateLimit, PushedTime]:
    time_ = PushedTime()
    return RateLimit(per_minute, time_, time_), time_


def is_kept(turns: Sequence[float], per_minute: int) -> bool:
    """Whether every 60 seconds, their end not counted, see at most so many turns."""
    return all(later - earlier >= 60 for earlier, later in zip(turns, turns[per_minute:], strict=False))


@given(
    per_minute=st.integers(1, 700),
    story=st.lists(
        st.one_of(st.tuples(st.just("idle"), st.floats(0, 90)), st.tuples(st.just("pause"), st.floats(0, 90))),
        max_size=10,
    ),
)
@settings(deadline=None)
@example(per_minute=1, story=[])
@example(per_minute=600, story=[("idle", 59.99)])
@example(per_minute=9, story=[("pause", 30.0), ("idle", 10.0), ("pause", 30.0)])
def test_no_minute_sees_more_turns_than_allowed(per_minute: int, story: list[tuple[str, float]]) -> None:
    limit, time_ = a_limit(per_minute)
    turns = []
    for what, seconds in [*story, ("idle", 0.0)]:
        if what == "idle":
            time_.now += seconds
        else:
            limit.pause(seconds)
        for _ in range(2 * per_minute):
            limit.acquire()
            turns.append(time_.now)
    assert is_kept(turns, per_minute)


@pytest.mark.parametrize(("per_minute", "burst"), [(1, 1), (9, 1), (10, 1), (50, 5), (200, 20), (600, 20), (700, 20)])
def test_a_burst_goes_through_at_once_and_then_a_steady_flow(per_minute: int, burst: int) -> None:
    limit, time_ = a_limit(per_minute)
    start = time_.now
    for _ in range(burst):
        limit.acquire(patience=0)
    assert time_.now == start
    with pytest.raises(TryLater, match=r"neon\.requests_per_minute"):
        limit.acquire(patience=0)
    for _ in range(per_minute):
        limit.acquire()
    assert 58 <= time_.now - start <= 67


def test_a_long_idle_time_is_worth_one_burst_and_no_more() -> None:
    limit, time_ = a_limit(600)
    time_.now += 86_400
    for _ in range(20):
        limit.acquire(patience=0)
    with pytest.raises(TryLater):
        limit.acquire(patience=0.01)


def test_patience_refuses_at_once_says_how_long_and_takes_no_turn() -> None:
    limit, time_ = a_limit(2)
    limit.acquire()
    start = time_.now
    for _ in range(5):
        with pytest.raises(TryLater) as refusal:
            limit.acquire(patience=29)
        assert refusal.value.retry_after is not None
        assert refusal.value.retry_after.total_seconds() == pytest.approx(30, abs=0.01)
    assert time_.now == start
    limit.acquire(patience=30.001)
    assert time_.now == pytest.approx(start + 30, abs=0.01)


class TestPause:
    """What a 429 asks for holds everybody."""

    def test_nobody_gets_a_turn_before_it_is_over(self) -> None:
        limit, time_ = a_limit(600)
        start = time_.now
        limit.pause(7)
        limit.acquire()
        assert time_.now == start + 7

    def test_a_shorter_one_does_not_end_a_longer_one(self) -> None:
        limit, time_ = a_limit(600)
        start = time_.now
        limit.pause(7)
        limit.pause(1)
        limit.acquire()
        assert time_.now == start + 7

    def test_patience_counts_it(self) -> None:
        limit, _ = a_limit(600)
        limit.pause(7)
        with pytest.raises(TryLater, match="asked for a pause") as refusal:
            limit.acquire(patience=6)
        assert refusal.value.retry_after is not None
        assert refusal.value.retry_after.total_seconds() == pytest.approx(7)

    def test_a_turn_that_was_drawn_already_is_put_off(self) -> None:
        limit, time_ = a_limit(1)
        limit.acquire()
        start = time_.now
        waits: list[float] = []

        def wait(timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            if len(waits) == 1:  # meanwhile, in another thread
                limit.pause(100)
            return PushedTime.wait(time_, timeout)

        time_.wait = wait  # type: ignore[method-assign]
        limit.acquire()
        assert time_.now == pytest.approx(start + 160, abs=0.01)

    def test_a_pause_that_begins_meanwhile_can_exhaust_the_patience(self) -> None:
        limit, time_ = a_limit(1)
        limit.acquire()

        def wait(timeout: float | None = None) -> bool:
            limit.pause(100)
            return PushedTime.wait(time_, timeout)

        time_.wait = wait  # type: ignore[method-assign]
        with pytest.raises(TryLater):
            limit.acquire(patience=90)


def test_stopping_ends_a_wait() -> None:
    stop = threading.Event()
    limit = RateLimit(1, stop)
    limit.acquire()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(TryLater, match="the service is stopping"):
        limit.acquire()


def test_nothing_begins_while_the_service_stops() -> None:
    limit, time_ = a_limit(600)
    time_.set()
    with pytest.raises(TryLater, match="the service is stopping"):
        limit.acquire()


def test_threads_get_their_turns_in_the_order_in_which_they_asked() -> None:
    limit = RateLimit(1200, threading.Event())  # after the burst one in some 51 ms
    for _ in range(limit.burst):
        limit.acquire()
    served: list[int] = []

    def ask(number: int) -> None:
        limit.acquire()
        served.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert served == [0, 1, 2, 3, 4, 5]
