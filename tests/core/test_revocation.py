"""When an older key may go, and what keeps it: a row for every sentence of the contract."""

from __future__ import annotations

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
    PROJECT,
    SECOND,
    VAULT,
    Situation,
    a_foreign,
    a_generation,
    a_hold,
    a_key,
    a_list,
    a_live,
    a_policy,
    a_record,
    a_retiring,
    a_revoke_order,
    a_rotation,
    an_adopted,
    an_order,
    an_orphan,
    asked,
    held,
    lists_of,
    named,
    row,
    seen,
    table,
    unread,
)

from rotator.decide import last_step
from rotator.model import (
    Absence,
    Check,
    Condemned,
    Do,
    Generation,
    Held,
    Hindrance,
    Keys,
    Policy,
    Record,
    SinkRef,
    Step,
    Then,
    Window,
)
from rotator.standing import INSTANT, quiet_period

OLD = 105  # the key of generation 5
PAIR = a_record(a_retiring(5), a_live(6))
DAY_SHIFT = Window(frozenset(range(7)), time(13), time(16), "UTC")


def used(ago: timedelta, *addresses: str) -> dict[str, Any]:
    """That somebody used a key."""
    return {"last_used_at": NOW - ago, "last_used_from": addresses}


@table(
    row(
        "a retiring key goes when its grace has passed and nothing speaks against it",
        Do.REVOKE,
        why="a later key is live, the grace period ended at 2026-11-22 12:00:00 UTC, "
        "and no use of it by others is known",
        record=PAIR,
        key_id=OLD,
    ),
    row(
        "the reason names its last use",
        Do.REVOKE,
        "it was last used at 2026-11-23 08:00:00 UTC",
        record=a_record(a_retiring(5, **used(4 * HOUR)), a_live(6)),
        key_id=OLD,
    ),
    row(
        "a retiring key waits for the end of its grace",
        Do.WAIT,
        "grace period of the old key",
        named(5),
        "2026-11-24 11:59:59 UTC",
        record=a_record(a_retiring(5, since=NOW - SECOND), a_live(6)),
        until=NOW + DAY - SECOND,
        coming=Do.REVOKE,
        key_id=OLD,
    ),
    row(
        "it goes at the very end of its grace",
        Do.REVOKE,
        record=a_record(a_retiring(5, since=NOW - DAY), a_live(6)),
        key_id=OLD,
    ),
    row(
        "a grace period that was made longer holds for keys that retire already",
        Do.WAIT,
        "grace period",
        record=PAIR,
        policy=a_policy(grace=3 * DAY),
        until=NOW + DAY,
    ),
    row(
        "grace runs from the first later generation, not from the newest",
        Do.REVOKE,
        record=a_record(a_retiring(5), a_retiring(6, since=NOW - HOUR), a_live(7)),
        key_id=OLD,
    ),
    row(
        "the live key is never revoked by rule",
        Do.WAIT,
        "is due at",
        record=a_record(a_live(6, **used(9 * DAY))),
    ),
    row(
        "of several keys that may go the oldest goes first",
        Do.REVOKE,
        record=a_record(a_retiring(4), a_retiring(5), a_live(6)),
        key_id=104,
    ),
    row(
        "a key that waits does not stop one that may go",
        Do.REVOKE,
        record=a_record(a_retiring(4, since=NOW - HOUR), a_retiring(5), a_live(6)),
        key_id=OLD,
    ),
)
def test_grace(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "no list was read: look first",
        Do.LOOK,
        "is to be revoked",
        "needs a fresh list",
        record=PAIR,
        keys=seen(PAIR, lists={}),
        account="personal",
    ),
    row("a list of 31 s is too old", Do.LOOK, record=PAIR, keys=seen(PAIR, age=31 * SECOND), account="personal"),
    row("a list of 30 s will do", Do.REVOKE, record=PAIR, keys=seen(PAIR, age=30 * SECOND)),
    row(
        "a list that seems to come from the future is not fresh: the clock went back",
        Do.LOOK,
        record=PAIR,
        keys=seen(PAIR, age=-SECOND),
    ),
    row(
        "a list that is not believed revokes nothing",
        Do.WAIT,
        "is to be revoked",
        "lacks 3 of 4 known keys",
        record=PAIR,
        keys=seen(PAIR, doubt="Neon's list lacks 3 of 4 known keys"),
        at_poll=True,
    ),
    row(
        "a list that cannot be read is waited for",
        Do.WAIT,
        "cannot be read: Neon is unavailable (HTTP 503)",
        record=PAIR,
        keys=seen(PAIR, unreadable=unread()),
        at_poll=True,
    ),
    row(
        "a fresh list that lacks the key does not revoke it, and the next poll settles what became of it",
        Do.WAIT,
        "is not in Neon's list; the next poll settles that",
        record=PAIR,
        keys=seen(PAIR, but=[OLD]),
        at_poll=True,
    ),
    row(
        "a list from before the live key was recorded says nothing of it",
        Do.LOOK,
        record=a_record(
            a_generation(5, condemned=Condemned.AT_LIVE, live_since=NOW - DAY, retiring_since=NOW),
            a_live(6, created_at=NOW - 5 * SECOND),
        ),
        keys=seen(age=10 * SECOND),
    ),
    row(
        "a list from before an orphan was recorded says nothing of it",
        Do.LOOK,
        record=a_record(a_live(5), an_orphan(6, created_at=NOW - 5 * SECOND)),
        keys=seen(a_record(a_live(5), an_orphan(6)), age=10 * SECOND),
    ),
    row(
        "while the clock is behind the newest record nothing is revoked",
        Do.WAIT,
        "the clock went back behind what was recorded at 2026-11-23 12:00:05 UTC",
        record=a_record(a_live(5), an_orphan(6, recorded_at=NOW + 5 * SECOND)),
        until=NOW + 5 * SECOND,
    ),
    row(
        "while the clock is not to be trusted nothing is revoked",
        Do.WAIT,
        "is to be revoked",
        "the clock jumped 600 s ahead",
        record=PAIR,
        keys=seen(PAIR, distrust="the clock jumped 600 s ahead"),
        until=NOW + 15 * SECOND,
    ),
    row(
        "the lists of both accounts are needed after a change of scope: the old key's is missing",
        Do.LOOK,
        policy=a_policy(scope=ORG),
        record=a_record(a_retiring(5), a_live(6, scope=ORG)),
        keys=seen(a_record(a_live(6, scope=ORG)), accounts=["org-a"]),
        account="personal",
    ),
    row(
        "the lists of both accounts are needed after a change of scope: the live key's is old",
        Do.LOOK,
        policy=a_policy(scope=ORG),
        record=a_record(a_retiring(5), a_live(6, scope=ORG)),
        keys=seen(
            lists={
                **lists_of(a_record(a_retiring(5))),
                **lists_of(a_record(a_live(6, scope=ORG)), accounts=["org-a"], age=MINUTE),
            }
        ),
        account="org-a",
    ),
    row(
        "the live key's list in the other account is not believed",
        Do.WAIT,
        "the org's list is doubted",
        policy=a_policy(scope=ORG),
        record=a_record(a_retiring(5), a_live(6, scope=ORG)),
        keys=seen(
            lists={
                **lists_of(a_record(a_retiring(5))),
                **lists_of(a_record(a_live(6, scope=ORG)), accounts=["org-a"], doubt="the org's list is doubted"),
            }
        ),
    ),
    row(
        "with both lists an old key of the former scope goes",
        Do.REVOKE,
        policy=a_policy(scope=ORG),
        record=a_record(a_retiring(5), a_live(6, scope=ORG)),
        key_id=OLD,
    ),
)
def test_nothing_is_revoked_without_a_fresh_believed_list_that_holds_the_key(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "no later key is live: a newer orphan that was superseded stays",
        Do.HOLD,
        named(6),
        "no later key of the policy is live",
        record=a_record(a_live(5), an_orphan(6, CI, superseded={CI: NOW - 2 * DAY}), next_generation=8),
        key_id=106,
        overdue=False,
    ),
    row(
        "the live key was revoked: what retired before it stays",
        Do.HOLD,
        "no later key of the policy is live",
        policy=a_policy(paused=True),
        record=a_record(a_retiring(5)),
        key_id=OLD,
    ),
    row(
        "an adopted live key is no later key than a minted one",
        Do.HOLD,
        "no later key of the policy is live",
        record=a_record(a_retiring(5), an_adopted()),
        key_id=OLD,
    ),
    row(
        "of two adopted keys neither is later than the other",
        Do.HOLD,
        "no later key of the policy is live",
        record=a_record(an_adopted(49, retiring_since=NOW - 5 * DAY, created_at=NOW - 30 * DAY), an_adopted(50)),
        key_id=49,
    ),
    row(
        "the live key was refused when it was new",
        Do.HOLD,
        f"Neon refused its successor {named(6)}",
        record=a_record(a_retiring(5), a_live(6, check=Check.REFUSED)),
        key_id=OLD,
    ),
    row(
        "the live key is not in the list: alarm, revoke nothing",
        Do.HOLD,
        f"the live key {named(6)} is missing from Neon's list",
        record=PAIR,
        keys=seen(PAIR, but=[106]),
        key_id=OLD,
    ),
    row(
        "two polls lacked the live key, and there is no list now",
        Do.HOLD,
        f"the live key {named(6)} is missing",
        record=a_record(a_retiring(5), a_live(6, absence=Absence(2, NOW, NOW))),
        keys=seen(PAIR, lists={}),
        key_id=OLD,
    ),
    row(
        "a sink that was added has no receipt of the live key: what retires is held",
        Do.HOLD,
        f"sink app and vault has no receipt of the live key {named(6)}",
        policy=a_policy(APP, CI, VAULT, paused=True),
        record=PAIR,
        key_id=OLD,
    ),
    row(
        "receipts of the sinks that the policy has now are needed, not of those that it had",
        Do.REVOKE,
        policy=a_policy(CI),
        record=a_record(a_retiring(5, CI, VAULT), a_live(6, CI)),
        key_id=OLD,
    ),
    row(
        "a receipt belongs to the sink's target, not to its name",
        Do.HOLD,
        "sink ci has no receipt",
        policy=a_policy(SinkRef("ci", "https://elsewhere.example.com"), paused=True),
        record=PAIR,
    ),
    row(
        "a sink that only has another name keeps its receipt",
        Do.REVOKE,
        policy=a_policy(SinkRef("builds", CI.target, settings="other")),
        record=PAIR,
    ),
    row(
        "a file that still holds the live key lets the old one go",
        Do.REVOKE,
        policy=a_policy(APP),
        record=a_record(a_retiring(5, APP), a_live(6, APP)),
        key_id=OLD,
    ),
    row(
        "a file that was not read again keeps the old key",
        Do.HOLD,
        "sink app has not been read again yet",
        policy=a_policy(APP),
        record=a_record(a_retiring(5, APP), a_live(6, APP)),
        keys=seen(a_record(a_retiring(5, APP), a_live(6, APP)), contents={}),
    ),
    row(
        "a file that holds something else keeps the old key",
        Do.HOLD,
        f"sink app holds another secret than the live key {named(6)}",
        policy=a_policy(APP),
        record=a_record(a_retiring(5, APP), a_live(6, APP)),
        keys=seen(a_record(a_retiring(5, APP), a_live(6, APP)), contents={APP.target: "sha256:foreign"}),
    ),
    row(
        "a file that went back to the old key keeps it",
        Do.HOLD,
        "sink app holds another secret",
        policy=a_policy(APP),
        record=a_record(a_retiring(5, APP), a_live(6, APP)),
        keys=seen(a_record(a_retiring(5, APP), a_live(6, APP)), contents={APP.target: "sha256:5"}),
    ),
    row(
        "a file that lost the live key keeps the old one",
        Do.HOLD,
        f"sink app has lost the live key {named(6)}",
        policy=a_policy(APP, paused=True),
        record=a_record(a_retiring(5, APP), a_live(6, APP)),
        keys=seen(a_record(a_retiring(5, APP), a_live(6, APP)), contents={APP.target: Held.NOTHING}),
    ),
    row(
        "a file that cannot be read keeps the old key",
        Do.HOLD,
        "sink app cannot be read",
        policy=a_policy(APP),
        record=a_record(a_retiring(5, APP), a_live(6, APP)),
        keys=seen(a_record(a_retiring(5, APP), a_live(6, APP)), contents={APP.target: Held.UNREADABLE}),
    ),
    row(
        "a file that holds the key of the rotation under way does not keep the old one",
        Do.REVOKE,
        policy=a_policy(APP, CI),
        record=a_record(
            a_retiring(5, APP, CI),
            a_live(6, APP, CI),
            a_generation(7, **{"offers": a_live(7, APP).offers}, recorded_at=NOW),
            rotation=a_rotation(),
            gone={APP.target: APP.settings},
        ),
        keys=seen(
            a_record(a_retiring(5), a_live(6), a_generation(7)),
            in_hand=frozenset({107}),
            contents={APP.target: "sha256:7"},
        ),
        key_id=OLD,
    ),
    row(
        "a sink that does not read back is not asked",
        Do.REVOKE,
        record=PAIR,
        keys=seen(PAIR, contents={}),
    ),
    row(
        "another name in Neon's list: the key is not the one recorded",
        Do.HOLD,
        "Neon lists key 105 as look-alike",
        f"the record says {named(5)}",
        record=PAIR,
        keys=seen(PAIR, lists={"personal": a_list(a_key(a_live(5), name="look-alike"), a_key(a_live(6)))}),
        key_id=OLD,
    ),
    row(
        "another project in Neon's list: the key's scope is not the one recorded",
        Do.HOLD,
        "Neon lists key 105 with project proj-1, but the record says organization org-a",
        policy=a_policy(scope=ORG),
        record=a_record(a_retiring(5, scope=ORG), a_live(6, scope=ORG)),
        keys=seen(
            lists={"org-a": a_list(a_key(a_live(5), project="proj-1"), a_key(a_live(6)), a_foreign(7), account="org-a")}
        ),
        key_id=OLD,
    ),
    row(
        "no project in Neon's list where one is recorded",
        Do.HOLD,
        "with no project, but the record says project proj-1 of org-a",
        policy=a_policy(scope=PROJECT),
        record=a_record(a_retiring(5, scope=PROJECT), a_live(6, scope=PROJECT)),
        keys=seen(lists={"org-a": a_list(a_key(a_live(5)), a_key(a_live(6), project="proj-1"), account="org-a")}),
        key_id=OLD,
    ),
    row(
        "the management key stays",
        Do.HOLD,
        f"{named(5)} is kept: it is the management key (neon.api_key_id says so)",
        record=PAIR,
        keys=seen(PAIR, own={OLD: "neon.api_key_id says so"}),
        key_id=OLD,
    ),
    row(
        "a key that another policy owns stays",
        Do.HOLD,
        "key 105 belongs to policy other",
        record=PAIR,
        keys=seen(PAIR, owners={OLD: "other"}),
        key_id=OLD,
    ),
)
def test_conditions(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "a use within the last hour holds it; the reason names the time and the addresses",
        Do.HOLD,
        f"{named(5)} is kept: it was used at 2026-11-23 11:30:00 UTC from 203.0.113.7 and 10.0.0.1",
        "when it has not been used for 1h",
        record=a_record(a_retiring(5, **used(30 * MINUTE, "203.0.113.7", "10.0.0.1")), a_live(6)),
        key_id=OLD,
        overdue=False,
    ),
    row(
        "a use without an address holds it too",
        Do.HOLD,
        "it was used at 2026-11-23 11:30:00 UTC; it is revoked",
        record=a_record(a_retiring(5, **used(30 * MINUTE)), a_live(6)),
    ),
    row(
        "a use just within the quiet period holds it",
        Do.HOLD,
        record=a_record(a_retiring(5, **used(HOUR - SECOND)), a_live(6)),
    ),
    row(
        "a use just before the quiet period does not",
        Do.REVOKE,
        record=a_record(a_retiring(5, **used(HOUR)), a_live(6)),
    ),
    row(
        "a use after the hand-off, but before the quiet period, does not hold it",
        Do.REVOKE,
        "last used",
        record=a_record(a_retiring(5, **used(DAY)), a_live(6)),
    ),
    row(
        "the longest gap counts twice",
        Do.HOLD,
        "not been used for 6h",
        record=a_record(a_retiring(5, **used(5 * HOUR), longest_gap=3 * HOUR), a_live(6)),
    ),
    row(
        "a duration of the configuration counts instead of the gap",
        Do.REVOKE,
        policy=a_policy(hold=a_hold(while_old_key_used_within=10 * MINUTE)),
        record=a_record(a_retiring(5, **used(11 * MINUTE), longest_gap=3 * HOUR), a_live(6)),
    ),
    row(
        "0s means never, even for a use that seems to lie ahead",
        Do.REVOKE,
        policy=a_policy(hold=a_hold(while_old_key_used_within=timedelta(0))),
        record=a_record(a_retiring(5, **used(-SECOND)), a_live(6)),
    ),
    row(
        "this program's own check of the key is no use by others",
        Do.REVOKE,
        "no use of it by others is known",
        record=a_record(a_retiring(5, **used(MINUTE), checked_at=NOW - MINUTE - SECOND), a_live(6)),
    ),
    row(
        "a use more than a second after the check is one by others",
        Do.HOLD,
        record=a_record(a_retiring(5, **used(MINUTE), checked_at=NOW - MINUTE - 2 * SECOND), a_live(6)),
    ),
    row(
        "an offered orphan is held by its use as well",
        Do.HOLD,
        "it was used at",
        record=a_record(an_orphan(5, CI, superseded={CI: NOW - 2 * DAY}, **used(MINUTE)), a_live(6)),
    ),
    row(
        "a list that lags may hide a use: the quiet period is counted from what it can show",
        Do.HOLD,
        "it was used at 2026-11-23 10:30:00 UTC",
        record=a_record(a_retiring(5, **used(90 * MINUTE)), a_live(6)),
        keys=seen(a_record(a_retiring(5), a_live(6)), usage_lag=45 * MINUTE),
    ),
    row(
        "it is decided again when the list can have shown enough",
        Do.WAIT,
        record=a_record(
            a_retiring(
                5,
                **used(90 * MINUTE),
                held=Hindrance(
                    NOW - HOUR,
                    f"{named(5)} is kept: it was used at 2026-11-23 10:30:00 UTC; "
                    "it is revoked when it has not been used for 1h",
                ),
            ),
            a_live(6),
        ),
        keys=seen(a_record(a_retiring(5), a_live(6)), usage_lag=45 * MINUTE),
        until=NOW + 15 * MINUTE,
    ),
    row(
        "a list that lags just by the quiet period is trusted yet",
        Do.REVOKE,
        record=PAIR,
        keys=seen(PAIR, usage_lag=HOUR),
    ),
    row(
        "a list that lags less than that hides nothing that counts",
        Do.REVOKE,
        record=a_record(a_retiring(5, **used(90 * MINUTE)), a_live(6)),
        keys=seen(a_record(a_retiring(5), a_live(6)), usage_lag=30 * MINUTE),
    ),
    row(
        "silence counts as far as the list shows it: one that was asked for before it was long enough says too little",
        Do.LOOK,
        f"{named(5)} is kept: it was used at 2026-11-23 11:00:00 UTC",
        "needs a fresh list",
        record=a_record(a_retiring(5, **used(HOUR)), a_live(6)),
        keys=seen(a_record(a_retiring(5), a_live(6)), age=SECOND),
        account="personal",
    ),
    row(
        "with a lag the same",
        Do.LOOK,
        "needs a fresh list",
        record=a_record(a_retiring(5, **used(90 * MINUTE)), a_live(6)),
        keys=seen(a_record(a_retiring(5), a_live(6)), age=SECOND, usage_lag=30 * MINUTE),
    ),
    row(
        "without a list at all the same",
        Do.LOOK,
        "needs a fresh list",
        record=a_record(a_retiring(5, **used(DAY)), a_live(6)),
        keys=seen(PAIR, lists={}),
    ),
    row(
        "a list that cannot be asked for keeps the key that was used so lately",
        Do.HOLD,
        "it was used at 2026-11-23 11:00:00 UTC",
        record=a_record(a_retiring(5, **used(HOUR)), a_live(6)),
        keys=seen(a_record(a_retiring(5), a_live(6)), age=SECOND, unreadable=unread()),
    ),
    row(
        "and it waits for a list, not for a moment that has passed",
        Do.WAIT,
        record=a_record(
            a_retiring(
                5,
                **used(HOUR),
                held=Hindrance(
                    NOW - HOUR,
                    f"{named(5)} is kept: it was used at 2026-11-23 11:00:00 UTC; "
                    "it is revoked when it has not been used for 1h",
                ),
            ),
            a_live(6),
        ),
        keys=seen(a_record(a_retiring(5), a_live(6)), age=SECOND, unreadable=unread()),
        until=NOW + 6 * DAY,
    ),
    row(
        "a list that lags by more than the quiet period is not trusted, whatever it says",
        Do.HOLD,
        f"{named(5)} is kept: whether it is still used is not known, as Neon's last_used_at cannot be trusted",
        "did itself 2h before",
        record=PAIR,
        keys=seen(PAIR, usage_lag=2 * HOUR),
    ),
    row(
        "who never minds the use of old keys does not mind the lag either",
        Do.REVOKE,
        policy=a_policy(hold=a_hold(while_old_key_used_within=timedelta(0))),
        record=PAIR,
        keys=seen(PAIR, usage_lag=2 * HOUR),
    ),
    row(
        "with hold.then: revoke an untrusted signal holds until hold.at_most",
        Do.REVOKE,
        policy=a_policy(hold=a_hold(at_most=DAY, then=Then.REVOKE)),
        record=PAIR,
        keys=seen(PAIR, usage_lag=2 * HOUR),
    ),
    row(
        "until_new_key_used: nobody has used the new key",
        Do.HOLD,
        f"nobody has used the live key {named(6)} yet",
        policy=a_policy(hold=a_hold(until_new_key_used=True)),
        record=PAIR,
    ),
    row(
        "until_new_key_used: only this program has used the new key",
        Do.HOLD,
        f"nobody has used the live key {named(6)} yet",
        policy=a_policy(hold=a_hold(until_new_key_used=True)),
        record=a_record(a_retiring(5), a_live(6, **used(2 * DAY), checked_at=NOW - 2 * DAY)),
    ),
    row(
        "until_new_key_used: somebody has used the new key",
        Do.REVOKE,
        policy=a_policy(hold=a_hold(until_new_key_used=True)),
        record=a_record(a_retiring(5), a_live(6, **used(HOUR))),
    ),
)
def test_use(situation: Situation) -> None:
    situation.check()


