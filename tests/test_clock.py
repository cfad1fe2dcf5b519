"""Neon's clock: every answer's `Date`, and what may be concluded from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotator.clock import NeonClock, carried_on

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Machine:
    """A machine whose monotonic time and local clock are moved by hand, and Neon's true time beside it."""

    def __init__(self, local_ahead: float = 0) -> None:
        self.monotonic = 5000.0
        self.true = NOON
        self.local_ahead = timedelta(seconds=local_ahead)
        self.clock = NeonClock(lambda: self.monotonic, lambda: self.true + self.local_ahead)

    def passes(self, seconds: float) -> Machine:
        self.monotonic += seconds
        self.true += timedelta(seconds=seconds)
        return self

    def answers(self, ahead: float = 0, took: float = 0) -> Machine:
        """Neon answers at once, by a clock that is so far ahead; the answer takes its time."""
        date = (self.true + timedelta(seconds=ahead)).replace(microsecond=0)
        sent = self.monotonic
        self.passes(took)
        self.clock.heard(date, self.monotonic, sent)
        return self

    @property
    def behind(self) -> float:
        """How far the estimate is behind Neon's true time, in seconds."""
        return (self.true - self.clock.now()).total_seconds()


def heard(*ahead: float) -> Machine:
    """A machine that heard one answer on time, and then, a minute apart each, answers so far ahead."""
    machine = Machine().answers()
    for each in ahead:
        machine.passes(60).answers(each)
    return machine


def test_before_the_first_answer_it_is_the_local_clock() -> None:
    machine = Machine(local_ahead=7200)
    assert machine.clock.now() == NOON + timedelta(hours=2)
    assert machine.clock.skew() is None
    assert machine.clock.distrust == ""


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts sleep")
def test_a_machine_that_slept_is_as_much_later(monkeypatch: pytest.MonkeyPatch) -> None:
    since_boot = 5000.0
    monkeypatch.setattr(time, "clock_gettime", lambda clock: {time.CLOCK_BOOTTIME: since_boot}[clock])
    clock = NeonClock()
    clock.heard(NOON, clock.monotonic())

    since_boot += 3600

    assert clock.now() == NOON + timedelta(hours=1)
    assert clock.distrust == ""


@pytest.mark.parametrize("wrong", [-1e6, -3, 0, 400, 1e8])
def test_the_first_answer_changes_over_from_the_local_clock_without_distrust(wrong: float) -> None:
    machine = Machine(local_ahead=wrong).answers().passes(30)
    assert machine.clock.now() == NOON + timedelta(seconds=30)
    assert machine.clock.skew() == timedelta(seconds=wrong)
    assert machine.clock.distrust == ""


def test_a_local_clock_that_is_set_does_not_matter_after_the_first_answer() -> None:
    machine = Machine().answers()
    machine.local_ahead = timedelta(days=400)
    assert machine.behind == 0
    assert machine.clock.skew() == timedelta(days=400)


def test_the_estimate_grows_to_the_largest_lower_bound() -> None:
    machine = Machine().passes(0.9).answers()  # 12:00:00.9, cut to :00
    assert machine.behind == pytest.approx(0.9)
    machine.passes(0.2).answers()  # :01.1, cut to :01
    assert machine.behind == pytest.approx(0.1)
    machine.passes(0.8).answers()  # :01.9, cut to :01, which says less
    assert machine.behind == pytest.approx(0.1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 400), st.floats(0, 40)), max_size=30))
def test_with_answers_that_are_true_it_never_goes_back_and_is_never_ahead(story: list[tuple[float, float]]) -> None:
    machine, seen = Machine(), datetime.min.replace(tzinfo=UTC)
    for pause, took in story:
        machine.passes(pause).answers(took=took)
        now = machine.clock.now()
        assert now >= seen
        assert timedelta(microseconds=-50) <= machine.true - now <= timedelta(seconds=1.001 + took)
        assert machine.clock.distrust == ""
        seen = now


SITUATIONS: dict[str, tuple[Callable[[], Machine], float, bool]] = {
    # what happened: (how, how far now() is ahead of true time afterwards, whether it is distrusted)
    "an answer a second behind is nobody's fault": (lambda: heard(-1), 0, False),
    "nor is one two seconds behind": (lambda: heard(-2), 0, False),
    "a drift of 3 s back is followed as far as it demands": (lambda: heard(-3), -1, False),
    "a drift of 299 s back is followed likewise": (lambda: heard(-299), -297, False),
    "a drift of 3 s ahead is followed at once": (lambda: heard(3), 3, False),
    "a drift of 300 s ahead is followed at once": (lambda: heard(300), 300, False),
    "after a drift ahead, answers on time bring it back within tolerance": (lambda: heard(200, 0), 2, False),
    "a jump of 301 s ahead is not followed": (lambda: heard(301), 0, True),
    "a jump of 303 s back is not followed": (lambda: heard(-303), 0, True),
    "one more answer after a jump is not enough": (lambda: heard(9000, 9000), 0, True),
    "two more answers after a jump are enough": (lambda: heard(9000, 9000, 9000), 9000, False),
    "two more answers after a jump back are enough": (lambda: heard(-9000, -9000, -9000), -9000, False),
    "they agree if they are within two seconds": (lambda: heard(9000, 9002, 9001), 9002, False),
    "three seconds apart they do not agree": (lambda: heard(9000, 9003, 9006), 0, True),
    "two answers by the old time end the doubt": (lambda: heard(9000, 0, 0), 0, False),
    "one answer by the old time does not": (lambda: heard(9000, 0), 0, True),
    "agreeing answers must follow each other": (lambda: heard(9000, 9000, 0, 9000), 0, True),
    "then two in a row are needed again": (lambda: heard(9000, 9000, 0, 9000, 9000), 9000, False),
    "an answer that agrees with neither begins anew": (lambda: heard(9000, 9000, 500, 9000), 0, True),
    "what begins anew can win": (lambda: heard(9000, 500, 500, 500), 500, False),
    "answers that never agree are never trusted": (lambda: heard(*range(1000, 9000, 500)), 0, True),
    "a machine that slept for an hour distrusts first": (lambda: asleep(0), 0, True),
    "and trusts after two more answers": (lambda: asleep(2), 3600, False),
    "an answer delayed by ten minutes says nothing against the estimate": (
        lambda: Machine().answers().answers(took=600),
        0,
        False,
    ),
}


