"""The reasoning in sentences: what is said of each situation, and that it is said in sentences at all."""

from __future__ import annotations

import re
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
    an_adopted,
    an_intent,
    an_orphan,
    held,
    named,
    seen,
)

from rotator.decide import next_step
from rotator.engine import outlook_of
from rotator.explain import explain_generation, explain_policy
from rotator.model import Absence, Cron, Offer, Policy, Record
from rotator.standing import find

FAILED = {CI.target: Offer(NOW - MINUTE, 3, NOW + MINUTE, "ci.example.com answered 500")}


def told(record: Record, policy: Policy | None = None, **outside: Any) -> list[str]:
    """What `why ci` says."""
    policy = policy or a_policy()
    outlook = outlook_of(next_step(policy, record, seen(record, **outside), NOW), NOW)
    return explain_policy("ci", policy, record, outlook, NOW)


def saying(says: str, *words: str, record: Record, policy: Policy | None = None) -> Any:
    return pytest.param(record, policy, words, id=says)


LIVE = a_live(2)
SITUATIONS = [
    saying(
        "a healthy policy",
        "rotates a key of scope personal every 30d, hands it to ci, and revokes the old one 1d later.",
        f"The live key is {named(2)} (id 102, generation 2), 8d old.",
        "is due at 2026-12-15 12:00:00 UTC",
        "It is decided again at 2026-12-15 12:00:00 UTC.",
        record=a_record(LIVE),
    ),
    saying(
        "several sinks, jitter and cron",
        "at '0 3 * * 1' (Europe/Berlin), with up to 1h of jitter, hands it to app, ci and vault,",
        record=a_record(a_live(2, APP, CI, VAULT)),
        policy=a_policy(APP, CI, VAULT, rotate=Cron("0 3 * * 1", "Europe/Berlin"), jitter=HOUR),
    ),
    saying(
        "a key that everybody has",
        f"{named(3)} (id 103) is on its way; every sink has receipted it.",
        record=a_record(LIVE, a_generation(3, receipts={CI.target: NOW})),
    ),
    saying("no key yet", "Policy ci has no live key yet.", record=a_record()),
    saying("an adopted key", "(id 50, adopted), 20d old", record=a_record(an_adopted())),
    saying(
        "a live key that is gone",
        "it is gone from Neon's list, so its consumers cannot use it",
        record=a_record(a_live(2, absence=Absence(2, NOW - HOUR, NOW))),
    ),
    saying(
        "a key on its way",
        f"{named(3)} (id 103) is on its way; it has no receipt from ci and vault yet.",
        record=a_record(a_live(2, APP, CI, VAULT), a_generation(3, receipts={APP.target: NOW})),
        policy=a_policy(APP, CI, VAULT),
    ),
    saying(
        "an old key in its grace period",
        "is retiring since 2026-11-23 11:00:00 UTC; its grace period ends at 2026-11-24 11:00:00 UTC",
        "no use of it by others is known",
        record=a_record(a_retiring(1, since=NOW - HOUR), LIVE),
    ),
    saying(
        "an old key that is in use",
        "its grace period ended at 2026-11-22 12:00:00 UTC",
        "it was last used at 2026-11-23 11:30:00 UTC from 203.0.113.7 and 2001:db8::1.",
        "It must have been unused for 1h before it is revoked.",
        record=a_record(
            a_retiring(1, last_used_at=NOW - 30 * MINUTE, last_used_from=("203.0.113.7", "2001:db8::1")), LIVE
        ),
    ),
    saying(
        "a key that is held",
        "It is held since 2026-11-23 11:00:00 UTC: somebody uses it.",
        record=a_record(a_retiring(1, held=held("somebody uses it")), LIVE),
    ),
    saying(
        "an orphan that nobody has",
        "is an orphan since 2026-11-14 12:00:00 UTC: the process died; no sink was offered it, so it is revoked",
        record=a_record(an_orphan(1), LIVE),
    ),
    saying(
        "an orphan that somebody may have",
        "the process died; some sink may have it.",
        record=a_record(an_orphan(1, CI), LIVE),
    ),
    saying(
        "an answer that was lost",
        f"Whether Neon created {named(3)} is not known yet; the next list tells.",
        record=a_record(LIVE, intent=an_intent(3)),
    ),
    saying(
        "one failure", "The last attempt failed with: the sink is down.", record=a_record(LIVE, failure=a_failure())
    ),
    saying(
        "several failures",
        "The last 3 attempts failed, the last one with: ci.example.com answered 500.",
        record=a_record(LIVE, a_generation(3, offers=FAILED)),
    ),
    saying(
        "keys that were lost",
        "The last 4 attempts failed, the last one with: the new key, or Neon's answer to its creation, was lost",
        record=a_record(LIVE, lost=4, lost_retry_at=NOW + HOUR),
    ),
    saying(
        "a pause",
        "It is paused: nothing is created or revoked until it is resumed.",
        record=a_record(LIVE, paused=True),
    ),
]


@pytest.mark.parametrize(("record", "policy", "words"), SITUATIONS)
def test_what_is_said_of_a_policy(record: Record, policy: Policy | None, words: tuple[str, ...]) -> None:
    text = " ".join(told(record, policy))
    for expected in words:
        assert expected in text


@pytest.mark.parametrize(("record", "policy", "words"), SITUATIONS)
def test_it_is_said_in_sentences(record: Record, policy: Policy | None, words: tuple[str, ...]) -> None:
    for sentence in told(record, policy):
        assert re.fullmatch(r"\S.*\S\.", sentence), sentence
        assert ".." not in sentence
        assert "None" not in sentence


def test_the_last_sentence_is_the_decision() -> None:
    record = a_record(LIVE)
    step = next_step(a_policy(), record, seen(record), NOW)
    assert told(record)[-1].startswith(f"Next: {step.why}.")


def test_a_policy_that_the_service_has_not_met_says_so() -> None:
    sentences = explain_policy("ci", a_policy(), a_record(), {}, NOW)
    assert sentences[-1] == "Nothing was decided yet: the service has not run with this policy."


@pytest.mark.parametrize(
    ("record", "left"),
    [(a_record(a_live(1), LIVE), f"{named(1)} (id 101) and {named(2)} (id 102)"), (a_record(), "no key")],
    ids=["with keys", "without"],
)
def test_a_policy_that_is_gone_names_what_it_left(record: Record, left: str) -> None:
    (sentence,) = explain_policy("ci", None, record, {}, NOW)
    assert f"is no longer in the configuration; it left {left}." in sentence


@pytest.mark.parametrize(
    ("key_id", "words"),
    [
        (104, "The live key is"),
        (103, "is retiring since"),
        (102, "is an orphan since"),
        (105, "is on its way to the sinks."),
    ],
)
def test_why_a_key_is_still_there(key_id: int, words: str) -> None:
    record = a_record(an_orphan(2), a_retiring(3), a_live(4), a_generation(5))
    sentence = explain_generation(a_policy(), record, find(record, key_id), NOW)
    assert words in sentence
    assert f"id {key_id}" in sentence


def test_a_key_retiring_longer_than_its_grace_is_told_in_the_past() -> None:
    record = a_record(a_retiring(1, since=NOW - 3 * DAY), LIVE)
    assert "its grace period ended at" in explain_generation(a_policy(), record, find(record, 101), NOW)