KEEP = a_hold(at_most=7 * DAY)
REVOKE_THEN = a_hold(at_most=7 * DAY, then=Then.REVOKE)
LATE = NOW - 8 * DAY  # its grace ended seven days ago


def in_use(**changes: Any) -> Generation:
    return a_retiring(5, since=LATE, **used(MINUTE), **changes)


KNOWN_WHY = (
    f"{named(5)} is kept: it was used at 2026-11-23 11:59:00 UTC; it is revoked when it has not been used for 1h"
)


@table(
    row(
        "a key that is held already is waited for until its use may have ended",
        Do.WAIT,
        KNOWN_WHY,
        record=a_record(a_retiring(5, **used(MINUTE), held=held(KNOWN_WHY)), a_live(6)),
        until=NOW + 59 * MINUTE,
        key_id=OLD,
        overdue=False,
        coming=Do.REVOKE,
    ),
    row(
        "a new reason is written down",
        Do.HOLD,
        KNOWN_WHY,
        record=a_record(a_retiring(5, **used(MINUTE), held=held("it was used before")), a_live(6)),
    ),
    row(
        "a hold without an end of its own is looked at again when at_most has passed",
        Do.WAIT,
        "nobody has used",
        policy=a_policy(hold=a_hold(until_new_key_used=True, at_most=2 * DAY)),
        record=a_record(
            a_retiring(5, held=held(f"{named(5)} is kept: nobody has used the live key {named(6)} yet")), a_live(6)
        ),
        until=NOW + DAY,
    ),
    row(
        "the end of at_most comes before the end of the use",
        Do.WAIT,
        policy=a_policy(hold=a_hold(while_old_key_used_within=5 * DAY, at_most=2 * DAY)),
        record=a_record(
            a_retiring(
                5,
                **used(MINUTE),
                held=held(
                    f"{named(5)} is kept: it was used at 2026-11-23 11:59:00 UTC; it is revoked when it has not been "
                    "used for 5d"
                ),
            ),
            a_live(6),
        ),
        until=NOW + DAY,
    ),
    row(
        "a key that nothing holds any longer is released first",
        Do.RELEASE,
        f"nothing holds {named(5)} any longer",
        record=a_record(a_retiring(5, held=held()), a_live(6)),
        key_id=OLD,
    ),
    row(
        "past at_most a key in use is overdue, and kept",
        Do.HOLD,
        KNOWN_WHY,
        policy=a_policy(hold=KEEP),
        record=a_record(in_use(held=held(KNOWN_WHY)), a_live(6)),
        overdue=True,
        key_id=OLD,
    ),
    row(
        "one second before the end of at_most it is not overdue",
        Do.WAIT,
        policy=a_policy(hold=KEEP),
        record=a_record(a_retiring(5, since=LATE + SECOND, **used(MINUTE), held=held(KNOWN_WHY)), a_live(6)),
        until=NOW + SECOND,
        overdue=False,
    ),
    row(
        "an overdue key goes on waiting for its use to end",
        Do.WAIT,
        KNOWN_WHY,
        policy=a_policy(hold=KEEP),
        record=a_record(in_use(held=held(KNOWN_WHY, overdue=True)), a_live(6)),
        until=NOW + 59 * MINUTE,
        overdue=True,
    ),
    row(
        "an overdue key that has no end of its own waits for the next poll",
        Do.WAIT,
        "nobody has used",
        policy=a_policy(hold=a_hold(until_new_key_used=True)),
        record=a_record(
            a_retiring(
                5,
                since=LATE,
                held=held(f"{named(5)} is kept: nobody has used the live key {named(6)} yet", overdue=True),
            ),
            a_live(6),
        ),
        at_poll=True,
        overdue=True,
    ),
    row(
        "then: revoke ends a hold by use",
        Do.RELEASE,
        policy=a_policy(hold=REVOKE_THEN),
        record=a_record(in_use(held=held(KNOWN_WHY)), a_live(6)),
        key_id=OLD,
    ),
    row(
        "then: revoke revokes a key in use, and says when it was used",
        Do.REVOKE,
        "it was last used at 2026-11-23 11:59:00 UTC",
        policy=a_policy(hold=REVOKE_THEN),
        record=a_record(in_use(), a_live(6)),
        key_id=OLD,
    ),
    row(
        "then: revoke does not come one second early",
        Do.HOLD,
        policy=a_policy(hold=REVOKE_THEN),
        record=a_record(a_retiring(5, since=LATE + SECOND, **used(MINUTE)), a_live(6)),
    ),
    row(
        "then: revoke ends the wait for a use of the new key",
        Do.REVOKE,
        policy=a_policy(hold=a_hold(until_new_key_used=True, then=Then.REVOKE)),
        record=a_record(a_retiring(5, since=LATE), a_live(6)),
    ),
    row(
        "then: revoke waives no receipt",
        Do.HOLD,
        "has no receipt",
        policy=a_policy(CI, VAULT, hold=REVOKE_THEN, paused=True),
        record=a_record(in_use(), a_live(6)),
        overdue=True,
    ),
    row(
        "then: revoke does not take the management key",
        Do.HOLD,
        "management key",
        policy=a_policy(hold=REVOKE_THEN),
        record=a_record(in_use(), a_live(6)),
        keys=seen(PAIR, own={OLD: "its fingerprint is that of the key in use"}),
    ),
)
def test_held(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "a retiring key waits for the window",
        Do.WAIT,
        "when the window opens at 2026-11-23 13:00:00 UTC",
        policy=a_policy(window=DAY_SHIFT),
        record=PAIR,
        until=NOW + HOUR,
        coming=Do.REVOKE,
        key_id=OLD,
    ),
    row(
        "an open window lets it go",
        Do.REVOKE,
        policy=a_policy(window=DAY_SHIFT),
        record=PAIR,
        now=NOW + HOUR,
        keys=seen(PAIR, age=-HOUR),
    ),
    row(
        "an offered orphan waits for the window",
        Do.WAIT,
        "when the window opens",
        policy=a_policy(window=DAY_SHIFT),
        record=a_record(an_orphan(5, CI, superseded={CI: NOW - 2 * DAY}), a_live(6)),
    ),
    row(
        "an orphan that nobody was offered does not",
        Do.REVOKE,
        policy=a_policy(window=DAY_SHIFT),
        record=a_record(a_live(5), an_orphan(6)),
        key_id=106,
    ),
    row(
        "an operator's order does not",
        Do.REVOKE,
        policy=a_policy(window=DAY_SHIFT),
        record=a_record(a_retiring(5, since=NOW, condemned=Condemned.NOW), a_live(6)),
        key_id=OLD,
    ),
    row(
        "a closed window does not stop a hold from being written down",
        Do.HOLD,
        policy=a_policy(window=DAY_SHIFT),
        record=a_record(a_retiring(5, **used(MINUTE)), a_live(6)),
    ),
    row(
        "a paused policy revokes nothing",
        Do.WAIT,
        f"{named(5)} is to be revoked",
        "the policy is paused",
        policy=a_policy(paused=True),
        record=PAIR,
        at_poll=True,
        coming=Do.REVOKE,
        key_id=OLD,
    ),
    row(
        "a policy that an operator paused revokes nothing, not even by order",
        Do.WAIT,
        "the policy is paused",
        record=a_record(a_retiring(5, condemned=Condemned.NOW), a_live(6), paused=True),
    ),
)
def test_window_and_pause(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "one that nobody was offered goes at once",
        Do.REVOKE,
        "nobody was given this key: the process died",
        record=a_record(a_live(5), an_orphan(6)),
        key_id=106,
    ),
    row(
        "one that nobody was offered goes although no key is live",
        Do.REVOKE,
        record=a_record(an_orphan(1)),
        key_id=101,
    ),
    row(
        "one that nobody was offered goes although the live key is missing",
        Do.REVOKE,
        record=a_record(a_live(5), an_orphan(6)),
        keys=seen(a_record(a_live(5), an_orphan(6)), but=[105]),
        key_id=106,
    ),
    row(
        "one that nobody was offered stays if it is another key than recorded",
        Do.WAIT,
        f"{named(6)} is not revoked: Neon lists key 106 as look-alike",
        record=a_record(a_live(5), an_orphan(6)),
        keys=seen(lists={"personal": a_list(a_key(a_live(5)), a_foreign(106, "look-alike"))}),
        at_poll=True,
    ),
    row(
        "one that was offered waits until its sinks have a later key",
        Do.WAIT,
        f"{named(6)} is kept: it was offered to sink ci and vault, which has no later key yet",
        policy=a_policy(CI, VAULT),
        record=a_record(a_live(5, CI, VAULT), an_orphan(6, CI, VAULT), next_generation=7),
        key_id=106,
        at_poll=True,
    ),
    row(
        "one sink that has no later key is enough to keep it",
        Do.WAIT,
        "it was offered to sink vault, which",
        policy=a_policy(CI, VAULT, paused=True),
        record=a_record(a_live(5, CI, VAULT), an_orphan(6, CI, VAULT, superseded={CI: NOW - 2 * DAY})),
    ),
    row(
        "one that was offered to a sink that is gone from the policy says what a person can do",
        Do.WAIT,
        "it was offered to https://old.example.com, which gets no later key from this policy any more",
        "run: rotator revoke 106",
        record=a_record(a_live(5), an_orphan(6, CI, SinkRef("old", "https://old.example.com"), superseded={CI: NOW})),
    ),
    row(
        "its grace runs from the last of its sinks' later receipts",
        Do.WAIT,
        "grace period",
        policy=a_policy(CI, VAULT),
        record=a_record(
            an_orphan(5, CI, VAULT, superseded={CI: NOW - 2 * DAY, VAULT: NOW - HOUR}), a_live(6, CI, VAULT)
        ),
        until=NOW + 23 * HOUR,
    ),
    row(
        "it goes when all its sinks have had a later key for the grace period",
        Do.REVOKE,
        "a later key is live",
        policy=a_policy(CI, VAULT),
        record=a_record(
            an_orphan(5, CI, VAULT, superseded={CI: NOW - 3 * DAY, VAULT: NOW - DAY}), a_live(6, CI, VAULT)
        ),
        key_id=OLD,
    ),
    row(
        "its conditions are those of a retiring key",
        Do.HOLD,
        "has no receipt of the live key",
        policy=a_policy(CI, VAULT, paused=True),
        record=a_record(an_orphan(5, CI, superseded={CI: NOW - 2 * DAY}), a_live(6, CI)),
    ),
    row(
        "a refused key, which nobody has, goes at once",
        Do.REVOKE,
        record=a_record(a_live(5), an_orphan(6, check=Check.REFUSED)),
        key_id=106,
    ),
)
def test_orphans(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "revoke: a retiring key goes although it is in its grace and in use",
        Do.REVOKE,
        why="an operator ordered its revocation",
        record=a_record(a_retiring(5, since=NOW, **used(SECOND), condemned=Condemned.NOW), a_live(6)),
        key_id=OLD,
    ),
    row(
        "revoke: the live key goes",
        Do.REVOKE,
        record=a_record(a_live(6, condemned=Condemned.NOW)),
        key_id=106,
    ),
    row(
        "revoke: a key on its way to the sinks goes",
        Do.REVOKE,
        record=a_record(a_live(5), a_generation(6, condemned=Condemned.NOW), rotation=a_rotation()),
        keys=seen(a_record(a_live(5), a_generation(6)), in_hand=frozenset({106})),
        key_id=106,
    ),
    row(
        "revoke: an offered orphan goes although no sink has a later key",
        Do.REVOKE,
        record=a_record(a_live(5), an_orphan(6, CI, condemned=Condemned.NOW)),
        key_id=106,
    ),
    row(
        "revoke: nothing goes that is not in the list under its name",
        Do.WAIT,
        "is not revoked: Neon lists key 106 as other",
        record=a_record(a_live(6, condemned=Condemned.NOW)),
        keys=seen(lists={"personal": a_list(a_foreign(106, "other"))}),
    ),
    row(
        "revoke: the management key stays",
        Do.WAIT,
        f"{named(6)} is not revoked: it is the management key (it was used just now)",
        record=a_record(a_live(6, condemned=Condemned.NOW)),
        keys=seen(a_record(a_live(6)), own={106: "it was used just now"}),
    ),
    row(
        "revoke: a key that another policy owns stays",
        Do.WAIT,
        "belongs to policy other",
        record=a_record(a_live(6, condemned=Condemned.NOW)),
        keys=seen(a_record(a_live(6)), owners={106: "other"}),
    ),
    row(
        "revoke: a fresh list is needed",
        Do.LOOK,
        record=a_record(a_live(6, condemned=Condemned.NOW)),
        keys=seen(a_record(a_live(6)), age=31 * SECOND),
    ),
    row(
        "revoke: the live key need not be in the list for an older one to go",
        Do.REVOKE,
        record=a_record(a_retiring(5, condemned=Condemned.NOW), a_live(6)),
        keys=seen(PAIR, but=[106]),
        key_id=OLD,
    ),
    row(
        "leaked: every older key goes at the last receipt, grace and use aside",
        Do.REVOKE,
        f"an operator said that it leaked, and its successor {named(6)} is live",
        record=a_record(
            a_retiring(5, since=NOW, **used(SECOND), condemned=Condemned.AT_LIVE), a_live(6, created_at=NOW)
        ),
        key_id=OLD,
    ),
    row(
        "leaked: an adopted key goes when a minted one is live",
        Do.REVOKE,
        "it leaked",
        record=a_record(an_adopted(condemned=Condemned.AT_LIVE, retiring_since=NOW), a_live(1, created_at=NOW)),
        key_id=50,
    ),
    row(
        "leaked: nothing goes before a later key is live",
        Do.DELIVER,
        record=a_record(
            a_live(5, condemned=Condemned.AT_LIVE), a_generation(6, recorded_at=NOW), rotation=a_rotation()
        ),
        keys=seen(a_record(a_live(5), a_generation(6)), in_hand=frozenset({106})),
    ),
    row(
        "leaked: an orphan newer than the live key waits for its own successor",
        Do.WAIT,
        "which has no later key yet",
        policy=a_policy(paused=True),
        record=a_record(a_live(5), an_orphan(6, CI, condemned=Condemned.AT_LIVE)),
    ),
    row(
        "leaked: a live key that is missing from the list stops it",
        Do.WAIT,
        f"{named(5)} is not revoked: the live key {named(6)} is missing from Neon's list",
        record=a_record(a_retiring(5, condemned=Condemned.AT_LIVE), a_live(6)),
        keys=seen(PAIR, but=[106]),
        at_poll=True,
    ),
)
def test_orders_waive_grace_window_and_holds_but_never_identity(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "a revocation that failed is tried again after its pause",
        Do.WAIT,
        f"{named(5)} could not be revoked: HTTP 500; next try at 2026-11-23 12:00:05 UTC",
        record=a_record(
            a_retiring(5, revocation=asked(ended_at=NOW, retry_at=NOW + 5 * SECOND, error="HTTP 500", failures=1)),
            a_live(6),
        ),
        until=NOW + 5 * SECOND,
    ),
    row(
        "it is tried again when the pause is over and a later list holds the key",
        Do.REVOKE,
        record=a_record(
            a_retiring(5, revocation=asked(ended_at=NOW - 5 * SECOND, retry_at=NOW, error="HTTP 500")), a_live(6)
        ),
        key_id=OLD,
    ),
    row(
        "a list from before the call ended does not settle it",
        Do.LOOK,
        record=a_record(
            a_retiring(5, revocation=asked(ended_at=NOW - 5 * SECOND, retry_at=NOW, error="HTTP 404")), a_live(6)
        ),
        keys=seen(PAIR, age=5 * SECOND, but=[OLD]),
    ),
    row(
        "a list from after the call ended settles it",
        Do.FORGET,
        f"{named(5)} is gone from Neon's list, as was asked",
        record=a_record(
            a_retiring(5, revocation=asked(ended_at=NOW - 5 * SECOND, retry_at=NOW, error="HTTP 404")), a_live(6)
        ),
        keys=seen(PAIR, age=5 * SECOND - INSTANT, but=[OLD]),
        key_id=OLD,
    ),
    row(
        "a death between the call and its answer is settled by the list: gone",
        Do.FORGET,
        "as was asked",
        record=a_record(a_retiring(5, revocation=asked()), a_live(6)),
        keys=seen(PAIR, but=[OLD]),
        key_id=OLD,
    ),
    row(
        "a death between the call and its answer is settled by the list: still there",
        Do.REVOKE,
        record=a_record(a_retiring(5, revocation=asked()), a_live(6)),
        key_id=OLD,
    ),
    row(
        "a list that is not believed does not settle it",
        Do.WAIT,
        "lacks several",
        record=a_record(a_retiring(5, revocation=asked()), a_live(6)),
        keys=seen(PAIR, but=[OLD], doubt="it lacks several"),
    ),
)
def test_a_revocation_is_settled_by_the_list(situation: Situation) -> None:
    situation.check()


