"""Where keys stand: the questions that the decision, `status` and the transitions share."""

from __future__ import annotations

import pytest
from builders import (
    APP,
    CI,
    DAY,
    HOUR,
    MINUTE,
    NOW,
    ORG,
    PERSONAL,
    PROJECT,
    SECOND,
    a_foreign,
    a_generation,
    a_list,
    a_live,
    a_policy,
    a_record,
    a_retiring,
    a_revoke_order,
    an_adopted,
    an_order,
    an_orphan,
    named,
    seen,
)

from rotator.model import Held, Keys, OrderKind, Scope, SinkRef
from rotator.standing import (
    file_troubles,
    find,
    foreign_use,
    gone_from,
    in_hand,
    live,
    named_like,
    older,
    order_of,
    rotate_order,
    unfinished,
)
from rotator.words import listed, span, when


def test_the_live_key_is_the_newest_that_was_not_replaced() -> None:
    assert live(a_record(a_retiring(5), a_live(6), an_orphan(7, CI), a_generation(8))) == a_live(6)
    assert live(a_record(a_live(5), a_live(6))) == a_live(6)
    assert live(a_record(a_retiring(5))) is None
    assert live(a_record()) is None


def test_adopted_keys_are_older_than_minted_ones_and_in_the_order_of_their_age() -> None:
    young, old = an_adopted(50), an_adopted(51, created_at=NOW - 30 * DAY)
    assert sorted([a_live(1), young, old], key=order_of) == [old, young, a_live(1)]
    same_age = an_adopted(52)
    assert max([same_age, young], key=order_of) == same_age
    assert live(a_record(young, old)) == young


def test_older_keys_are_retiring_ones_and_orphans_oldest_first() -> None:
    record = a_record(a_live(6), an_orphan(8, CI), a_retiring(5), a_generation(9), a_retiring(3))
    assert [g.number for g in older(record)] == [3, 5, 8]


def test_what_is_unfinished_is_neither_live_nor_lost() -> None:
    record = a_record(a_retiring(5), a_live(6), an_orphan(7), a_generation(8), a_generation(9))
    assert [g.number for g in unfinished(record)] == [8, 9]
    assert in_hand(record, Keys(in_hand=frozenset({106, 107, 108, 109}))) == a_generation(9)
    assert in_hand(record, Keys(in_hand=frozenset({106, 107, 108}))) == a_generation(8)
    assert in_hand(record, Keys(in_hand=frozenset({106, 107}))) is None


def test_a_key_is_found_by_its_id() -> None:
    record = a_record(a_live(6), a_generation(7))
    assert find(record, 107) == a_generation(7)
    with pytest.raises(KeyError, match="105"):
        find(record, 105)
    with pytest.raises(KeyError):
        find(record, None)


def test_the_oldest_order_to_rotate_counts() -> None:
    record = a_record(orders=(a_revoke_order(106, 1), an_order(3), an_order(2)))
    order = rotate_order(record)
    assert order is not None
    assert (order.id, order.kind) == (2, OrderKind.ROTATE)
    assert rotate_order(a_record(orders=(a_revoke_order(106),))) is None


@pytest.mark.parametrize(
    ("listing", "gone"),
    [
        pytest.param(None, False, id="no list tells nothing"),
        pytest.param(a_list(a_foreign(1)), True, id="a list that lacks it"),
        pytest.param(a_list(a_foreign(106)), False, id="a list that holds it"),
        pytest.param(a_list(doubt="it is empty"), False, id="a list that is not believed"),
        pytest.param(a_list(age=2 * HOUR), False, id="a list from before it was recorded"),
        pytest.param(a_list(age=HOUR), False, id="a list from just when it was recorded"),
    ],
)
def test_whether_a_list_says_that_a_key_is_gone(listing: object, gone: bool) -> None:
    assert gone_from(listing, a_live(6, recorded_at=NOW - HOUR)) is gone  # type: ignore[arg-type]


