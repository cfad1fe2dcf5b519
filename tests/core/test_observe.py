"""What a look teaches: uses, absences, what files hold, which lists are believed, which keys may be our own."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from builders import (
    APP,
    DAY,
    HOUR,
    MINUTE,
    NAME,
    NOW,
    SECOND,
    VAULT,
    a_foreign,
    a_generation,
    a_key,
    a_list,
    a_live,
    a_policy,
    a_record,
    a_retiring,
    an_adopted,
    an_orphan,
    asked,
    named,
    seen,
)

from rotator.decide import next_step
from rotator.model import Absence, Check, Do, Event, Generation, Held, KeyList, Keys, Misdated, Offer, Orphan, SinkRef
from rotator.observe import Judgement, judge, observe, own_keys, wrong_id
from rotator.standing import find
from rotator.transitions import stand_in


def after(generation: Generation, keys: Keys) -> Generation:
    """The generation after the look; the record has no other."""
    change = observe(a_policy(), a_record(generation), keys)
    return find(change.record, generation.key_id) if change is not None else generation


def test_a_look_that_teaches_nothing_changes_nothing() -> None:
    record = a_record(a_retiring(5), a_live(6))
    assert observe(a_policy(), record, seen(record)) is None
    assert observe(a_policy(), record, seen(lists={})) is None


# Uses


def use(at: datetime | None, *, since: datetime | None = NOW - DAY, address: str = "203.0.113.7") -> Keys:
    key = a_key(a_live(6), last_used_at=at, last_used_from=(address,))
    return seen(lists={"personal": a_list(key)}, since=since)


USED = {"last_used_at": NOW - HOUR, "last_used_from": ("198.51.100.1",)}


@pytest.mark.parametrize(
    ("before", "keys", "last", "address", "gap"),
    [
        pytest.param(a_live(6), use(NOW - HOUR), NOW - HOUR, "203.0.113.7", None, id="a first use is remembered"),
        pytest.param(a_live(6, **USED), use(NOW), NOW, "203.0.113.7", HOUR, id="a later use is, and the gap before it"),
        pytest.param(
            a_live(6, **USED), use(NOW - 2 * HOUR), NOW - HOUR, "198.51.100.1", None, id="one that goes back is not"
        ),
        pytest.param(a_live(6, **USED), use(None), NOW - HOUR, "198.51.100.1", None, id="one that vanishes is not"),
        pytest.param(
            a_live(6, **USED),
            use(NOW - HOUR),
            NOW - HOUR,
            "198.51.100.1",
            None,
            id="the same use from elsewhere is not",
        ),
        pytest.param(
            a_live(6, **USED, longest_gap=2 * HOUR), use(NOW), NOW, "203.0.113.7", 2 * HOUR, id="a longer gap stays"
        ),
        pytest.param(
            a_live(6, **USED, longest_gap=MINUTE), use(NOW), NOW, "203.0.113.7", HOUR, id="a shorter gap does not"
        ),
        pytest.param(
            a_live(6, **USED),
            use(NOW, since=NOW - HOUR + SECOND),
            NOW,
            "203.0.113.7",
            None,
            id="a gap over a restart says nothing",
        ),
        pytest.param(
            a_live(6, **USED),
            use(NOW, since=NOW - HOUR),
            NOW,
            "203.0.113.7",
            HOUR,
            id="a gap from the very start counts",
        ),
        pytest.param(
            a_live(6, **USED), use(NOW, since=None), NOW, "203.0.113.7", None, id="a gap before the first poll does not"
        ),
    ],
)
def test_uses(before: Generation, keys: Keys, last: datetime, address: str, gap: timedelta | None) -> None:
    known = after(before, keys)
    assert (known.last_used_at, known.last_used_from, known.longest_gap) == (last, (address,), gap)


CERTAIN = {106: "neon.api_key_id says so"}
CERTAIN_9 = {9: "neon.api_key_id says so"}
GUESSED = own_keys(None, {}, "", [], [a_list(a_foreign(106, last_used_at=NOW))])


@pytest.mark.parametrize(
    ("own", "checked_at", "gap"),
    [
        pytest.param(CERTAIN, NOW, None, id="what the management key is used for is our own use"),
        pytest.param(
            GUESSED,
            a_live(6).checked_at,
            HOUR,
            id="a key that is only taken for ours was used by others, as far as is known",
        ),
    ],
)
def test_uses_of_the_management_key(own: dict[int, str], checked_at: datetime, gap: timedelta | None) -> None:
    known = after(a_live(6, **USED), replace(use(NOW), own=own))
    assert (known.last_used_at, known.checked_at, known.longest_gap) == (NOW, checked_at, gap)
    assert known.last_used_from == use(NOW).lists["personal"].keys[106].last_used_from


def test_a_consumer_s_use_at_the_moment_of_our_own_call_holds_the_old_key() -> None:
    record = a_record(an_adopted(retiring_since=NOW - 2 * DAY), a_live(6))
    key = a_key(record.generations[0], last_used_at=NOW - MINUTE, last_used_from=("203.0.113.7",))
    lists = {"personal": a_list(key, a_key(a_live(6)))}
    own = own_keys(None, {106: "sha256:6"}, "", [(NOW - MINUTE, NOW - MINUTE)], lists.values())
    assert own.keys() == {50}
    change = observe(a_policy(), record, seen(lists=lists, own=own))
    assert change is not None
    step = next_step(a_policy(), change.record, seen(lists=lists), NOW)  # other calls of ours followed
    assert step.do is Do.HOLD
    assert "it was used at 2026-11-23 11:59:00 UTC from 203.0.113.7" in step.why


# Absences


def lacking(age: timedelta = timedelta(0), **changes: object) -> Keys:
    return seen(lists={"personal": a_list(a_foreign(1), age=age, **changes)})  # type: ignore[arg-type]


ONCE = Absence(1, NOW - MINUTE, NOW - MINUTE)


@pytest.mark.parametrize(
    ("before", "keys", "absence"),
    [
        pytest.param(a_live(6), lacking(), Absence(1, NOW, NOW), id="a poll that lacks it"),
        pytest.param(
            a_live(6, absence=ONCE), lacking(), Absence(2, NOW - MINUTE, NOW), id="a second poll that lacks it"
        ),
        pytest.param(a_live(6, absence=ONCE), lacking(MINUTE), ONCE, id="the same poll again counts once"),
        pytest.param(a_live(6), lacking(polled=False), None, id="a list between two polls does not count"),
        pytest.param(a_live(6), lacking(doubt="it is empty"), None, id="a list that is not believed does not"),
        pytest.param(a_live(6), lacking(confirms=3), Absence(3, NOW, NOW), id="a list that three polls confirmed does"),
        pytest.param(a_live(6, absence=ONCE), seen(lists={}), ONCE, id="no list changes nothing"),
        pytest.param(a_live(6, recorded_at=NOW), lacking(), None, id="a list from before it was recorded says nothing"),
        pytest.param(a_live(6, absence=ONCE), seen(a_record(a_live(6))), None, id="a list that holds it ends it"),
        pytest.param(
            a_live(6, absence=ONCE),
            seen(a_record(a_live(6)), doubt="lacks others", polled=False),
            None,
            id="so does one that is not believed about others",
        ),
    ],
)
def test_absences(before: Generation, keys: Keys, absence: Absence | None) -> None:
    assert after(before, keys).absence == absence


def missing_event(generation: Generation) -> Event:
    return Event(
        "api_key.missing",
        f"the live key {generation.name} is gone from Neon's list; its consumers cannot use it any more",
        NAME,
        generation.number,
        generation.key_id,
        generation.name,
        notify=True,
    )


def test_a_live_key_that_two_polls_lacked_is_told_once() -> None:
    record = a_record(a_live(6, absence=ONCE))
    change = observe(a_policy(), record, lacking())
    assert change is not None
    assert change.events == (missing_event(a_live(6)),)
    assert find(change.record, 106).missing_reported
    assert observe(a_policy(), change.record, lacking()) is None
    once_more = observe(a_policy(), change.record, lacking(-MINUTE))
    assert once_more is not None
    assert once_more.events == ()


def test_a_live_key_that_came_back_may_be_missed_again() -> None:
    known = after(a_live(6, absence=Absence(2, NOW, NOW), missing_reported=True), seen(a_record(a_live(6))))
    assert (known.absence, known.missing_reported) == (None, False)


def test_a_live_key_that_we_asked_to_revoke_is_not_told_as_missing() -> None:
    change = observe(a_policy(), a_record(a_live(6, absence=ONCE, revocation=asked())), lacking())
    assert change is not None
    assert change.events == ()


def test_an_older_key_that_is_gone_is_not_told_as_missing() -> None:
    change = observe(a_policy(), a_record(a_retiring(5, absence=ONCE), a_live(6)), seen(a_record(a_live(6))))
    assert change is not None
    assert change.events == ()
    assert find(change.record, 105).absence == Absence(2, NOW - MINUTE, NOW)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        pytest.param(a_generation(7), NOW, id="a key on its way was seen alive when the list was asked for"),
        pytest.param(a_generation(7, seen_at=NOW - MINUTE), NOW, id="and again"),
        pytest.param(a_generation(7, seen_at=NOW + MINUTE), NOW + MINUTE, id="but not earlier than it was"),
        pytest.param(a_live(7), None, id="of a live key nobody asks"),
        pytest.param(an_orphan(7), None, id="nor of an orphan"),
    ],
)
def test_when_a_key_was_seen_alive(generation: Generation, expected: datetime | None) -> None:
    assert after(generation, seen(a_record(generation))).seen_at == expected


# Files


FILED = a_record(a_live(6, APP))


def drift_of(contents: dict[str, str], drifted: tuple[str, ...] = ()) -> tuple[list[str], tuple[str, ...]]:
    record = replace(FILED, drifted=drifted)
    change = observe(a_policy(APP), record, seen(record, contents=contents))
    return ([event.why for event in change.events], change.record.drifted) if change else ([], drifted)


@pytest.mark.parametrize(
    ("contents", "before", "says", "drifted"),
    [
        pytest.param({APP.target: "sha256:6"}, (), [], (), id="it holds the live key"),
        pytest.param(
            {APP.target: "sha256:x"},
            (),
            [f"sink app holds another secret than the live key {named(6)}"],
            (APP.target,),
            id="something else in its place is told",
        ),
        pytest.param({APP.target: "sha256:x"}, (APP.target,), [], (APP.target,), id="once"),
        pytest.param(
            {APP.target: Held.NOTHING},
            (),
            [f"sink app has lost the live key {named(6)}"],
            (APP.target,),
            id="a key that is lost is told",
        ),
        pytest.param({APP.target: "sha256:6"}, (APP.target,), [], (), id="the live key put back ends it"),
        pytest.param({}, (APP.target,), [], (APP.target,), id="a file that was not read is as it was"),
        pytest.param({APP.target: "sha256:6"}, ("file:/old",), [], (), id="a sink that was taken out is forgotten"),
    ],
)
def test_files(contents: dict[str, str], before: tuple[str, ...], says: list[str], drifted: tuple[str, ...]) -> None:
    assert drift_of(contents, before) == (says, drifted)


def test_drift_is_an_event_of_the_live_key() -> None:
    change = observe(a_policy(APP), FILED, seen(FILED, contents={APP.target: "sha256:x"}))
    assert change is not None
    (event,) = change.events
    assert (event.name, event.policy, event.generation, event.key_id, event.notify) == (
        "sink.drifted",
        NAME,
        6,
        106,
        True,
    )


def test_every_file_is_told_in_the_order_of_deliver_to_and_remembered_in_its_own() -> None:
    two = SinkRef("two", "file:/a", reads_back=True)
    record = a_record(a_live(6, APP, two))
    change = observe(a_policy(APP, two), record, seen(record, contents={APP.target: "x", two.target: "y"}))
    assert change is not None
    assert [event.why.split()[1] for event in change.events] == ["app", "two"]
    assert change.record.drifted == ("file:/a", APP.target)


# Which lists are believed


UNSUSPICIOUS = Judgement()


def judged(
    listed: set[int], known: set[int], before: Judgement = UNSUSPICIOUS, *, account: str = "personal", **changes: object
) -> tuple[KeyList, Judgement]:
    settings = {"own": None, "vouched": True, "polled": True, **changes}
    listing = a_list(*[a_foreign(key_id) for key_id in listed], account=account, polled=settings["polled"])
    return judge(listing, frozenset(known), settings["own"], before, settings["vouched"])  # type: ignore[arg-type]


TWICE = Judgement(frozenset({1, 2}), 2)
LACKS = "Neon's list lacks 2 of 4 known keys, so it is not believed before 3 polls in a row agree"


@pytest.mark.parametrize(
    ("listed", "known", "doubt"),
    [
        pytest.param({1, 2, 3}, {1, 2}, "", id="it holds all that is known"),
        pytest.param({1}, set(), "", id="nothing is known"),
        pytest.param({2}, {1, 2}, "", id="it lacks one"),
        pytest.param(set(range(2, 22)), set(range(22)), "", id="it lacks two of 22, less than a tenth"),
        pytest.param(set(range(2, 20)), set(range(20)), "", id="it lacks two of 20, a tenth"),
        pytest.param(
            set(range(2, 19)), set(range(19)), "Neon's list lacks 2 of 19 known keys", id="it lacks two of 19"
        ),
        pytest.param({3, 4}, {1, 2, 3, 4}, LACKS, id="it lacks several"),
        pytest.param({9}, {1}, "Neon's list lacks 1 of 1 known keys", id="it lacks all, though that is one"),
        pytest.param(set(), {1}, "Neon's list is empty, so it is not believed", id="a personal list is empty"),
        pytest.param(set(), set(), "Neon's list is empty", id="a personal list is empty and nothing is known"),
    ],
)
def test_doubt(listed: set[int], known: set[int], doubt: str) -> None:
    listing, _ = judged(listed, known)
    assert listing.doubt.startswith(doubt)
    assert bool(listing.doubt) == bool(doubt)
    assert listing.confirms == 1


def test_an_organization_s_list_may_be_empty() -> None:
    assert judged(set(), set(), account="org-a")[0].doubt == ""


def test_a_list_without_our_own_key_is_not_believed() -> None:
    listing, after_it = judged({1, 2}, {1, 2}, TWICE, own=9)
    assert listing.doubt == (
        "Neon's list lacks the management key itself, so it is not believed; if neon.api_key_id is another key's, "
        "correct it"
    )
    assert after_it == Judgement(), "the polls that agreed are not in a row any more"
    assert judged({1, 2, 9}, {1, 2}, own=9)[0].doubt == ""


def test_three_polls_in_a_row_are_believed() -> None:
    judgement = Judgement()
    for polls in (1, 2):
        listing, judgement = judged({3, 4}, {1, 2, 3, 4}, judgement)
        assert (listing.doubt, judgement) == (LACKS, Judgement(frozenset({1, 2}), polls))
    listing, judgement = judged({3, 4}, {1, 2, 3, 4}, judgement)
    assert (listing.doubt, listing.confirms) == ("", 3)
    assert judged({3, 4}, {1, 2, 3, 4}, judgement)[0].confirms == 4


@pytest.mark.parametrize(
    ("listed", "changes", "polls"),
    [
        pytest.param({3, 4}, {"vouched": False}, 3, id="unless GET /auth fails"),
        pytest.param({4}, {}, 1, id="unless they lack other keys"),
        pytest.param({4}, {"polled": False}, 0, id="a list between polls that lacks other keys begins anew"),
        pytest.param({3, 4}, {"polled": False}, 2, id="a list between polls is none of the three"),
    ],
)
def test_three_polls_in_a_row_are_not_enough(listed: set[int], changes: dict[str, object], polls: int) -> None:
    listing, judgement = judged(listed, {1, 2, 3, 4}, TWICE, **changes)  # type: ignore[arg-type]
    assert listing.doubt != ""
    assert judgement.polls == polls


def test_a_list_that_is_all_right_ends_the_row() -> None:
    assert judged({1, 2, 3, 4}, {1, 2, 3, 4}, TWICE)[1] == Judgement()
    assert judged({2, 3, 4}, {1, 2, 3, 4}, TWICE)[1] == Judgement()
    assert judged(set(), {1, 2, 3, 4}, TWICE)[1] == Judgement()


# Which keys may be our own


def test_our_own_key_is_known_from_the_record_before_all() -> None:
    own = own_keys(9, {106: "sha256:6", 105: "sha256:5"}, "sha256:5", [], [])
    assert own == {105: "its fingerprint is that of the key in use"}


OURS, OTHERS = a_foreign(9), a_foreign(1, last_used_at=NOW)
GUESS = {1: "it was used when this program made its own calls; neon.api_key_id would tell for certain"}


@pytest.mark.parametrize(
    ("lists", "own"),
    [
        pytest.param([], CERTAIN_9, id="as long as no list is known"),
        pytest.param([a_list(OTHERS, OURS)], CERTAIN_9, id="if it is in the list, whatever else was used"),
        pytest.param([a_list(OTHERS, account="org")], CERTAIN_9, id="if only lists of organizations are known"),
        pytest.param([a_list(OTHERS), a_list(OURS, account="org")], CERTAIN_9, id="if it is an organization's key"),
        pytest.param([a_list(OTHERS)], GUESS, id="but not if the list does not have it"),
        pytest.param([a_list(OTHERS), a_list(account="org")], GUESS, id="nor if none of several lists has it"),
    ],
)
def test_our_own_key_is_known_from_the_configuration(lists: list[KeyList], own: dict[int, str]) -> None:
    assert own_keys(9, {106: "sha256:6"}, "sha256:x", [(NOW, NOW)], lists) == own


def test_a_key_that_is_known_to_have_another_fingerprint_is_not_ours_whatever_the_configuration_says() -> None:
    listing = a_list(OTHERS, a_foreign(106))
    assert own_keys(106, {106: "sha256:6"}, "sha256:x", [(NOW, NOW)], [listing]) == GUESS


@pytest.mark.parametrize(
    ("used", "ours"),
    [
        pytest.param(None, False, id="a key that was never used is not ours"),
        pytest.param(NOW - HOUR, True, id="used when our call began"),
        pytest.param(NOW - HOUR - SECOND, True, id="used within the second before"),
        pytest.param(NOW - HOUR - 2 * SECOND, False, id="used before"),
        pytest.param(NOW - HOUR + 3 * SECOND, True, id="used within the second after it ended"),
        pytest.param(NOW - HOUR + 4 * SECOND, False, id="used later"),
        pytest.param(NOW - DAY, True, id="used at another of our calls"),
        pytest.param(NOW - MINUTE, True, id="used when the list was asked for, though other calls followed"),
        pytest.param(NOW - MINUTE - SECOND, True, id="used within the second before the list"),
        pytest.param(NOW - MINUTE - 2 * SECOND, False, id="used before the list"),
    ],
)
def test_otherwise_a_key_that_was_used_at_our_own_calls_is_taken_for_ours(used: datetime | None, ours: bool) -> None:
    listing = a_list(a_foreign(1, last_used_at=used), age=MINUTE)
    uses = [(NOW - DAY, NOW - DAY), (NOW - HOUR, NOW - HOUR + 2 * SECOND)]
    own = own_keys(None, {106: "sha256:6"}, "sha256:x", uses, [listing])
    assert own == (
        {1: "it was used when this program made its own calls; neon.api_key_id would tell for certain"} if ours else {}
    )


def test_a_key_with_another_fingerprint_is_never_taken_for_ours() -> None:
    listing = a_list(a_foreign(106, last_used_at=NOW))
    assert own_keys(None, {106: "sha256:6"}, "sha256:x", [(NOW, NOW)], [listing]) == {}


@pytest.mark.parametrize(
    ("configured", "own", "says"),
    [
        pytest.param(None, {}, "", id="none is not wrong"),
        pytest.param(9, CERTAIN_9, "", id="one that is trusted is not"),
        pytest.param(9, {106: "its fingerprint is that of the key in use"}, "", id="nor that of a key replaced since"),
        pytest.param(9, {}, "9 is in no list of the account", id="one of no key is"),
        pytest.param(9, GUESS, "9 is in no list of the account", id="and so it is when another is taken for ours"),
        pytest.param(106, GUESS, "106 is the key of a policy", id="one of another key of ours is"),
    ],
)
def test_what_is_wrong_with_the_configured_id(configured: int | None, own: dict[int, str], says: str) -> None:
    told = wrong_id(configured, own, [a_list(OTHERS, a_foreign(106))])
    assert told.startswith(says)
    assert told.endswith("shows as the key that this program authenticates with, or leave it out" if says else "")
    assert bool(told) == bool(says)


# An orphan of a state that is older than what happened

LOST = a_generation(
    7, fingerprint=None, check=Check.PENDING, checked_at=None, orphan=Orphan(NOW, "its answer was lost")
)
CREATED = an_orphan(7, check=Check.PENDING, checked_at=None)
CREATED_AT = LOST.created_at


LIVE_AT_BOTH = a_live(6, APP, VAULT)
WELL = {APP.target: "sha256:6"}


@pytest.mark.parametrize(
    ("orphan", "used", "contents", "says"),
    [
        pytest.param(LOST, None, WELL, "", id="nobody uses it, and the file is as it should be"),
        pytest.param(LOST, CREATED_AT, WELL, "was used at", id="its secret never arrived, and yet it is used"),
        pytest.param(CREATED, CREATED_AT + 5 * MINUTE, WELL, "", id="it was used when we may have checked it"),
        pytest.param(CREATED, CREATED_AT + 6 * MINUTE, WELL, "was used at", id="it was used later than that"),
        pytest.param(an_orphan(7), CREATED_AT + SECOND, WELL, "", id="it was used when we checked it"),
        pytest.param(an_orphan(7), CREATED_AT + MINUTE, WELL, "was used at", id="it was used after we checked it"),
        pytest.param(LOST, None, {APP.target: "sha256:?"}, "holds another secret", id="the file has an unknown secret"),
        pytest.param(LOST, None, {APP.target: Held.NOTHING}, "", id="the file has none"),
        pytest.param(LOST, None, {APP.target: Held.UNREADABLE}, "", id="the file cannot be read"),
        pytest.param(CREATED, None, {APP.target: "sha256:7"}, "holds another secret", id="the file has this very key"),
        pytest.param(CREATED, None, {APP.target: "sha256:?"}, "", id="the file has another that is unknown"),
    ],
)
def test_an_orphan_that_somebody_has_was_handed_on_before_the_state_was_restored(
    orphan: Generation, used: datetime | None, contents: dict[str, str], says: str
) -> None:
    record = a_record(LIVE_AT_BOTH, orphan)
    keys = seen(lists={"personal": a_list(a_key(LIVE_AT_BOTH), a_key(orphan, last_used_at=used))}, contents=contents)
    change = observe(a_policy(APP, VAULT), record, keys)
    events = [event for event in change.events if event.name == "orphan.handed_on"] if change else []
    offers = find(change.record if change else record, 107).offers
    assert [says in event.why for event in events] == [True] * bool(says)
    about = Event("orphan.handed_on", "", NAME, 7, 107, named(7))
    assert [replace(event, why="") for event in events] == [about] * bool(says)
    assert orphan.orphan is not None
    assert offers == (dict.fromkeys([APP.target, VAULT.target], Offer(orphan.orphan.since)) if says else {})


def test_it_leaves_like_any_key_that_sinks_may_have() -> None:
    record = a_record(LIVE_AT_BOTH, LOST)
    keys = seen(lists={"personal": a_list(a_key(LIVE_AT_BOTH), a_key(LOST, last_used_at=NOW))}, contents=WELL)
    change = observe(a_policy(APP, VAULT), record, keys)
    assert change is not None
    assert observe(a_policy(APP, VAULT), change.record, keys) is None, "that is said once"
    step = next_step(a_policy(APP, VAULT), change.record, keys, NOW)
    assert step.do is not Do.REVOKE, step


def test_of_a_policy_that_is_not_configured_it_stays_until_a_person_decides() -> None:
    keys = seen(lists={"personal": a_list(a_key(LOST, last_used_at=NOW))})
    change = observe(stand_in("ci"), a_record(LOST), keys)
    assert change is not None
    assert find(change.record, 107).offers.keys() == {"somebody"}


# A machine that was frozen


def test_what_was_dated_by_a_clock_that_stood_still_counts_from_when_it_went_on() -> None:
    since, until, at = NOW - 2 * HOUR, NOW - HOUR, NOW - MINUTE
    old = a_retiring(5, APP, retiring_since=until, receipts={APP.target: since}, superseded={APP.target: until})
    new = a_live(6, APP, VAULT, receipts={APP.target: since + SECOND, VAULT.target: until + SECOND})
    record = a_record(old, new)
    later = Misdated(NOW - SECOND, NOW, NOW + MINUTE)
    keys = replace(seen(record), misdated=(Misdated(since, until, at), later))
    change = observe(a_policy(), record, keys)
    assert change is not None
    (old, new) = change.record.generations
    assert (old.retiring_since, old.superseded) == (at, {APP.target: at})
    assert old.receipts == {APP.target: since}, "the answer that agreed came after it"
    assert new.receipts == {APP.target: at, VAULT.target: until + SECOND}
    assert observe(a_policy(), change.record, keys) is None, "once"