def asleep(answers: int) -> Machine:
    """The suspended machine's monotonic time stood still: for it, Neon is now an hour ahead."""
    machine = Machine().answers()
    for _ in range(1 + answers):
        machine.passes(5).answers(3600)
    return machine


@pytest.mark.parametrize("situation", SITUATIONS)
def test_situation(situation: str) -> None:
    story, ahead, distrusted = SITUATIONS[situation]
    machine = story()
    assert -machine.behind == pytest.approx(ahead)
    assert bool(machine.clock.distrust) is distrusted


def test_distrust_says_what_happened_and_what_follows() -> None:
    assert heard(9000).clock.distrust == (
        "Neon's clock jumped 9000 s ahead; nothing is revoked until two more answers agree"
    )
    assert "9000 s back" in heard(-9000).clock.distrust


class TestTheNewestRecordedTime:
    """The state remembers times; an answer from before them is doubtful."""

    @pytest.mark.parametrize("recorded", [-1e7, -1, 0, 2])
    def test_an_answer_after_it_is_trusted(self, recorded: float) -> None:
        machine = Machine()
        machine.clock.remembers(NOON + timedelta(seconds=recorded))
        assert machine.answers().clock.distrust == ""

    @pytest.mark.parametrize("late", [False, True], ids=["told before the first answer", "told after it"])
    def test_an_answer_from_before_it_is_distrusted_until_two_more_agree(self, late: bool) -> None:
        machine = Machine(local_ahead=50)
        newest = NOON + timedelta(seconds=30)
        if not late:
            machine.clock.remembers(newest)
        machine.answers()
        machine.clock.remembers(newest)
        assert machine.clock.distrust == (
            "Neon's clock says 2026-11-23T12:00:00Z, earlier than the newest time recorded, "
            "2026-11-23T12:00:30Z; nothing is revoked until two more answers agree"
        )
        assert machine.behind == 0  # it is Neon's time nevertheless: there is no other
        assert machine.passes(1).answers().clock.distrust
        assert not machine.passes(1).answers().clock.distrust
        assert machine.behind == 0

    def test_it_is_said_even_if_meanwhile_that_time_has_come(self) -> None:
        machine = Machine()
        machine.clock.remembers(NOON + timedelta(seconds=30))
        assert machine.answers().passes(3600).clock.distrust

    def test_an_answer_that_disagrees_with_the_first_one_starts_the_doubt_anew(self) -> None:
        machine = Machine()
        machine.clock.remembers(NOON)
        machine.answers(-86400).passes(1).answers()
        assert "jumped 86400 s ahead" in machine.clock.distrust
        machine.passes(1).answers().passes(1).answers()
        assert machine.clock.distrust == ""
        assert machine.behind == 0


def test_of_a_machine_that_was_frozen_it_is_known_what_was_dated_too_early() -> None:
    machine = Machine().answers().passes(60).answers()
    agreed = machine.clock.now()
    machine.passes(10)
    machine.true += timedelta(hours=1)
    for _ in range(3):
        assert machine.clock.misdated == ()
        told = machine.passes(5).clock.now()
        machine.answers()
    (found,) = machine.clock.misdated
    assert (found.since, found.until) == (agreed, told)
    assert abs(found.at - machine.true) <= timedelta(seconds=1)


def test_of_one_that_was_frozen_for_less_than_a_jump_too() -> None:
    machine = Machine().answers().passes(60).answers()
    agreed = machine.clock.now()
    machine.passes(10)
    machine.true += timedelta(minutes=4)
    told = machine.clock.now()
    machine.answers()
    (found,) = machine.clock.misdated
    assert (found.since, found.until) == (agreed, told)
    assert abs(found.at - machine.true) <= timedelta(seconds=1)


def test_with_answers_that_agree_nothing_was_dated_too_early() -> None:
    assert heard(0, 1, 0, -1).clock.misdated == ()


def test_after_a_jump_back_nothing_was_dated_too_early() -> None:
    machine = heard(-3600, -3600, -3600)
    assert machine.clock.distrust == ""
    assert machine.clock.misdated == ()


def test_another_process_carries_on_neons_time() -> None:
    assert carried_on(NOON, 5000.0, 5000.0 + 3600) == NOON + timedelta(hours=1)
    assert carried_on(NOON, 5000.0, 12.0) == NOON, "the machine was started again"