def test_a_use_by_others_is_one_after_our_own_check() -> None:
    assert foreign_use(a_live(6)) is None
    assert foreign_use(a_live(6, last_used_at=NOW, checked_at=None)) == NOW
    assert foreign_use(a_live(6, last_used_at=NOW, checked_at=NOW - SECOND)) is None
    assert foreign_use(a_live(6, last_used_at=NOW, checked_at=NOW - 2 * SECOND)) == NOW


def test_names_as_the_policy_gives_them() -> None:
    names = ["ci-20261001T000000Z-abc123", "ci-20261001T000000Z-abc12", "ci-20261001T000000Z-abc123 ", "ci-x", "ci"]
    keys = [a_foreign(9 - number, name) for number, name in enumerate(names)]
    more = [a_foreign(4, "ci-20260101T000000Z-zzzzzz"), a_foreign(3, "cixa-20260101T000000Z-zzzzzz")]
    assert [key.id for key in named_like("ci", [*keys, *more])] == [4, 9]
    assert named_like("c.", keys) == []


FILED = a_record(a_live(6, APP, CI), a_generation(7, offers=a_live(7, APP).offers), an_orphan(8, CI))


@pytest.mark.parametrize(
    ("found", "lost", "says"),
    [
        pytest.param(Held.NOTHING, True, f"sink app has lost the live key {named(6)}", id="nothing"),
        pytest.param(Held.UNREADABLE, False, "sink app cannot be read, so what it holds is unknown", id="unreadable"),
        pytest.param("sha256:x", False, f"sink app holds another secret than the live key {named(6)}", id="foreign"),
        pytest.param("sha256:8", False, "sink app holds another secret", id="a later key it was not offered"),
        pytest.param("sha256:9", True, "sink app holds a key that is gone from Neon", id="a key that is gone"),
    ],
)
def test_what_is_wrong_with_a_file(found: str, lost: bool, says: str) -> None:
    record = a_record(*FILED.generations, spent=("sha256:9",))
    (trouble,) = file_troubles(a_policy(CI, APP), record, seen(record, contents={APP.target: found}))
    assert (trouble.sink, trouble.lost) == (APP, lost)
    assert trouble.why.startswith(says)


@pytest.mark.parametrize("found", ["sha256:6", "sha256:7"])
def test_a_file_may_hold_the_live_key_or_the_one_that_it_was_offered_since(found: str) -> None:
    assert file_troubles(a_policy(APP), FILED, seen(FILED, contents={APP.target: found})) == []


def test_every_file_is_looked_at() -> None:
    two, three = SinkRef("two", "file:/two", reads_back=True), SinkRef("three", "file:/three", reads_back=True)
    record = a_record(a_live(6, APP, two, three))
    contents = {APP.target: "sha256:6", three.target: Held.NOTHING}
    troubles = file_troubles(a_policy(APP, two, three), record, seen(record, contents=contents))
    assert [trouble.sink for trouble in troubles] == [three], "one is right, one was not read"


def test_a_sink_that_does_not_read_back_is_not_looked_at() -> None:
    assert file_troubles(a_policy(CI), FILED, seen(FILED, contents={CI.target: Held.NOTHING})) == []


def test_without_a_live_key_no_file_is_wrong() -> None:
    record = a_record(a_retiring(5, APP))
    assert file_troubles(a_policy(APP), record, seen(record, contents={APP.target: "x"})) == []


@pytest.mark.parametrize(
    ("scope", "account", "text"),
    [
        (PERSONAL, "personal", "personal"),
        (ORG, "org-a", "organization org-a"),
        (PROJECT, "org-a", "project proj-1 of org-a"),
    ],
)
def test_scopes(scope: Scope, account: str, text: str) -> None:
    assert (scope.account, str(scope)) == (account, text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (61, "1m 1s"),
        (3600, "1h"),
        (3601, "1h"),
        (3661, "1h 1m"),
        (86400 * 3 + 3600 * 4 + 59, "3d 4h"),
        (-90, "1m 30s"),
        (0.6, "1s"),
    ],
)
def test_spans_in_words(seconds: float, text: str) -> None:
    assert span(SECOND * seconds) == text


def test_times_and_lists_in_words() -> None:
    assert when(NOW + MINUTE) == "2026-11-23 12:01:00 UTC"
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
