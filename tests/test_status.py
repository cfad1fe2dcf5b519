"""How a policy is doing, in one word and as a document: a table of situations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    APP,
    CI,
    DAY,
    HOUR,
    MINUTE,
    NOW,
    VAULT,
    a_failure,
    a_generation,
    a_live,
    a_policy,
    a_record,
    a_retiring,
    a_rotation,
    an_adopted,
    an_intent,
    an_orphan,
    asked,
    held,
    named,
    seen,
)

from rotator.decide import last_step, next_step
from rotator.engine import outlook_of
from rotator.explain import explain_policy
from rotator.model import Absence, Do, Offer, Policy, Record, Step
from rotator.status import PolicyState, instant, needs_a_person, policy_status, status_document

GONE = Absence(2, NOW - HOUR, NOW)
FAILED = {CI.target: Offer(NOW - MINUTE, 3, NOW + MINUTE, "ci.example.com answered 500")}
USED = {"last_used_at": NOW - HOUR, "last_used_from": ("203.0.113.7",)}


def decided(policy: Policy | None, record: Record) -> Mapping[str, Any]:
    """What the engine would have noted."""
    step = next_step(policy, record, seen(record), NOW) if policy else last_step(record, seen(record), NOW)
    return outlook_of(step, NOW)


def doing(
    says: str,
    state: str,
    record: Record,
    *,
    policy: Policy | None = a_policy(),  # noqa: B008 - frozen
    person: bool = False,
    failures: int = 0,
    outlook: Mapping[str, Any] | None = None,
) -> Any:
    return pytest.param(
        policy, record, decided(policy, record) if outlook is None else outlook, state, person, failures, id=says
    )


WAITING = outlook_of(Step(Do.WAIT, "Neon's list cannot be read", coming=Do.MINT), NOW)
REFUSED = outlook_of(Step(Do.REFUSE, "a person is needed"), NOW)
LIVE = a_live(2)


@pytest.mark.parametrize(
    ("policy", "record", "outlook", "state", "person", "failures"),
    [
        doing("a live key and nothing else", "ok", a_record(LIVE)),
        doing("an adopted key", "ok", a_record(an_adopted())),
        doing("nothing decided yet", "rotating", a_record(), outlook={}),
        doing("a first key that waits for something", "rotating", a_record(), outlook=WAITING),
        doing("a first key while it is paused", "paused", a_record(paused=True)),
        doing("an old key in its grace period", "retiring", a_record(a_retiring(1), LIVE)),
        doing("an orphan that somebody may have", "retiring", a_record(an_orphan(1, CI), LIVE)),
        doing("an old key that is in use", "held", a_record(a_retiring(1, held=held()), LIVE)),
        doing("one held for too long", "held", a_record(a_retiring(1, held=held(overdue=True)), LIVE), person=True),
        doing("a creation under way", "rotating", a_record(LIVE, intent=an_intent(3))),
        doing("a rotation begun", "rotating", a_record(LIVE, rotation=a_rotation())),
        doing("a key on its way to the sinks", "rotating", a_record(LIVE, a_generation(3))),
        doing(
            "rotating while an older one is held",
            "rotating",
            a_record(a_retiring(1, held=held()), LIVE, a_generation(3)),
        ),
        doing("a first key under way", "rotating", a_record(a_generation(1))),
        doing("paused by an operator", "paused", a_record(LIVE, paused=True)),
        doing("paused in the configuration", "paused", a_record(LIVE), policy=a_policy(paused=True)),
        doing("paused with a rotation begun", "paused", a_record(LIVE, rotation=a_rotation(), paused=True)),
        doing(
            "a hand-off that failed", "failing", a_record(LIVE, a_generation(3, offers=FAILED)), person=True, failures=3
        ),
        doing("a creation that failed", "failing", a_record(LIVE, failure=a_failure(count=2)), person=True, failures=2),
        doing(
            "a creation that failed while paused",
            "failing",
            a_record(LIVE, failure=a_failure(), paused=True),
            person=True,
            failures=1,
        ),
        doing(
            "a revocation that failed",
            "failing",
            a_record(a_retiring(1, revocation=asked(failures=4, error="no answer")), LIVE),
            person=True,
            failures=4,
        ),
        doing("one lost key, minted again at once", "rotating", a_record(LIVE, lost=1, rotation=a_rotation())),
        doing(
            "keys lost again and again",
            "failing",
            a_record(LIVE, lost=3, lost_retry_at=NOW + HOUR, rotation=a_rotation()),
            person=True,
            failures=3,
        ),
        doing("a refusal", "refused", a_record(LIVE), person=True, outlook=REFUSED),
        doing(
            "a refusal while failing",
            "refused",
            a_record(failure=a_failure()),
            person=True,
            failures=1,
            outlook=REFUSED,
        ),
        doing("a sink that holds another secret", "drifted", a_record(LIVE, drifted=(APP.target,)), person=True),
        doing("a live key that is gone", "missing", a_record(a_live(2, absence=GONE)), person=True),
        doing("gone and drifted", "missing", a_record(a_live(2, absence=GONE), drifted=(APP.target,)), person=True),
        doing("missing once, which may be an error", "ok", a_record(a_live(2, absence=Absence(1, NOW, NOW)))),
        doing("taken out of the configuration", "abandoned", a_record(LIVE), policy=None),
        doing(
            "taken out while failing", "abandoned", a_record(a_generation(3, offers=FAILED)), policy=None, failures=3
        ),
    ],
)
def test_one_word_says_how_a_policy_is_doing_and_whether_a_person_is_needed(
    policy: Policy | None, record: Record, outlook: Mapping[str, Any], state: str, person: bool, failures: int
) -> None:
    told = policy_status("ci", policy, record, outlook)
    assert told["state"] == state
    assert told["failures"] == failures
    assert (told["last_error"] is None) == (failures == 0)
    assert needs_a_person({"policies": [told]}) is person


def test_the_words_are_those_of_the_documentation() -> None:
    assert {state.value for state in PolicyState} == {
        *("ok", "rotating", "retiring", "held", "failing", "missing", "drifted", "paused", "refused", "abandoned")
    }


def test_a_policy_is_told_as_the_documentation_has_it() -> None:
    policy = a_policy(APP, CI)
    retiring = a_retiring(
        6, APP, CI, since=NOW - 2 * DAY, held=held("it was used an hour ago", since=NOW - DAY), **USED
    )
    record = a_record(retiring, a_live(7, APP, CI))

    assert policy_status("ci", policy, record, decided(policy, record)) == {
        "policy": "ci",
        "state": "held",
        "live": {
            "id": 107,
            "name": named(7),
            "generation": 7,
            "created_at": "2026-11-20T12:00:00Z",
            "since": "2026-11-20T12:00:00Z",
            "fingerprint": "sha256:7",
        },
        "older": [
            {
                "id": 106,
                "name": named(6),
                "generation": 6,
                "role": "held",
                "revoke_at": "2026-11-22T12:00:00Z",
                "held": {
                    "since": "2026-11-22T12:00:00Z",
                    "why": "it was used an hour ago",
                    "overdue": False,
                    "last_used_at": "2026-11-23T11:00:00Z",
                    "addresses": ["203.0.113.7"],
                },
            }
        ],
        "waiting_for": [],
        "next": {"step": "wait", "at": None, "why": decided(policy, record)["why"]},
        "failures": 0,
        "last_error": None,
    }


def test_an_empty_policy_has_null_for_what_is_absent() -> None:
    assert policy_status("ci", a_policy(), a_record(), {}) == {
        "policy": "ci",
        "state": "rotating",
        "live": None,
        "older": [],
        "waiting_for": [],
        "next": None,
        "failures": 0,
        "last_error": None,
    }


def test_the_sinks_that_a_new_key_waits_for_are_named_in_order() -> None:
    policy = a_policy(APP, CI, VAULT)
    coming = a_generation(3, receipts={APP.target: NOW}, offers={APP.target: Offer(NOW)} | FAILED)
    told = policy_status("ci", policy, a_record(a_live(2, APP, CI, VAULT), coming), {})
    assert told["waiting_for"] == ["ci", "vault"]
    assert told["last_error"] == "ci.example.com answered 500"


@dataclass(frozen=True)
class Next:
    do: Do
    coming: Do | None
    step: str


@pytest.mark.parametrize(
    "case",
    [
        Next(Do.WAIT, Do.MINT, "mint"),
        Next(Do.WAIT, Do.DELIVER, "deliver"),
        Next(Do.WAIT, Do.REVOKE, "revoke"),
        Next(Do.WAIT, None, "wait"),
        Next(Do.REFUSE, None, "refuse"),
        Next(Do.REFUSE, Do.MINT, "refuse"),
        Next(Do.MINT, None, "mint"),
        Next(Do.LOOK, None, "wait"),
        Next(Do.VERIFY, None, "wait"),
    ],
    ids=str,
)
def test_what_comes_next_is_one_of_five_words(case: Next) -> None:
    """When, too; but for a person nobody can tell."""
    outlook = outlook_of(Step(case.do, "so it is", until=NOW + DAY, coming=case.coming), NOW)
    told = policy_status("ci", a_policy(), a_record(LIVE), outlook)
    at = None if case.step == "refuse" else "2026-11-24T12:00:00Z"
    assert told["next"] == {"step": case.step, "at": at, "why": "so it is"}


BEFORE = outlook_of(Step(Do.WAIT, "decided before", until=NOW, coming=Do.MINT), NOW - HOUR)
SINCE = outlook_of(Step(Do.WAIT, "decided since", coming=Do.DELIVER), NOW)
ON_ITS_WAY = a_generation(3, recorded_at=NOW - MINUTE)
UNDER_WAY = f"{named(3)} is on its way to the sinks; it has no receipt from ci yet"


@pytest.mark.parametrize(
    ("record", "outlook", "step", "why"),
    [
        pytest.param(a_record(ON_ITS_WAY), {}, "deliver", UNDER_WAY, id="a first hand-off"),
        pytest.param(a_record(LIVE, ON_ITS_WAY), BEFORE, "deliver", UNDER_WAY, id="a hand-off since the last decision"),
        pytest.param(a_record(LIVE, ON_ITS_WAY), SINCE, "deliver", "decided since", id="one decided about since"),
        pytest.param(
            a_record(intent=an_intent(1)), {}, "mint", f"whether Neon created {named(1)} is not known yet", id="a POST"
        ),
        pytest.param(a_record(LIVE), BEFORE, "mint", "decided before", id="nothing"),
    ],
)
def test_what_is_under_way_since_the_last_decision_comes_next(
    record: Record, outlook: Mapping[str, Any], step: str, why: str
) -> None:
    told = policy_status("ci", a_policy(), record, outlook)["next"]
    assert (told["step"], told["why"]) == (step, why)
    assert any(why in sentence for sentence in explain_policy("ci", a_policy(), record, outlook, NOW))


@pytest.mark.parametrize(
    ("record", "step", "at"),
    [
        pytest.param(a_record(LIVE), "mint", NOW + 22 * DAY, id="a rotation"),
        pytest.param(a_record(a_retiring(1, since=NOW - HOUR), LIVE), "revoke", NOW + 23 * HOUR, id="a revocation"),
        pytest.param(
            a_record(LIVE, a_generation(3, recorded_at=NOW, offers=FAILED)), "deliver", NOW + MINUTE, id="a hand-off"
        ),
    ],
)
def test_the_next_step_is_that_of_the_decision(record: Record, step: str, at: Any) -> None:
    keys = seen(record, in_hand=frozenset(g.key_id for g in record.generations))
    outlook = outlook_of(next_step(a_policy(), record, keys, NOW), NOW)
    told = policy_status("ci", a_policy(), record, outlook)["next"]
    assert (told["step"], told["at"]) == (step, instant(at))


# The document


def test_the_document_tells_every_policy_and_those_gone_that_left_keys() -> None:
    records = {
        "ci": a_record(LIVE),
        "old": a_record(a_live(1)),
        "asked": a_record(intent=an_intent(1)),
        "empty": a_record(),
    }
    document = status_document(
        {"ci": a_policy(), "new": a_policy()}, records, {}, as_of=NOW, leader=True, head="sha256:0"
    )
    assert {key: document[key] for key in ("as_of", "leader", "history_head")} == {
        "as_of": "2026-11-23T12:00:00Z",
        "leader": True,
        "history_head": "sha256:0",
    }
    assert [(told["policy"], told["state"]) for told in document["policies"]] == [
        ("ci", "ok"),
        ("new", "rotating"),
        ("asked", "abandoned"),
        ("old", "abandoned"),
    ]


def test_a_state_that_nobody_has_used_yet_has_no_time() -> None:
    document = status_document({}, {}, {}, as_of=None, leader=False, head="sha256:0")
    assert document == {"as_of": None, "leader": False, "history_head": "sha256:0", "policies": []}
    assert not needs_a_person(document)


def test_times_are_told_in_utc_and_whole_seconds() -> None:
    berlin = (NOW + timedelta(microseconds=999_999)).astimezone()
    assert instant(berlin) == "2026-11-23T12:00:00Z"
    assert instant(None) is None
