"""Which keys are unused, and what each key of an account is there for."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import (
    CI,
    DAY,
    HOUR,
    NOW,
    ORG,
    PROJECT,
    SECOND,
    a_closed_name,
    a_foreign,
    a_generation,
    a_key,
    a_list,
    a_live,
    a_policy,
    a_record,
    a_retiring,
    an_adopted,
    an_intent,
    an_orphan,
    held,
)

from rotator.model import Generation, Key, Record
from rotator.usage import KeyReport, Role, UnusedRule, accounts_in_use, inventory, role_of

RULE = UnusedRule(90 * DAY, ("terraform-*",))


def report_of(
    key: Key, record: Record | None = None, own: dict[int, str] | None = None, rule: UnusedRule = RULE
) -> KeyReport:
    records = {"ci": record} if record is not None else {}
    (report,) = inventory([a_list(key)], records, ["ci"], own or {}, rule, NOW)
    return report


@pytest.mark.parametrize(
    ("generation", "role"),
    [
        pytest.param(a_live(6), Role.LIVE, id="the newest live one"),
        pytest.param(a_generation(7), Role.LIVE, id="one on its way to the sinks"),
        pytest.param(a_retiring(5), Role.RETIRING, id="one that retires"),
        pytest.param(a_retiring(5, held=held()), Role.HELD, id="one that is held"),
        pytest.param(an_orphan(7, CI), Role.ORPHAN, id="an orphan"),
        pytest.param(an_orphan(7, CI, held=held()), Role.ORPHAN, id="an orphan that is held"),
    ],
)
def test_roles(generation: Generation, role: Role) -> None:
    known = generation if generation.number == 6 else a_live(6)
    record = a_record(*{known.number: known, generation.number: generation}.values())
    assert role_of(record, generation) is role
    report = report_of(a_key(generation), record)
    assert (report.role, report.policy, report.generation, report.account) == (
        role,
        "ci",
        generation.number,
        "personal",
    )


WORDS = {
    Role.LIVE: "the live key of its policy",
    Role.RETIRING: "replaced, in its grace period",
    Role.HELD: "replaced, and held past its grace period",
    Role.ORPHAN: "its secret was lost before it went live; it is on its way out",
    Role.MANAGEMENT: "the key that this program authenticates with",
    Role.ABANDONED: "its policy is no longer in the configuration",
    Role.UNMANAGED: "no policy owns it; it is only listed",
}


def test_every_role_is_told_in_words() -> None:
    recently: dict[str, Any] = {"last_used_at": NOW}
    records = {
        "ci": a_record(a_retiring(4, held=held()), a_retiring(5), a_live(6), an_orphan(7, CI)),
        "old": Record(policy="old", generations=(a_live(9),)),
    }
    keys = [a_key(g, **recently) for record in records.values() for g in record.generations]
    reports = inventory(
        [a_list(*keys, a_foreign(1, **recently)), a_list(a_foreign(2, **recently), account="org-a")],
        records,
        ["ci", "new"],
        {2: "neon.api_key_id says so"},
        RULE,
        NOW,
    )
    assert [report.key.id for report in reports] == [1, 2, 104, 105, 106, 107, 109], "by id"
    assert [report.role for report in reports] == [
        Role.UNMANAGED,
        Role.MANAGEMENT,
        Role.HELD,
        Role.RETIRING,
        Role.LIVE,
        Role.ORPHAN,
        Role.ABANDONED,
    ]
    assert [report.why for report in reports] == [WORDS[report.role] for report in reports]
    assert not any(report.unused for report in reports)
    assert [(report.policy, report.generation) for report in reports[:2]] == [(None, None)] * 2
    assert (reports[1].account, reports[-1].policy) == ("org-a", "old")


def test_a_key_that_a_policy_owns_keeps_its_role_though_it_may_be_our_own() -> None:
    assert report_of(a_key(a_live(6)), a_record(a_live(6)), {106: "x"}).role is Role.LIVE


@pytest.mark.parametrize(
    ("created", "used", "why"),
    [
        pytest.param(NOW - 90 * DAY, None, "never used since it was created 90d ago", id="old and never used"),
        pytest.param(NOW - 90 * DAY + SECOND, None, "", id="never used, but not old"),
        pytest.param(
            NOW - 400 * DAY,
            NOW - 91 * DAY - HOUR,
            "not used since 2026-08-24 11:00:00 UTC, 91d 1h ago",
            id="not used for long",
        ),
        pytest.param(NOW - 400 * DAY, NOW - 90 * DAY, "not used since 2026-08-25", id="not used for just long enough"),
        pytest.param(NOW - 400 * DAY, NOW - 90 * DAY + SECOND, "", id="used recently"),
    ],
)
def test_unused(created: datetime, used: datetime | None, why: str) -> None:
    report = report_of(a_foreign(1, created_at=created, last_used_at=used))
    assert report.unused is bool(why)
    assert report.why.startswith(why or WORDS[Role.UNMANAGED])


@pytest.mark.parametrize(
    ("name", "unused"),
    [("terraform-prod", False), ("Terraform-prod", True), ("my-terraform-prod", True)],
)
def test_names_that_are_to_be_ignored(name: str, unused: bool) -> None:
    assert report_of(a_foreign(1, name, created_at=NOW - 400 * DAY)).unused is unused


@pytest.mark.parametrize(
    ("after_the_check", "why"),
    [
        pytest.param(timedelta(0), "never used since", id="our own check of a new key is no use"),
        pytest.param(SECOND, "never used since", id="nor is what may be it"),
        pytest.param(2 * SECOND, "not used since", id="a use after it is one"),
    ],
)
def test_our_own_check_is_no_use(after_the_check: timedelta, why: str) -> None:
    created = NOW - 100 * DAY
    live = a_live(6, created_at=created, checked_at=created + SECOND)
    report = report_of(a_key(live, last_used_at=created + SECOND + after_the_check), a_record(live))
    assert report.why.startswith(why)


def test_a_key_that_was_never_checked_is_judged_by_its_uses() -> None:
    adopted = an_adopted()
    assert not report_of(a_key(adopted, last_used_at=NOW - DAY), a_record(adopted)).unused
    assert report_of(a_key(adopted), a_record(adopted), rule=UnusedRule(DAY)).why.startswith("never used since")


@pytest.mark.parametrize("generation", [a_retiring(5), a_retiring(5, held=held()), an_orphan(5, CI)])
def test_keys_on_their_way_out_are_not_flagged(generation: Generation) -> None:
    old = a_key(generation, created_at=NOW - 400 * DAY)
    assert not report_of(old, a_record(generation, a_live(6))).unused


def test_the_keys_of_a_policy_that_is_gone_are_flagged() -> None:
    record = Record(policy="old", generations=(a_retiring(5),))
    reports = inventory(
        [a_list(a_key(a_retiring(5), created_at=NOW - 400 * DAY))], {"old": record}, ["ci"], {}, RULE, NOW
    )
    assert [(report.role, report.unused) for report in reports] == [(Role.ABANDONED, True)]


def test_the_accounts_in_use_are_those_of_policies_keys_intents_and_remembered_names() -> None:
    records = {
        "a": a_record(a_live(6)),
        "b": a_record(intent=an_intent(7, scope=PROJECT)),
        "c": a_record(),
    }
    assert accounts_in_use({}, records) == {"personal", "org-a"}
    assert accounts_in_use({"ci": a_policy(scope=ORG)}, {"c": a_record()}) == {"org-a"}
    assert accounts_in_use({}, {"d": a_record(closed=(a_closed_name(7, scope=ORG),))}) == {"org-a"}
    assert accounts_in_use({}, {}) == set()
