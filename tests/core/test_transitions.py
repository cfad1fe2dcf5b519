"""How a record changes, and what the history says: each transition, and what a death after it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import (
    APP,
    CI,
    DAY,
    HOUR,
    MINUTE,
    NAME,
    NOW,
    ORG,
    PERSONAL,
    SECOND,
    VAULT,
    a_closed_name,
    a_failure,
    a_foreign,
    a_generation,
    a_live,
    a_policy,
    a_record,
    a_retiring,
    a_revoke_order,
    a_rotation,
    an_adopted,
    an_intent,
    an_order,
    an_orphan,
    asked,
    held,
    named,
)
from hypothesis import given
from hypothesis import strategies as st

from rotator import transitions
from rotator.errors import NeedsPerson, SinkGone, TryLater
from rotator.model import (
    Check,
    ClosedName,
    Condemned,
    Failure,
    Generation,
    Hindrance,
    Intent,
    Offer,
    Orphan,
    Record,
    Revocation,
    Rotation,
)
from rotator.standing import find, live
from rotator.transitions import Change, SinkFailure, pause_after

WHY = "because"


def told(change: Change) -> tuple[str, str, int | None, int | None, str | None, bool]:
    """The one event of a change."""
    (event,) = change.events
    assert event.policy == NAME
    return event.name, event.why, event.generation, event.key_id, event.key_name, event.notify


# Creating


def intended(record: Record, *, urgent: bool = False) -> Change:
    return transitions.intend(record, a_policy(scope=ORG), named(7), WHY, urgent, NOW)


def test_an_intent_is_remembered_with_a_number_that_is_not_used_again() -> None:
    change = intended(a_record(a_live(6)))
    assert change.record == a_record(
        a_live(6),
        next_generation=8,
        intent=Intent(named(7), 7, ORG, NOW),
        rotation=Rotation(NOW, WHY),
    )
    assert told(change) == ("key.intended", WHY, 7, None, named(7), False)
    assert change.closed_orders == ()


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("now", [False, True])
def test_a_rotation_that_goes_on_keeps_its_beginning_and_stays_urgent(before: bool, now: bool) -> None:
    begun = a_rotation(urgent=before, ordered=before)
    change = intended(a_record(a_live(6), rotation=begun), urgent=now)
    assert change.record.rotation == replace(begun, urgent=before or now)


def test_an_intent_ends_the_orders_to_rotate_and_no_others() -> None:
    orders = (an_order(1), an_order(2), a_revoke_order(106, 3))
    change = intended(a_record(a_live(6), orders=orders, gone={CI.target: CI.settings}))
    assert change.closed_orders == (1, 2)
    assert change.record.rotation == Rotation(NOW, WHY, ordered=True)
    assert change.record.gone == {}, "a rotate order comes: the sink is tried again"
    assert change.record.generations[0].condemned is None


def test_without_an_order_a_sink_that_is_gone_stays_gone() -> None:
    assert intended(a_record(a_live(6), gone={CI.target: "x"})).record.gone == {CI.target: "x"}


def test_an_order_that_says_leaked_condemns_every_key_at_the_last_receipt() -> None:
    known = (a_retiring(4, condemned=Condemned.NOW), an_orphan(5, CI), a_live(6))
    change = intended(a_record(*known, orders=(an_order(1), an_order(2, leaked=True))))
    condemned = [g.condemned for g in change.record.generations]
    assert condemned == [Condemned.NOW, Condemned.AT_LIVE, Condemned.AT_LIVE]


def test_names_are_remembered_for_thirty_days() -> None:
    young, old = a_closed_name(1, closed_at=NOW - 30 * DAY + SECOND), a_closed_name(2, closed_at=NOW - 30 * DAY)
    assert intended(a_record(closed=(young, old))).record.closed == (young,)


def test_a_created_key_is_recorded_without_its_secret() -> None:
    record = a_record(a_live(6), intent=an_intent(7, scope=ORG), failure=a_failure(), next_generation=8)
    key = a_foreign(107, "whatever Neon says", created_at=NOW - SECOND)
    change = transitions.created(record, key, "sha256:7", NOW)
    made = Generation(
        number=7,
        key_id=107,
        name=named(7),
        scope=ORG,
        created_at=NOW - SECOND,
        recorded_at=NOW,
        fingerprint="sha256:7",
    )
    assert change.record == a_record(a_live(6), made)
    assert told(change) == ("key.created", f"Neon created {named(7)}", 7, 107, named(7), False)


def test_a_failed_creation_is_counted_and_told_once() -> None:
    first = transitions.not_created(a_record(a_live(6)), WHY, 0.0, None, NOW)
    assert first.record.failure == Failure(1, NOW, NOW, WHY, NOW + SECOND)
    assert first.record.failure_notified_at == NOW
    assert told(first) == ("rotation.failed", WHY, None, None, None, True)
    record = replace(first.record, intent=an_intent(7))
    later = NOW + MINUTE
    second = transitions.not_created(record, "again", 0.0, None, later)
    assert second.record.failure == Failure(2, NOW, later, "again", later + 2 * SECOND)
    assert second.record.failure_notified_at == NOW
    assert second.record.intent is None
    assert told(second) == ("rotation.failed", "again", 7, None, named(7), False)


def test_a_failure_notes_the_order_that_it_could_not_carry_out() -> None:
    record = a_record(a_live(6), orders=(an_order(2), an_order(3), a_revoke_order(106, 4)))
    failed = transitions.not_created(record, WHY, 0.0, None, NOW).record.failure
    assert failed is not None
    assert failed.order == 3


def test_a_failure_that_lasts_is_told_daily() -> None:
    record = a_record(failure=a_failure(), failure_notified_at=NOW - DAY)
    assert told(transitions.not_created(record, WHY, 0.0, None, NOW))[-1]
    assert not told(transitions.not_created(record, WHY, 0.0, None, NOW - SECOND))[-1]


@pytest.mark.parametrize(
    ("asked_for", "pause"),
    [
        pytest.param(None, SECOND, id="nothing was asked for: our own pause"),
        pytest.param(10 * SECOND, 10 * SECOND, id="Retry-After counts if it is longer"),
        pytest.param(timedelta(0), SECOND, id="and not if it is shorter"),
        pytest.param(2 * HOUR, HOUR, id="up to an hour"),
    ],
)
def test_how_long_a_failure_pauses(asked_for: timedelta | None, pause: timedelta) -> None:
    failure = transitions.not_created(a_record(), WHY, 0.0, asked_for, NOW).record.failure
    assert failure is not None
    assert failure.retry_at == NOW + pause


@pytest.mark.parametrize(
    ("failures", "shortest", "longest"),
    [(1, 1, 2), (2, 2, 4), (3, 4, 8), (9, 256, 512), (10, 450, 900), (21, 450, 900), (5000, 450, 900)],
)
def test_pauses_grow_from_seconds_to_a_quarter_of_an_hour(failures: int, shortest: int, longest: int) -> None:
    assert pause_after(failures, 0.0) == timedelta(seconds=shortest)
    assert pause_after(failures, 1.0) == timedelta(seconds=longest)


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_half_of_a_pause_is_drawn(failures: int, lot: float) -> None:
    assert pause_after(failures, 0.0) <= pause_after(failures, lot) <= 2 * pause_after(failures, 0.0)


def test_an_answer_that_was_lost_leaves_the_intent_open() -> None:
    record = a_record(a_live(6), intent=an_intent(7))
    change = transitions.outcome_unknown(record, WHY, NOW)
    assert change.record == replace(record, intent=an_intent(7, ended_at=NOW), failure_notified_at=NOW)
    assert told(change) == ("rotation.failed", WHY, 7, None, named(7), True)
    again = transitions.outcome_unknown(replace(change.record, intent=an_intent(8)), WHY, NOW + HOUR)
    assert again.record.failure_notified_at == NOW
    assert not again.events[0].notify


def test_an_intent_without_a_key_is_closed_and_its_name_remembered() -> None:
    record = a_record(a_live(6), intent=an_intent(7, scope=ORG), closed=(a_closed_name(5),), next_generation=8)
    change = transitions.close_intent(record, None, WHY, NOW)
    closed = ClosedName(named(7), ORG, NOW - MINUTE, NOW, 7)
    assert change.record == replace(record, intent=None, lost=1, closed=(a_closed_name(5), closed))
    assert told(change) == ("intent.closed", WHY, 7, None, named(7), False)


def test_answers_that_were_lost_one_after_the_other_are_made_up_for_under_a_back_off() -> None:
    record = a_record(intent=an_intent(7), lost=1, lost_retry_at=NOW)
    assert transitions.close_intent(record, None, WHY, NOW).record.lost_retry_at == NOW + MINUTE
    stale = a_record(intent=an_intent(7), lost_retry_at=NOW + HOUR)
    assert transitions.close_intent(stale, None, WHY, NOW).record.lost_retry_at is None


def test_an_intent_with_a_key_becomes_an_orphan_that_nobody_has() -> None:
    record = a_record(a_live(6), intent=an_intent(7, scope=ORG), next_generation=8)
    change = transitions.close_intent(record, a_foreign(107, named(7), created_at=NOW - SECOND), WHY, NOW)
    orphan = Generation(
        number=7,
        key_id=107,
        name=named(7),
        scope=ORG,
        created_at=NOW - SECOND,
        recorded_at=NOW,
        orphan=Orphan(NOW, WHY),
    )
    assert change.record == a_record(a_live(6), orphan, lost=1)
    assert told(change) == ("key.orphaned", WHY, 7, 107, named(7), False)


def test_a_key_that_turns_up_under_a_closed_name_is_an_orphan_that_nobody_has() -> None:
    other, closed = a_closed_name(4), a_closed_name(5, scope=ORG)
    change = transitions.recover(a_record(a_live(6), closed=(other, closed)), a_foreign(105, named(5)), WHY, NOW)
    orphan = change.record.generations[-1]
    assert (orphan.number, orphan.key_id, orphan.scope, orphan.orphan) == (5, 105, ORG, Orphan(NOW, WHY))
    assert (orphan.offers, orphan.superseded) == ({}, {})
    assert change.record.closed == (other,)
    assert told(change) == ("key.orphaned", WHY, 5, 105, named(5), False)


def test_a_key_that_comes_back_may_be_at_the_sinks_that_were_offered_it() -> None:
    closed = a_closed_name(5, offered=(APP.target, CI.target, VAULT.target))
    since = NOW - HOUR
    known = (
        a_live(4, VAULT),
        a_live(6, CI, created_at=since),
        a_live(7, CI, created_at=NOW),
        a_live(8, APP, created_at=NOW),
    )
    change = transitions.recover(a_record(*known, closed=(closed,)), a_foreign(105, named(5)), WHY, NOW)
    orphan = change.record.generations[-1]
    assert orphan.offers == dict.fromkeys([APP.target, CI.target, VAULT.target], Offer(NOW - DAY))
    assert orphan.superseded == {CI.target: since, APP.target: NOW}, "they have a later key since its first receipt"


def test_an_adopted_key_is_live_from_the_start() -> None:
    key = a_foreign(50, created_at=NOW - DAY, last_used_at=NOW - HOUR, last_used_from=("203.0.113.7",))
    change = transitions.adopt(a_record(), a_policy(CI, APP, scope=ORG), key, WHY, NOW)
    adopted = Generation(
        number=0,
        key_id=50,
        name="by-hand",
        scope=ORG,
        created_at=NOW - DAY,
        recorded_at=NOW,
        adopted=True,
        check=Check.PASSED,
        excused=(CI.target, APP.target),
        live_since=NOW,
        last_used_at=NOW - HOUR,
        last_used_from=("203.0.113.7",),
    )
    assert change.record == a_record(adopted)
    assert live(change.record) == adopted
    assert told(change) == ("key.adopted", WHY, 0, 50, "by-hand", False)


def test_a_key_that_is_adopted_beside_a_minted_one_retires_at_once() -> None:
    record = transitions.adopt(a_record(a_live(6)), a_policy(), a_foreign(50), WHY, NOW).record
    assert live(record) == a_live(6)
    assert find(record, 50).retiring_since == NOW


def test_of_several_adopted_keys_the_youngest_is_live() -> None:
    record = transitions.adopt(a_record(an_adopted(50)), a_policy(), a_foreign(51, created_at=NOW), WHY, NOW).record
    assert record.adopted == (50, 51)
    assert live(record) == find(record, 51)
    assert find(record, 50).retiring_since == NOW


def test_a_key_that_is_adopted_after_the_live_one_was_revoked_is_live() -> None:
    record = transitions.adopt(a_record(a_retiring(5)), a_policy(), a_foreign(50), WHY, NOW).record
    assert live(record) == find(record, 50)
    assert find(record, 105) == a_retiring(5), "its grace runs on"


def test_a_key_of_the_policy_s_own_is_not_adopted_twice() -> None:
    change = transitions.adopt(a_record(a_live(6)), a_policy(), a_foreign(106), WHY, NOW)
    assert change == Change(a_record(a_live(6), adopted=(106,)))


def test_a_key_is_handed_over_to_the_policy_that_adopts_it() -> None:
    change = transitions.hand_over(a_record(a_retiring(5), a_live(6)), 105, "other")
    assert change is not None
    assert change.record == a_record(a_live(6))
    assert told(change) == ("key.handed_over", f"policy other adopts {named(5)}", 5, 105, named(5), False)
    assert transitions.hand_over(a_record(a_live(6)), 105, "other") is None


# Handing off


@pytest.mark.parametrize(
    ("outcome", "says", "seen_at"),
    [
        (Check.PASSED, f"Neon accepts {named(7)}", NOW),
        (Check.REFUSED, f"Neon refuses {named(7)}", None),
        (
            Check.INCONCLUSIVE,
            f"whether Neon accepts {named(7)} could not be found out; the rotation goes on",
            None,
        ),
    ],
)
def test_a_check_is_remembered_and_is_a_use_of_our_own(outcome: Check, says: str, seen_at: datetime | None) -> None:
    new = a_generation(7, check=Check.PENDING, checked_at=None)
    change = transitions.checked(a_record(a_live(6), new), 107, outcome, SECOND, NOW)
    used_at = new.created_at + SECOND
    assert change.record == a_record(a_live(6), replace(new, check=outcome, checked_at=used_at, seen_at=seen_at))
    assert told(change) == ("key.checked", says, 7, 107, named(7), False)


@pytest.mark.parametrize(
    "recorded_at",
    [
        pytest.param(NOW - HOUR, id="our clock was right"),
        pytest.param(NOW - DAY, id="our clock was behind, and knows it by now"),
        pytest.param(NOW + 4 * MINUTE, id="our clock was ahead"),
    ],
)
def test_our_own_check_is_when_neon_counts_it_whatever_our_clock_thought(recorded_at: datetime) -> None:
    new = a_generation(7, check=Check.PENDING, recorded_at=recorded_at, created_at=NOW - HOUR)
    checked = find(transitions.checked(a_record(new), 107, Check.PASSED, 3 * SECOND, NOW).record, 107)
    assert checked.checked_at == NOW - HOUR + 3 * SECOND


def test_an_offer_is_remembered_before_the_first_byte() -> None:
    change = transitions.offer(a_record(a_generation(7), offered={APP.target: NOW}), 107, CI, WHY, NOW)
    assert change.record == a_record(
        a_generation(7, offers={CI.target: Offer(NOW)}), offered={APP.target: NOW, CI.target: NOW + CI.pause}
    )
    assert told(change) == ("sink.offered", WHY, 7, 107, named(7), False)


def test_an_offer_that_is_made_again_keeps_count_of_its_failures() -> None:
    before = Offer(NOW - MINUTE, 3, NOW, "HTTP 500")
    record = a_record(a_generation(7, offers={CI.target: before, APP.target: before}))
    offers = find(transitions.offer(record, 107, CI, WHY, NOW).record, 107).offers
    assert offers == {CI.target: Offer(NOW, 3, None, "HTTP 500"), APP.target: before}


def test_a_receipt_ends_the_offer_and_supersedes_what_the_sink_was_offered_before() -> None:
    failing = Offer(NOW - SECOND, 2, NOW, "HTTP 500")
    record = a_record(
        an_adopted(),
        an_orphan(3, CI, APP),
        an_orphan(4, CI, superseded={CI: NOW - DAY}),
        an_orphan(5, APP),
        a_live(6, CI),
        a_generation(7, offers={CI.target: failing, APP.target: failing}),
        an_orphan(8, CI),
        offered={CI.target: NOW, APP.target: NOW},
        gone={CI.target: "x", APP.target: "y"},
    )
    change = transitions.receipted(record, 107, CI, NOW)
    after = {g.number: g for g in change.record.generations}
    assert after[7].receipts == {CI.target: NOW}
    assert after[7].offers == {CI.target: Offer(NOW - SECOND), APP.target: failing}
    assert after[3].superseded == {CI.target: NOW}
    assert after[4].superseded == {CI.target: NOW - DAY}, "the first later key counts"
    assert after[6].superseded == {CI.target: NOW}
    assert after[0].superseded == after[5].superseded == {}, "it was never offered to this sink"
    assert after[7].superseded == after[8].superseded == {}, "nothing supersedes itself, nor what is later"
    assert change.record.offered == {APP.target: NOW}
    assert change.record.gone == {APP.target: "y"}
    assert told(change) == ("sink.receipted", f"sink ci has {named(7)}", 7, 107, named(7), False)


def test_a_failed_hand_off_is_counted_and_pauses() -> None:
    record = a_record(a_generation(7, offers={CI.target: Offer(NOW - SECOND, 2, None, "before")}))
    change = transitions.offer_failed(record, 107, CI, SinkFailure("HTTP 503", 0.0), NOW)
    offers = {CI.target: Offer(NOW - SECOND, 3, NOW + 4 * SECOND, "HTTP 503")}
    assert change.record == a_record(a_generation(7, offers=offers), failure_notified_at=NOW)
    says = "sink ci did not take the key: HTTP 503"
    assert told(change) == ("rotation.failed", says, 7, 107, named(7), True)
    again = transitions.offer_failed(change.record, 107, CI, SinkFailure("HTTP 503", 0.0, HOUR), NOW + HOUR)
    assert find(again.record, 107).offers[CI.target].retry_at == NOW + 2 * HOUR
    assert again.record.failure_notified_at == NOW
    assert not again.events[0].notify


def test_a_sink_that_answered_410_is_remembered_with_its_settings() -> None:
    record = a_record(a_generation(7, offers={CI.target: Offer(NOW)}), gone={APP.target: "x"})
    change = transitions.offer_failed(record, 107, CI, SinkFailure("Gone", 0.0, gone=True), NOW)
    assert change.record.gone == {APP.target: "x", CI.target: CI.settings}
    assert transitions.offer_failed(record, 107, CI, SinkFailure("no", 0.0), NOW).record.gone == {APP.target: "x"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TryLater("down", "wait", retry_after=MINUTE), SinkFailure("down; wait", 0.3, MINUTE)),
        (NeedsPerson("refused"), SinkFailure("refused", 0.3)),
        (SinkGone("gone"), SinkFailure("gone", 0.3, gone=True)),
    ],
)
def test_what_a_sink_s_exception_says(error: Any, expected: SinkFailure) -> None:
    assert SinkFailure.of(error, 0.3) == expected


@pytest.mark.parametrize(
    ("lost", "pause"),
    [
        pytest.param(0, None, id="the first time at once"),
        pytest.param(1, MINUTE, id="then a minute"),
        pytest.param(2, 2 * MINUTE, id="then two"),
        pytest.param(3, 4 * MINUTE, id="then four"),
        pytest.param(9, 256 * MINUTE, id="and so on"),
        pytest.param(10, 6 * HOUR, id="up to six hours"),
        pytest.param(5000, 6 * HOUR, id="for ever"),
    ],
)
def test_a_lost_key_is_replaced_under_a_back_off(lost: int, pause: timedelta | None) -> None:
    record = a_record(a_generation(7), lost=lost, rotation=a_rotation())
    change = transitions.abandon(record, 107, WHY, False, NOW)
    assert change.record == a_record(
        a_generation(7, orphan=Orphan(NOW, WHY)),
        lost=lost + 1,
        lost_retry_at=NOW + pause if pause else None,
        rotation=a_rotation(),
    )
    assert told(change) == ("key.orphaned", WHY, 7, 107, named(7), False)


@pytest.mark.parametrize(
    ("gone", "offered", "urgent"),
    [
        pytest.param(True, (CI,), True, id="some sink may hold a key that does not work: urgent"),
        pytest.param(True, (), False, id="no sink was offered it: not urgent"),
        pytest.param(False, (CI,), False, id="the key still works: not urgent"),
    ],
)
def test_a_key_that_is_gone_before_it_went_live(gone: bool, offered: tuple[Any, ...], urgent: bool) -> None:
    new = a_generation(7, offers={sink.target: Offer(NOW) for sink in offered})
    record = transitions.abandon(a_record(new, rotation=a_rotation()), 107, WHY, gone, NOW).record
    assert record.rotation == a_rotation(urgent=urgent)
    assert transitions.abandon(a_record(new), 107, WHY, gone, NOW).record.rotation is None


def test_going_live_ends_the_rotation_and_its_failures_and_the_key_before_it_retires() -> None:
    record = a_record(
        a_retiring(5, since=NOW - DAY),
        a_live(6),
        a_generation(7),
        an_orphan(8, CI),
        rotation=a_rotation(),
        failure=a_failure(),
        failure_notified_at=NOW,
        lost=4,
        lost_retry_at=NOW + HOUR,
        spent=("sha256:x",),
    )
    change = transitions.go_live(record, 107, WHY, NOW)
    assert change.record == a_record(
        a_retiring(5, since=NOW - DAY),
        a_live(6, retiring_since=NOW),
        a_generation(7, live_since=NOW),
        an_orphan(8, CI),
    )
    assert told(change) == ("rotation.live", WHY, 7, 107, named(7), True)


# Revoking


def test_a_hold_is_told_at_the_start_and_when_it_is_overdue() -> None:
    first = transitions.hold(a_record(a_retiring(5)), 105, WHY, False, NOW)
    assert first.record == a_record(a_retiring(5, held=Hindrance(NOW, WHY)))
    assert told(first) == ("revocation.held", WHY, 5, 105, named(5), True)
    other = transitions.hold(first.record, 105, "another reason", False, NOW + HOUR)
    assert other == Change(a_record(a_retiring(5, held=Hindrance(NOW, "another reason"))))
    overdue = transitions.hold(other.record, 105, "another reason", True, NOW + DAY)
    assert overdue.record == a_record(a_retiring(5, held=Hindrance(NOW, "another reason", True)))
    assert told(overdue) == ("revocation.overdue", "another reason", 5, 105, named(5), True)
    later = transitions.hold(overdue.record, 105, WHY, True, NOW + 2 * DAY)
    assert later == Change(a_record(a_retiring(5, held=Hindrance(NOW, WHY, True))))


def test_a_hold_that_is_overdue_from_the_start_is_told_as_that() -> None:
    assert told(transitions.hold(a_record(a_retiring(5)), 105, WHY, True, NOW))[0] == "revocation.overdue"


def test_a_release_ends_the_hold() -> None:
    change = transitions.release(a_record(a_retiring(5, held=held())), 105, WHY)
    assert change.record == a_record(a_retiring(5))
    assert told(change) == ("revocation.released", WHY, 5, 105, named(5), False)


def test_a_revocation_is_remembered_before_it_is_asked_for() -> None:
    change = transitions.revoking(a_record(a_retiring(5), a_live(6)), 105, WHY, NOW)
    assert change.record == a_record(a_retiring(5, revocation=Revocation(NOW)), a_live(6))
    assert told(change) == ("key.revoking", WHY, 5, 105, named(5), False)
    failed = transitions.revoke_failed(change.record, 105, "HTTP 500", 0.0, None, NOW + SECOND)
    known = Revocation(NOW, NOW + SECOND, 1, NOW + 2 * SECOND, "HTTP 500")
    assert failed.record == a_record(a_retiring(5, revocation=known), a_live(6))
    assert told(failed) == ("revocation.failed", "HTTP 500", 5, 105, named(5), False)
    again = transitions.revoking(failed.record, 105, WHY, NOW + MINUTE)
    assert find(again.record, 105).revocation == Revocation(NOW + MINUTE, None, 1, None, "HTTP 500")
    twice = transitions.revoke_failed(again.record, 105, "HTTP 404", 0.0, HOUR, NOW + MINUTE)
    assert find(twice.record, 105).revocation == Revocation(
        NOW + MINUTE, NOW + MINUTE, 2, NOW + MINUTE + HOUR, "HTTP 404"
    )


def test_a_revocation_that_was_never_recorded_can_fail_too() -> None:
    record = transitions.revoke_failed(a_record(a_retiring(5)), 105, WHY, 0.0, None, NOW).record
    assert find(record, 105).revocation == Revocation(NOW, NOW, 1, NOW + SECOND, WHY)


def test_a_revoked_old_key_leaves_the_record_and_nothing_is_due() -> None:
    left_behind = a_retiring(5, offers={"https://old.example.com": Offer(NOW)})
    change = transitions.revoked(a_record(left_behind, a_live(6)), 105, WHY, NOW)
    assert change.record == a_record(a_live(6))
    assert told(change) == ("api_key.revoked", WHY, 5, 105, named(5), True)


@pytest.mark.parametrize("begun", [None, a_rotation()])
def test_a_revoked_live_key_makes_a_rotation_due_at_once(begun: Rotation | None) -> None:
    record = transitions.revoked(a_record(a_retiring(5), a_live(6), rotation=begun), 106, WHY, NOW).record
    assert record.rotation is not None
    assert record.rotation.urgent
    assert record.rotation.since == (begun.since if begun else NOW)
    assert live(record) is None, "a retiring key does not become live again"
    assert record.spent == ("sha256:6",)


def test_a_revoked_adopted_key_makes_a_rotation_due_at_once() -> None:
    record = transitions.revoked(a_record(an_adopted()), 50, WHY, NOW).record
    assert record.rotation == Rotation(NOW, "by-hand-50 was revoked, and is the newest key of its sinks", urgent=True)
    assert record.spent == ()


def test_a_revoked_key_that_some_sink_got_last_makes_a_rotation_due_at_once() -> None:
    record = a_record(a_live(6), an_orphan(7, CI), spent=("sha256:1",))
    change = transitions.revoked(record, 107, WHY, NOW)
    assert change.record.rotation is not None
    assert change.record.rotation.urgent
    assert change.record.spent == ("sha256:1", "sha256:7")
    first = transitions.revoked(a_record(an_orphan(7, CI)), 107, WHY, NOW).record
    assert first.rotation is not None


@pytest.mark.parametrize(
    "orphan",
    [
        pytest.param(an_orphan(7), id="nobody was offered it"),
        pytest.param(an_orphan(7, CI, superseded={CI: NOW}), id="its sinks have a later key"),
    ],
)
def test_a_revoked_key_that_no_sink_got_last_makes_nothing_due(orphan: Generation) -> None:
    record = transitions.revoked(a_record(a_live(6), orphan), 107, WHY, NOW).record
    assert record.rotation is None
    assert record.spent == ()


def test_a_key_that_somebody_else_revoked_is_forgotten_and_its_name_remembered() -> None:
    old = a_retiring(5, CI, APP, scope=ORG)
    change = transitions.forget(a_record(old, a_live(6), closed=(a_closed_name(2),)), 105, WHY, NOW)
    since = dict.fromkeys((CI.target, APP.target), NOW - 2 * DAY)
    closed = ClosedName(named(5), ORG, old.created_at, NOW, 5, (CI.target, APP.target), 105, since)
    assert change.record == a_record(a_live(6), closed=(a_closed_name(2), closed))
    assert told(change) == ("key.gone", WHY, 5, 105, named(5), False)


def test_a_key_that_is_gone_as_we_asked_is_revoked_and_its_name_remembered() -> None:
    change = transitions.forget(a_record(a_retiring(5, revocation=asked()), a_live(6)), 105, WHY, NOW)
    assert told(change) == ("api_key.revoked", WHY, 5, 105, named(5), True)
    assert [closed.name for closed in change.record.closed] == [named(5)]


def test_a_live_key_that_is_gone_as_was_asked_makes_a_rotation_due() -> None:
    record = transitions.forget(a_record(a_live(6, condemned=Condemned.NOW)), 106, WHY, NOW).record
    assert record.rotation is not None
    assert (record.rotation.since, record.rotation.urgent) == (NOW, True)


def test_an_adopted_key_that_is_gone_is_remembered_by_its_id_with_the_sinks_that_had_it() -> None:
    adopted = an_adopted(retiring_since=NOW)
    record = transitions.forget(a_record(adopted, a_live(6)), 50, WHY, NOW).record
    (closed,) = record.closed
    assert (closed.name, closed.key_id, closed.offered) == (adopted.name, 50, (CI.target,))
    assert (closed.live_since, closed.superseded) == (adopted.live_since, {CI.target: NOW})
    assert record.generations == (a_live(6),)
    again = transitions.recover(record, a_foreign(50, adopted.name), WHY, NOW).record
    assert set(again.generations[-1].offers) == {CI.target}, "its consumers may have it still"
    assert again.closed == ()


def test_a_retiring_key_that_comes_back_counts_its_grace_period_from_when_it_retired() -> None:
    retired = a_retiring(5, CI, retiring_since=NOW - HOUR)
    newer = a_live(6, CI, created_at=NOW - 2 * HOUR)  # its receipt is older than its going live
    record = transitions.forget(a_record(retired, newer), 105, WHY, NOW).record
    again = transitions.recover(record, a_foreign(105, retired.name), WHY, NOW + HOUR).record
    assert again.generations[-1].superseded == {CI.target: NOW - HOUR}


def test_an_adopted_key_that_comes_back_was_not_replaced_by_what_came_before_it() -> None:
    before = a_live(4, CI, created_at=NOW - 2 * DAY, retiring_since=NOW - DAY)
    adopted = an_adopted(live_since=NOW - DAY, excused=(CI.target,))
    record = transitions.forget(a_record(before, adopted), 50, WHY, NOW).record
    back = a_foreign(50, adopted.name)
    assert transitions.recover(record, back, WHY, NOW).record.generations[-1].superseded == {}
    for at in (NOW - DAY, NOW):
        newer = replace(record, generations=(*record.generations, a_live(5, CI, created_at=at)))
        assert transitions.recover(newer, back, WHY, NOW).record.generations[-1].superseded == {CI.target: at}


def test_a_key_that_an_operator_condemned_is_so_still_when_it_comes_back() -> None:
    leaked = a_retiring(5, CI, condemned=Condemned.NOW, revocation=asked())
    record = transitions.forget(a_record(leaked, a_live(6)), 105, WHY, NOW).record
    again = transitions.recover(record, a_foreign(105, leaked.name), WHY, NOW).record
    assert again.generations[-1].condemned is Condemned.NOW


def test_a_key_that_is_not_in_the_record_cannot_change() -> None:
    with pytest.raises(KeyError):
        transitions.release(a_record(a_live(6)), 105, WHY)


# Orders


def test_an_order_to_revoke_condemns_the_one_key() -> None:
    orders = (an_order(1), a_revoke_order(105, 2))
    change = transitions.obey(a_record(a_retiring(5), a_live(6), orders=orders), 2, frozenset(), WHY)
    assert [g.condemned for g in change.record.generations] == [Condemned.NOW, None]
    assert change.closed_orders == (2,)
    event = change.events[0]
    assert (event.name, event.why, event.policy, event.key_id) == ("order.taken", WHY, NAME, 105)


def handing(**changes: Any) -> Record:
    failing = {CI.target: Offer(NOW, 3, NOW + HOUR, "HTTP 500")}
    return a_record(
        a_retiring(5, condemned=Condemned.NOW),
        a_live(6),
        a_generation(7, offers=failing),
        **{"gone": {CI.target: CI.settings}, "rotation": a_rotation(), "failure": a_failure(), **changes},
    )


def test_an_order_joins_a_rotation_under_way_and_tries_at_once() -> None:
    change = transitions.obey(handing(orders=(an_order(3),)), 3, {107}, WHY)
    record = change.record
    assert record.gone == {}
    assert record.rotation == a_rotation(urgent=True, ordered=True)
    assert find(record, 107).offers == {CI.target: Offer(NOW, 3, None, "HTTP 500")}
    assert [g.condemned for g in record.generations] == [Condemned.NOW, None, None]
    assert change.closed_orders == (3,)
    assert (change.events[0].name, change.events[0].key_id) == ("order.taken", None)


def test_an_order_that_joins_makes_a_rotation_of_it_if_there_was_none() -> None:
    order = an_order(3)
    record = transitions.obey(handing(orders=(order,), rotation=None), 3, {107}, WHY).record
    assert record.rotation == Rotation(order.at, WHY, urgent=True, ordered=True)


def test_leaked_condemns_every_key_but_the_one_under_way_and_takes_nothing_back() -> None:
    record = transitions.obey(handing(orders=(an_order(3, leaked=True),)), 3, {107}, WHY).record
    assert [g.condemned for g in record.generations] == [Condemned.NOW, Condemned.AT_LIVE, None]


def test_leaked_now_condemns_every_key_but_the_one_under_way_at_once() -> None:
    record = transitions.obey(handing(orders=(an_order(3, leaked=True, now=True),)), 3, {107}, WHY).record
    assert [g.condemned for g in record.generations] == [Condemned.NOW, Condemned.NOW, None]


def test_leaked_now_without_a_rotation_under_way_stays_open_for_the_new_key() -> None:
    known = (a_live(6), an_orphan(7, CI))
    order = an_order(3, leaked=True, now=True)
    change = transitions.obey(a_record(*known, orders=(order,), gone={CI.target: "x"}), 3, {106}, WHY)
    assert [g.condemned for g in change.record.generations] == [Condemned.NOW, Condemned.NOW]
    assert change.closed_orders == ()
    assert [event.name for event in change.events] == ["order.taken"]
    assert change.record.rotation is None
    assert change.record.gone == {CI.target: "x"}


def test_an_order_lapses_with_an_event() -> None:
    record = a_record(a_live(6), orders=(a_revoke_order(106, 2), an_order(3)))
    change = transitions.lapse(record, 2, WHY)
    assert (change.record, change.closed_orders) == (record, (2,))
    event = change.events[0]
    assert (event.name, event.why, event.policy, event.key_id, event.notify) == ("order.lapsed", WHY, NAME, 106, True)


@pytest.mark.parametrize(("paused", "name"), [(True, "policy.paused"), (False, "policy.resumed")])
def test_a_pause_and_its_end(paused: bool, name: str) -> None:
    change = transitions.pause(a_record(paused=not paused), paused)
    assert change is not None
    assert change.record == a_record(paused=paused)
    assert (change.events[0].name, change.events[0].policy) == (name, NAME)
    assert change.events[0].why == f"an operator {'paused' if paused else 'resumed'} it"
    assert transitions.pause(a_record(paused=paused), paused) is None


def test_everything_that_waits_is_tried_at_once_after_a_sighup() -> None:
    waiting, asked_again = Offer(NOW, 3, NOW + HOUR, "x"), Offer(NOW, 1)
    record = a_record(
        a_live(6),
        a_generation(7, offers={CI.target: waiting, APP.target: asked_again}),
        failure=a_failure(),
    )
    after = transitions.retry_now(record)
    assert after == a_record(
        a_live(6),
        a_generation(7, offers={CI.target: Offer(NOW, 3, None, "x"), APP.target: asked_again}),
        failure=a_failure(retry_at=None),
    )
    assert transitions.retry_now(a_record(a_live(6))) == a_record(a_live(6))


def test_the_stand_in_of_a_policy_that_is_not_configured_delivers_to_nobody() -> None:
    policy = transitions.stand_in("ci")
    assert (policy.name, policy.deliver_to, policy.scope) == ("ci", (), PERSONAL)