def abandoned(policy: Policy, record: Record, keys: Keys, now: datetime) -> Step:
    return last_step(record, keys, now)


@table(
    row(
        "nothing happens to the keys of a policy that is not configured any more",
        Do.WAIT,
        "policy ci is no longer in the configuration; its keys are left alone",
        record=PAIR,
        decide=abandoned,
        at_poll=True,
    ),
    row(
        "an orphan that nobody was offered still goes",
        Do.REVOKE,
        "nobody was given this key",
        record=a_record(a_live(5), an_orphan(6)),
        decide=abandoned,
        key_id=106,
    ),
    row(
        "an orphan that was offered stays, superseded or not",
        Do.WAIT,
        "left alone",
        record=a_record(an_orphan(5, CI, superseded={CI: NOW - 9 * DAY}), a_live(6)),
        decide=abandoned,
    ),
    row(
        "what an operator condemned goes",
        Do.REVOKE,
        record=a_record(a_live(5, condemned=Condemned.NOW)),
        decide=abandoned,
        key_id=105,
    ),
    row(
        "what leaked goes when its successor is live, though that one did not leak",
        Do.REVOKE,
        f"its successor {named(6)} is live",
        record=a_record(a_retiring(5, condemned=Condemned.AT_LIVE), a_live(6)),
        decide=abandoned,
        key_id=OLD,
    ),
    row(
        "what leaked stays as long as it is live itself",
        Do.WAIT,
        "left alone",
        record=a_record(a_retiring(5), a_live(6, condemned=Condemned.AT_LIVE)),
        decide=abandoned,
    ),
    row(
        "a key that was on its way is an orphan now",
        Do.ABANDON,
        record=a_record(a_live(5), a_generation(6)),
        decide=abandoned,
        key_id=106,
    ),
    row(
        "an order to rotate does not join a key that was on its way",
        Do.ABANDON,
        record=a_record(a_live(5), a_generation(6), orders=(an_order(),)),
        decide=abandoned,
    ),
    row(
        "an order to revoke is taken up",
        Do.OBEY,
        record=a_record(
            a_live(5),
            orders=(
                an_order(1),
                a_revoke_order(105, 2),
            ),
        ),
        decide=abandoned,
        order=2,
    ),
    row(
        "an order to rotate waits, and lapses like every order",
        Do.LAPSE,
        record=a_record(a_live(5), orders=(an_order(1, at=NOW - 2 * HOUR),)),
        decide=abandoned,
        order=1,
    ),
    row(
        "an order to rotate mints nothing",
        Do.WAIT,
        "left alone",
        record=a_record(a_live(5), orders=(an_order(1, leaked=True, now=True),)),
        decide=abandoned,
    ),
    row(
        "an older key that is gone from Neon is forgotten",
        Do.FORGET,
        record=a_record(a_retiring(5, absence=Absence(2, NOW, NOW)), a_live(6)),
        decide=abandoned,
        key_id=OLD,
    ),
)
def test_a_policy_that_was_taken_out_of_the_configuration(situation: Situation) -> None:
    situation.check()


