"""What holds of every decision, however odd the record, the lists and the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, time, timedelta
from typing import Any

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
    VAULT,
    a_closed_name,
    a_failure,
    a_foreign,
    a_generation,
    a_key,
    a_list,
    a_live,
    a_policy,
    a_record,
    a_retiring,
    a_revoke_order,
    a_rotation,
    an_intent,
    an_order,
    asked,
    held,
    seen,
)
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from rotator.decide import last_step, next_step
from rotator.model import (
    Absence,
    Check,
    Condemned,
    Do,
    Generation,
    Held,
    Hold,
    Keys,
    Offer,
    OnMissing,
    Orphan,
    Policy,
    Record,
    Step,
    Then,
    Window,
)
from rotator.observe import observe
from rotator.revocation import revoke_steps

from .rules import against_revoking_by_rule, against_touching, is_fresh

ORDERS = (
    an_order(1),
    an_order(2, leaked=True),
    an_order(3, leaked=True, now=True),
    a_revoke_order(103, 4),
    an_order(5, at=NOW - DAY),
)
SINKS = (APP, CI, VAULT)
TARGETS = [sink.target for sink in SINKS]
moments = st.sampled_from([-MINUTE, -SECOND, 0 * DAY, SECOND, MINUTE, HOUR, DAY, 2 * DAY, 9 * DAY, 40 * DAY]).map(
    lambda ago: NOW - ago
)
past = st.sampled_from([SECOND, 29 * SECOND, MINUTE, HOUR, DAY - SECOND, DAY, 2 * DAY, 9 * DAY]).map(
    lambda ago: NOW - ago
)
rarely = st.sampled_from([False, False, False, False, True])
often = rarely.map(lambda value: not value)
some_targets = st.sets(st.sampled_from(TARGETS))


@st.composite
def offers(draw: st.DrawFn) -> dict[str, Offer]:
    at = draw(past)
    retry_at = draw(st.none() | moments)
    return {target: Offer(at, draw(st.integers(0, 2)), retry_at, "it failed") for target in draw(some_targets)}


@st.composite
def generations(draw: st.DrawFn, number: int) -> Generation:
    scope = draw(st.sampled_from([PERSONAL, PERSONAL, ORG, PROJECT]))
    kind = draw(st.sampled_from(["live", "live", "retiring", "retiring", "orphan", "orphan", "new"]))
    created_at = NOW - (20 - number) * DAY
    changes: dict[str, Any] = {
        "scope": scope,
        "recorded_at": created_at,
        "created_at": created_at,
        "check": draw(st.sampled_from([Check.PASSED] * 5 + [Check.REFUSED, Check.PENDING, Check.INCONCLUSIVE])),
        "condemned": draw(st.sampled_from([None] * 6 + [Condemned.NOW, Condemned.AT_LIVE])),
        "last_used_at": draw(st.none() | moments),
        "last_used_from": draw(st.sampled_from([(), ("203.0.113.7",)])),
        "longest_gap": draw(st.sampled_from([None, MINUTE, HOUR, DAY])),
        "checked_at": draw(st.none() | past),
        "offers": draw(offers()),
        "absence": draw(st.sampled_from([None] * 6 + [Absence(1, NOW, NOW), Absence(2, NOW, NOW)])),
        "held": draw(st.sampled_from([None, None, held(), held(overdue=True)])),
        "revocation": draw(
            st.sampled_from(
                [None] * 5
                + [asked(), asked(ended_at=NOW - SECOND, retry_at=NOW), asked(ended_at=NOW, retry_at=NOW + MINUTE)]
            )
        ),
    }
    if number == 0:
        changes |= {"adopted": True, "fingerprint": None, "offers": {}, "excused": tuple(draw(some_targets))}
    if kind in ("live", "retiring"):
        changes |= {"live_since": draw(past)}
        changes |= {"receipts": dict.fromkeys(draw(st.sampled_from([TARGETS, TARGETS, TARGETS[:2]])), NOW - DAY)}
    if kind == "retiring":
        changes |= {"retiring_since": draw(past)}
    if kind == "orphan":
        changes |= {"orphan": Orphan(created_at, "it was lost")}
        taken = [t for t in changes["offers"] if draw(often)]
        changes |= {"superseded": {target: draw(past) for target in taken}}
    return a_generation(number, **changes)


@st.composite
def records(draw: st.DrawFn) -> Record:
    numbers = sorted(draw(st.sets(st.integers(0, 7), max_size=5)))
    known = [draw(generations(number)) for number in numbers]
    return a_record(
        *known,
        intent=an_intent(9, ended_at=draw(st.none() | moments)) if draw(rarely) else None,
        rotation=a_rotation(urgent=draw(st.booleans()), ordered=draw(st.booleans())) if draw(rarely) else None,
        failure=a_failure(retry_at=draw(moments)) if draw(rarely) else None,
        lost=draw(st.integers(0, 3)),
        lost_retry_at=draw(st.none() | moments),
        offered=dict.fromkeys(draw(some_targets), draw(moments)) if draw(rarely) else {},
        gone={CI.target: CI.settings} if draw(rarely) else {},
        closed=(a_closed_name(8),) if draw(rarely) else (),
        paused=draw(rarely) and draw(st.booleans()),
        orders=tuple(draw(st.lists(st.sampled_from(ORDERS), max_size=2 if draw(rarely) else 0, unique=True))),
        next_generation=10,
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    hold = Hold(
        while_old_key_used_within=draw(st.sampled_from([None, None, timedelta(0), MINUTE, 2 * DAY])),
        until_new_key_used=draw(rarely),
        at_most=draw(st.sampled_from([HOUR, 7 * DAY])),
        then=draw(st.sampled_from(Then)),
    )
    return a_policy(
        *draw(st.sampled_from([(APP, CI), (CI,), SINKS])),
        scope=draw(st.sampled_from([PERSONAL, PERSONAL, ORG, PROJECT])),
        grace=draw(st.sampled_from([MINUTE, HOUR, DAY])),
        hold=hold,
        window=draw(st.sampled_from([None, None, Window(frozenset({0, 3}), time(11), time(13), "UTC")]))
        if draw(often)
        else Window(frozenset({4}), time(23), time(2), "Europe/Berlin"),
        on_missing=draw(st.sampled_from(OnMissing)),
        paused=draw(rarely) and draw(rarely),
        adopt=draw(st.sampled_from([None, None, None, 50, 100])),
    )


@st.composite
def looks(draw: st.DrawFn, record: Record) -> Keys:
    lists = {}
    for account in ("personal", "org-a"):
        listed = []
        for generation in record.generations:
            if generation.scope.account == account and draw(often):
                key = a_key(generation)
                if draw(rarely) and draw(rarely):
                    key = replace(key, name=draw(st.sampled_from(["look-alike", generation.name + "x"])))
                if draw(rarely) and draw(rarely):
                    key = replace(key, project="proj-9")
                listed.append(key)
        if draw(often):
            age = draw(st.sampled_from([0 * DAY, SECOND, 30 * SECOND, 31 * SECOND, HOUR, -SECOND]))
            doubt = "it is doubted" if draw(rarely) and draw(rarely) else ""
            foreign = (a_foreign(7), a_foreign(50, "x"), a_foreign(8, "ci-20200101T000000Z-aaaaaa"))
            lists[account] = a_list(*listed, *foreign, account=account, age=age, doubt=doubt)
    ids = [generation.key_id for generation in record.generations]
    current = max((g for g in record.generations if g.live_since and not g.retiring_since), key=_order, default=None)
    healthy = current.fingerprint if current is not None and current.fingerprint else Held.NOTHING.value
    return Keys(
        lists=lists,
        unreadable={"org-a": "HTTP 503"} if draw(rarely) and draw(rarely) else {},
        since=NOW - DAY,
        in_hand=frozenset(i for i in ids if draw(often)),
        contents={APP.target: draw(st.sampled_from([healthy] * 5 + [Held.NOTHING, Held.UNREADABLE, "sha256:x"]))}
        if draw(often)
        else {},
        own={i: "it is ours" for i in ids if draw(rarely) and draw(rarely)},
        owners={i: "other" for i in ids if draw(rarely) and draw(rarely)},
        distrust="the clock jumped" if draw(rarely) and draw(rarely) else "",
    )


def _order(generation: Generation) -> tuple[int, datetime]:
    return generation.number, generation.created_at


@st.composite
def situations(draw: st.DrawFn) -> tuple[Policy, Record, Keys]:
    record = draw(records())
    return draw(policies()), record, draw(looks(record))


def the_key(record: Record, step: Step) -> Generation:
    found = [g for g in record.generations if g.key_id == step.key_id]
    assert len(found) == 1, "the subject is a key of this record"
    return found[0]


THOROUGH = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@THOROUGH
@given(situations())
def test_every_decision(situation: tuple[Policy, Record, Keys]) -> None:
    policy, record, keys = situation
    step = next_step(policy, record, keys, NOW)
    event(step.do.value)
    assert step.why
    assert step == next_step(policy, record, keys, NOW), "it hangs on nothing but its arguments"
    if step.do in (Do.WAIT, Do.REFUSE):
        assert step.until is None or step.until > NOW
        assert step.until is not None or step.at_poll, "somebody wakes it"
    if step.do is Do.MINT:
        unfinished = [g for g in record.generations if not g.live_since and not g.orphan]
        assert record.intent is None
        assert not unfinished
        assert not policy.paused
        assert not record.paused
    if step.do is Do.DELIVER:
        generation = the_key(record, step)
        assert generation.key_id in keys.in_hand
        assert generation.check is not Check.REFUSED
        assert generation.condemned is not Condemned.NOW


Case = tuple[Policy, Record, Keys]


def _old(**changes: Any) -> Callable[[Case], Case]:
    """The older key is otherwise."""
    return lambda case: (
        case[0],
        replace(case[1], generations=(replace(case[1].generations[0], **changes), *case[1].generations[1:])),
        case[2],
    )


def _live(**changes: Any) -> Callable[[Case], Case]:
    """The live key is otherwise."""
    return lambda case: (
        case[0],
        replace(case[1], generations=(*case[1].generations[:-1], replace(case[1].generations[-1], **changes))),
        case[2],
    )


def _policy(**changes: Any) -> Callable[[Case], Case]:
    return lambda case: (replace(case[0], **changes), case[1], case[2])


def _hold(**changes: Any) -> Callable[[Case], Case]:
    return lambda case: (replace(case[0], hold=replace(case[0].hold, **changes)), case[1], case[2])


def _seen(**changes: Any) -> Callable[[Case], Case]:
    return lambda case: (case[0], case[1], replace(case[2], **changes))


def _listed(key_id: int, **changes: Any) -> Callable[[Case], Case]:
    """Neon lists the key otherwise, or not at all."""

    def change(case: Case) -> Case:
        listing = case[2].lists.get("personal")
        if listing is None:
            return case
        keys = {i: replace(key, **changes) if i == key_id else key for i, key in listing.keys.items()}
        if not changes:
            keys.pop(key_id, None)
        return case[0], case[1], replace(case[2], lists={"personal": replace(listing, keys=keys)})

    return change


def _list(**changes: Any) -> Callable[[Case], Case]:
    return lambda case: (
        case[0],
        case[1],
        replace(case[2], lists={name: replace(known, **changes) for name, known in case[2].lists.items()}),
    )


OLD, NEW = 105, 107
TWISTS: dict[str, Callable[[Case], Case]] = {
    "in its grace": _old(retiring_since=NOW - HOUR, superseded={APP.target: NOW - HOUR, CI.target: NOW - DAY}),
    "not superseded": _old(superseded={CI.target: NOW - 2 * DAY}),
    "just out of its grace": _old(retiring_since=NOW - DAY, superseded=dict.fromkeys(TARGETS, NOW - DAY)),
    "long out of its grace": _old(
        retiring_since=NOW - 9 * DAY, superseded=dict.fromkeys(TARGETS, NOW - 9 * DAY), recorded_at=NOW - 20 * DAY
    ),
    "in use": _old(last_used_at=NOW - MINUTE),
    "in use until an hour ago": _old(last_used_at=NOW - HOUR),
    "used by us": _old(last_used_at=NOW - MINUTE, checked_at=NOW - MINUTE - SECOND),
    "used often": _old(last_used_at=NOW - 3 * HOUR, longest_gap=2 * HOUR),
    "an orphan": _old(orphan=Orphan(NOW - 5 * DAY, "lost"), live_since=None, retiring_since=None),
    "leaked": _old(condemned=Condemned.AT_LIVE),
    "condemned": _old(condemned=Condemned.NOW),
    "newer than the live key": _old(number=8),
    "was asked for": _old(revocation=asked()),
    "pauses": _old(revocation=asked(ended_at=NOW - SECOND, retry_at=NOW + SECOND)),
    "in another account": _old(scope=ORG),
    "in another project": _old(scope=PROJECT),
    "the live key is refused": _live(check=Check.REFUSED),
    "the live key is missing": _live(absence=Absence(2, NOW, NOW)),
    "the live key was missing once": _live(absence=Absence(1, NOW, NOW)),
    "the live key retires": _live(retiring_since=NOW - DAY),
    "the live key lacks a receipt": _live(receipts={APP.target: NOW - 2 * DAY}),
    "the live key is used": _live(last_used_at=NOW - HOUR),
    "the live key is used by us": _live(last_used_at=NOW - HOUR, checked_at=NOW - HOUR),
    "a sink more": _policy(deliver_to=(APP, CI, VAULT)),
    "a sink less": _policy(deliver_to=(APP,)),
    "a closed window": _policy(window=Window(frozenset({0}), time(13), time(14), "UTC")),
    "an open window": _policy(window=Window(frozenset({0}), time(11), time(14), "UTC")),
    "a long grace": _policy(grace_period=3 * DAY),
    "a short grace": _policy(grace_period=MINUTE),
    "paused": _policy(paused=True),
    "then revoke": _hold(then=Then.REVOKE),
    "then revoke, soon": _hold(then=Then.REVOKE, at_most=HOUR),
    "the new key must be used": _hold(until_new_key_used=True),
    "use does not matter": _hold(while_old_key_used_within=timedelta(0)),
    "use matters long": _hold(while_old_key_used_within=5 * DAY),
    "an old list": _list(requested_at=NOW - 31 * SECOND),
    "a list of 30 s": _list(requested_at=NOW - 30 * SECOND),
    "a list from the future": _list(requested_at=NOW + SECOND),
    "a doubtful list": _list(doubt="it is doubted"),
    "no list": _seen(lists={}),
    "an unreadable list": _seen(unreadable={"personal": "HTTP 503"}),
    "not in the list": _listed(OLD),
    "another name": _listed(OLD, name="look-alike"),
    "another project": _listed(OLD, project="proj-9"),
    "the live key is not in the list": _listed(NEW),
    "the file was not read": _seen(contents={}),
    "the file lost it": _seen(contents={APP.target: Held.NOTHING}),
    "the file holds the old key": _seen(contents={APP.target: "sha256:5"}),
    "the file holds another": _seen(contents={APP.target: "sha256:foreign"}),
    "our own key": _seen(own={OLD: "it is ours"}),
    "another's key": _seen(owners={OLD: "other"}),
    "a clock that jumped": _seen(distrust="the clock jumped"),
}


def ready() -> Case:
    """Generation 5 may be revoked: 7 is live, everywhere and listed."""
    old = a_retiring(5, APP, CI, since=NOW - 2 * DAY)
    record = a_record(old, a_live(7, APP, CI))
    return a_policy(APP, CI), record, seen(record, a_foreign(7))


@settings(max_examples=2500, deadline=None)
@given(st.lists(st.sampled_from(sorted(TWISTS)), max_size=4, unique=True))
@example([])
def test_what_is_revoked(twists: list[str]) -> None:
    """A key is revoked if, and only if, every condition holds that it needs."""
    case = ready()
    for twist in twists:
        case = TWISTS[twist](case)
    policy, record, keys = case
    old = record.generations[0]
    steps = list(revoke_steps(policy, record, keys, NOW))
    revoked = any(step.do is Do.REVOKE and step.key_id == OLD for step in steps)
    missing = against_touching(keys, old, NOW)
    lives = [g for g in record.generations if g.live_since and not g.retiring_since and g.number > old.number]
    if old.condemned is Condemned.NOW:
        pass
    elif old.condemned is Condemned.AT_LIVE and lives:
        new_list = keys.lists.get(lives[0].scope.account)
        missing += [] if new_list and lives[0].key_id in new_list.keys else ["the later generation is in the list"]
        missing += [] if new_list and is_fresh(new_list, NOW) else ["that list is fresh and believed"]
    else:
        missing += against_revoking_by_rule(policy, record, keys, old, NOW)
    pauses = old.revocation is not None and old.revocation.retry_at is not None
    postponed = policy.paused or pauses or keys.unreadable != {}
    assert revoked == (not missing and not postponed), (steps, missing)


@pytest.mark.parametrize("twist", sorted(TWISTS))
def test_each_twist_by_itself(twist: str) -> None:
    test_what_is_revoked.hypothesis.inner_test([twist])  # type: ignore[attr-defined]


@THOROUGH
@given(situations())
def test_what_is_revoked_of_a_policy_that_is_not_configured_any_more(situation: tuple[Policy, Record, Keys]) -> None:
    _, record, keys = situation
    step = last_step(record, keys, NOW)
    assert step.do not in (Do.MINT, Do.VERIFY, Do.DELIVER, Do.GO_LIVE, Do.ADOPT, Do.HOLD, Do.RELEASE)
    if step.do is Do.REVOKE:
        generation = the_key(record, step)
        assert against_touching(keys, generation, NOW) == []
        assert generation.condemned or (generation.orphan and not generation.offers)


@THOROUGH
@given(situations())
def test_observing_twice_is_observing_once(situation: tuple[Policy, Record, Keys]) -> None:
    policy, record, keys = situation
    change = observe(policy, record, keys)
    if change is not None:
        assert observe(policy, change.record, keys) is None
        assert {g.key_id for g in change.record.generations} == {g.key_id for g in record.generations}
        for before, after in zip(record.generations, change.record.generations, strict=True):
            assert before.last_used_at is None or (after.last_used_at or NOW) >= before.last_used_at