@pytest.mark.parametrize(
    ("gap", "grace", "at_most", "set_by_user", "expected"),
    [
        pytest.param(None, DAY, 7 * DAY, None, HOUR, id="auto is an hour where no gap is known"),
        pytest.param(None, 10 * MINUTE, 7 * DAY, None, 10 * MINUTE, id="auto is the grace period if that is shorter"),
        pytest.param(20 * MINUTE, DAY, 7 * DAY, None, HOUR, id="auto is at least an hour"),
        pytest.param(20 * MINUTE, 10 * MINUTE, 7 * DAY, None, 40 * MINUTE, id="auto is twice the longest gap"),
        pytest.param(4 * DAY, DAY, 7 * DAY, None, 7 * DAY, id="auto is at most hold.at_most"),
        pytest.param(4 * DAY, DAY, 7 * DAY, 10 * DAY, 10 * DAY, id="a duration of the configuration is taken as it is"),
        pytest.param(4 * DAY, DAY, 7 * DAY, timedelta(0), timedelta(0), id="0s is never"),
    ],
)
def test_how_long_an_old_key_must_have_been_unused(
    gap: timedelta | None, grace: timedelta, at_most: timedelta, set_by_user: timedelta | None, expected: timedelta
) -> None:
    policy = a_policy(grace=grace, hold=a_hold(while_old_key_used_within=set_by_user, at_most=at_most))
    assert quiet_period(policy, a_retiring(5, longest_gap=gap)) == expected
