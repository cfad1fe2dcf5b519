"""When a new key is made, and what stands against it: a row for every sentence of the contract."""

from __future__ import annotations

from datetime import time

from builders import (
    APP,
    CI,
    DAY,
    HOUR,
    MINUTE,
    NAME,
    NOW,
    ORG,
    PROJECT,
    SECOND,
    VAULT,
    Situation,
    a_failure,
    a_foreign,
    a_generation,
    a_hold,
    a_live,
    a_policy,
    a_record,
    a_retiring,
    a_rotation,
    an_adopted,
    an_intent,
    an_order,
    an_orphan,
    held,
    named,
    row,
    seen,
    table,
    unread,
)

from rotator.due import mint_step
from rotator.model import Absence, Cron, Do, Every, Held, Offer, OnMissing, SinkRef, Window
from rotator.schedule import share

MONDAY_13 = Window(frozenset({0}), time(13), time(16), "UTC")
OLD_ENOUGH = {"created_at": NOW - 30 * DAY}
DUE = a_record(a_live(6, **OLD_ENOUGH))
MISSING = Absence(2, NOW - MINUTE, NOW)
LOOK_ALIKE = a_foreign(7, "ci-20261001T000000Z-abc123")
ORDERED = (an_order(),)
FIVE = [an_orphan(n, CI) for n in range(1, 6)]


@table(
    row("a policy without a key: at once", Do.MINT, "the policy has no live key", record=a_record()),
    row(
        "a policy without a key: jitter and window aside",
        Do.MINT,
        policy=a_policy(jitter=DAY, window=MONDAY_13),
        record=a_record(),
    ),
    row(
        "every: that long after the live key was created",
        Do.MINT,
        f"the live key {named(6)} was created at 2026-10-24 12:00:00 UTC and is due at 2026-11-23 12:00:00 UTC",
        record=DUE,
    ),
    row(
        "every: not a second before",
        Do.WAIT,
        "is due at 2026-11-23 12:00:01 UTC",
        record=a_record(a_live(6, created_at=NOW - 30 * DAY + SECOND)),
        until=NOW + SECOND,
        coming=Do.MINT,
    ),
    row(
        "every: when it was created counts, not when it went live",
        Do.MINT,
        record=a_record(a_live(6, **OLD_ENOUGH, live_since=NOW - DAY, recorded_at=NOW - DAY)),
    ),
    row(
        "every: jitter makes it later by the policy's fixed share",
        Do.WAIT,
        policy=a_policy(jitter=HOUR),
        record=DUE,
        until=NOW + HOUR * share(NAME),
    ),
    row(
        "an adopted key: that long after Neon created it",
        Do.MINT,
        policy=a_policy(rotate=Every(20 * DAY), adopt=50),
        record=a_record(an_adopted()),
    ),
    row(
        "an adopted key that is old when it is adopted is replaced at once",
        Do.MINT,
        policy=a_policy(rotate=Every(DAY), adopt=50),
        record=a_record(an_adopted(recorded_at=NOW, live_since=NOW)),
    ),
    row(
        "cron: the first fire time after the live key was created",
        Do.WAIT,
        policy=a_policy(rotate=Cron("0 13 * * *", "UTC")),
        record=a_record(a_live(6, created_at=NOW - HOUR)),
        until=NOW + HOUR,
    ),
    row(
        "cron: no jitter",
        Do.MINT,
        policy=a_policy(rotate=Cron("0 12 * * *", "UTC"), jitter=DAY),
        record=a_record(a_live(6, created_at=NOW - HOUR)),
    ),
    row(
        "cron: missed several times while down, it is due once",
        Do.WAIT,
        policy=a_policy(rotate=Cron("0 12 * * *", "UTC")),
        record=a_record(a_live(6, created_at=NOW)),
        until=NOW + DAY,
    ),
    row(
        "cron: a fire time does not cause a second key because Neon says that the first was created just before it",
        Do.WAIT,
        policy=a_policy(rotate=Cron("0 12 * * *", "UTC")),
        record=a_record(a_live(6, created_at=NOW - SECOND, recorded_at=NOW)),
        until=NOW + DAY,
    ),
    row(
        "cron: for an adopted key it counts when Neon created it",
        Do.MINT,
        policy=a_policy(rotate=Cron("0 9 1 * *", "UTC"), adopt=50),
        record=a_record(an_adopted(created_at=NOW - 60 * DAY, recorded_at=NOW)),
    ),
    row(
        "a restart by itself rotates nothing",
        Do.WAIT,
        record=a_record(a_live(6)),
        keys=seen(a_record(a_live(6)), since=NOW),
        until=NOW + 26 * DAY,
    ),
    row(
        "a sink that was added has no receipt of the live key",
        Do.MINT,
        f"sink vault has no receipt of the live key {named(6)}",
        policy=a_policy(CI, VAULT),
        record=a_record(a_live(6)),
    ),
    row(
        "an adopted key owes no receipt to the sinks that were there when it was adopted",
        Do.WAIT,
        policy=a_policy(adopt=50),
        record=a_record(an_adopted()),
    ),
    row(
        "an adopted key owes one to a sink that was added later",
        Do.MINT,
        "sink vault has no receipt of the live key by-hand-50",
        policy=a_policy(CI, VAULT, adopt=50),
        record=a_record(an_adopted()),
    ),
    row(
        "the scope changed",
        Do.MINT,
        "the scope changed from personal to organization org-a",
        policy=a_policy(scope=ORG),
        record=a_record(a_live(6)),
        keys=seen(a_record(a_live(6)), accounts=["personal", "org-a"]),
    ),
    row(
        "the scope changed to a project of the same organization",
        Do.MINT,
        "the scope changed from organization org-a to project proj-1 of org-a",
        policy=a_policy(scope=PROJECT),
        record=a_record(a_live(6, scope=ORG)),
    ),
    row(
        "a file lost the live key",
        Do.MINT,
        f"sink app has lost the live key {named(6)}",
        policy=a_policy(APP),
        record=a_record(a_live(6, APP)),
        keys=seen(a_record(a_live(6, APP)), contents={APP.target: Held.NOTHING}),
    ),
    row(
        "a file holds a key of ours that is gone from Neon",
        Do.MINT,
        "sink app holds a key that is gone from Neon",
        policy=a_policy(APP),
        record=a_record(a_live(6, APP), spent=("sha256:7",)),
        keys=seen(a_record(a_live(6, APP)), contents={APP.target: "sha256:7"}),
    ),
    row(
        "what a file of an adopted key holds is not compared with it",
        Do.WAIT,
        policy=a_policy(APP, adopt=50),
        record=a_record(an_adopted(excused=(APP.target,))),
        keys=seen(a_record(an_adopted()), contents={APP.target: "sha256:whatever"}),
    ),
    row(
        "a file that has no receipt of the live key is not compared with it",
        Do.WAIT,
        policy=a_policy(APP),
        record=a_record(a_live(6, APP, receipts={}, excused=(APP.target,))),
        keys=seen(a_record(a_live(6)), contents={APP.target: Held.NOTHING}),
    ),
    row(
        "a sink that is no file is not compared with anything",
        Do.WAIT,
        record=a_record(a_live(6)),
        keys=seen(a_record(a_live(6)), contents={CI.target: "sha256:whatever"}),
    ),
    row(
        "an order",
        Do.MINT,
        why="an operator ordered a rotation",
        record=a_record(a_live(6), orders=ORDERED),
    ),
    row(
        "an order says that the old key leaked",
        Do.MINT,
        "an operator ordered a rotation, as the old key leaked",
        record=a_record(a_live(6), orders=(an_order(leaked=True),)),
    ),
    row(
        "an order that seems to lie ahead, for it was given on a machine whose clock is wrong",
        Do.MINT,
        record=a_record(a_live(6), orders=(an_order(at=NOW + HOUR),)),
    ),
    row(
        "a live key that is gone, if the policy says so",
        Do.MINT,
        f"the live key {named(6)} is gone from Neon",
        policy=a_policy(on_missing=OnMissing.REPLACE),
        record=a_record(a_live(6, absence=MISSING)),
    ),
    row(
        "a live key that is gone is not replaced unless the policy says so",
        Do.WAIT,
        "is due at",
        record=a_record(a_live(6, absence=MISSING)),
    ),
    row(
        "one poll that lacks the live key is not enough",
        Do.WAIT,
        policy=a_policy(on_missing=OnMissing.REPLACE),
        record=a_record(a_live(6, absence=Absence(1, NOW, NOW))),
    ),
    row(
        "a rotation that has not ended",
        Do.MINT,
        "the rotation begun at 2026-11-23 11:00:00 UTC has not ended: it was due",
        record=a_record(a_live(6), rotation=a_rotation()),
    ),
    row(
        "a rotation that seems to begin only later: the clock went back",
        Do.MINT,
        record=a_record(a_live(6), rotation=a_rotation(since=NOW + HOUR)),
    ),
    row(
        "the live key was revoked",
        Do.MINT,
        "the policy has no live key",
        record=a_record(an_adopted(retiring_since=NOW - HOUR)),
    ),
)
def test_due(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "it waits until the window opens",
        Do.WAIT,
        "a rotation is due",
        "the window opens at 2026-11-23 13:00:00 UTC",
        policy=a_policy(window=MONDAY_13),
        record=DUE,
        until=NOW + HOUR,
        coming=Do.MINT,
    ),
    row(
        "an open window lets it pass",
        Do.MINT,
        policy=a_policy(window=Window(frozenset({0}), time(12), time(13), "UTC")),
        record=DUE,
    ),
    row(
        "an order does not wait for it",
        Do.MINT,
        policy=a_policy(window=MONDAY_13),
        record=a_record(a_live(6), orders=ORDERED),
    ),
    row(
        "a new sink does",
        Do.WAIT,
        "sink vault has no receipt",
        "the window opens at",
        policy=a_policy(CI, VAULT, window=MONDAY_13),
        record=a_record(a_live(6)),
    ),
    row(
        "a live key that is missing and to be replaced does not",
        Do.MINT,
        policy=a_policy(window=MONDAY_13, on_missing=OnMissing.REPLACE),
        record=a_record(a_live(6, absence=MISSING)),
    ),
    row(
        "a rotation that was begun waits for it",
        Do.WAIT,
        "the window opens at",
        policy=a_policy(window=MONDAY_13),
        record=a_record(a_live(6), rotation=a_rotation()),
    ),
    row(
        "a rotation that leaves somebody without a working key does not",
        Do.MINT,
        policy=a_policy(window=MONDAY_13),
        record=a_record(a_live(6), rotation=a_rotation(urgent=True)),
    ),
    row(
        "a rotation of a policy whose live key is missing does not",
        Do.MINT,
        policy=a_policy(window=MONDAY_13),
        record=a_record(a_live(6, absence=MISSING), rotation=a_rotation()),
    ),
    row(
        "nor does one that is due by the calendar and missing",
        Do.MINT,
        policy=a_policy(window=MONDAY_13),
        record=a_record(a_live(6, **OLD_ENOUGH, absence=MISSING)),
    ),
    row(
        "nor one whose scope changed and that is missing",
        Do.MINT,
        policy=a_policy(window=MONDAY_13, scope=ORG),
        record=a_record(a_live(6, absence=MISSING)),
        keys=seen(a_record(a_live(6)), accounts=["personal", "org-a"]),
    ),
    row(
        "nor one that a file lost and that is missing",
        Do.MINT,
        policy=a_policy(APP, window=MONDAY_13),
        record=a_record(a_live(6, APP, absence=MISSING)),
        keys=seen(a_record(a_live(6, APP)), contents={APP.target: Held.NOTHING}),
    ),
    row(
        "a missing live key that is due by the calendar, or lacks a receipt, does not",
        Do.MINT,
        policy=a_policy(CI, VAULT, window=MONDAY_13),
        record=a_record(a_live(6, absence=MISSING)),
    ),
)
def test_the_window(situation: Situation) -> None:
    situation.check()


HELD_WHY = f"{named(5)} is kept: it was used at 2026-11-23 11:59:00 UTC; it is revoked when it has not been used for 1h"
HINDERED = held(HELD_WHY)


@table(
    row(
        "a rotation that is due waits for a held key",
        Do.WAIT,
        record=a_record(a_retiring(5, last_used_at=NOW - MINUTE, held=HINDERED), a_live(6, **OLD_ENOUGH)),
        until=NOW + 59 * MINUTE,
    ),
    row(
        "it says so, and until when at most",
        Do.WAIT,
        "a rotation is due",
        f"it waits for the old key {named(5)}, at most until 2026-11-23 13:00:00 UTC",
        policy=a_policy(hold=a_hold(at_most=DAY)),
        record=a_record(
            a_retiring(5, since=NOW - 2 * DAY + HOUR, last_used_at=NOW - MINUTE, held=HINDERED), a_live(6, **OLD_ENOUGH)
        ),
        now=NOW,
        decide=mint_step,
        until=NOW + HOUR,
        coming=Do.MINT,
    ),
    row(
        "of two old keys it waits for the one that may take longer",
        Do.WAIT,
        f"the old key {named(5)}",
        record=a_record(
            a_retiring(4, since=NOW - 3 * DAY), a_retiring(5, since=NOW - 2 * DAY), a_live(6, **OLD_ENOUGH)
        ),
        decide=mint_step,
        until=NOW + 6 * DAY,
    ),
    row(
        "two old keys that may take equally long",
        Do.WAIT,
        f"the old key {named(4)}",
        record=a_record(
            a_retiring(4, since=NOW - 2 * DAY), a_retiring(5, since=NOW - 2 * DAY), a_live(6, **OLD_ENOUGH)
        ),
        decide=mint_step,
        until=NOW + 6 * DAY,
    ),
    row(
        "past hold.at_most after the end of its grace it does not wait any longer",
        Do.MINT,
        record=a_record(
            a_retiring(5, since=NOW - 8 * DAY, last_used_at=NOW - MINUTE, held=held(HELD_WHY, overdue=True)),
            a_live(6, **OLD_ENOUGH),
        ),
    ),
    row(
        "a scope change waits too",
        Do.WAIT,
        "the scope changed",
        "it waits for the old key",
        policy=a_policy(scope=ORG),
        record=a_record(a_retiring(5), a_live(6)),
        keys=seen(a_record(a_retiring(5), a_live(6)), accounts=["personal", "org-a"]),
        decide=mint_step,
    ),
    row(
        "not at all when the live key is missing",
        Do.MINT,
        policy=a_policy(on_missing=OnMissing.REPLACE),
        record=a_record(a_retiring(5, since=NOW - HOUR), a_live(6, absence=MISSING)),
    ),
    row(
        "not at all when the live key is missing and the next rotation comes by the calendar",
        Do.MINT,
        record=a_record(a_retiring(5, since=NOW - HOUR), a_live(6, **OLD_ENOUGH, absence=MISSING)),
    ),
    row(
        "not at all when the live key is missing and the scope changed",
        Do.MINT,
        policy=a_policy(scope=ORG),
        record=a_record(a_retiring(5, since=NOW - HOUR), a_live(6, absence=MISSING)),
        keys=seen(a_record(a_retiring(5), a_live(6)), accounts=["personal", "org-a"]),
    ),
    row(
        "not at all when a sink lacks a receipt",
        Do.MINT,
        policy=a_policy(CI, VAULT),
        record=a_record(a_retiring(5, since=NOW - HOUR), a_live(6)),
    ),
    row(
        "not at all when a file lost the live key",
        Do.MINT,
        policy=a_policy(APP),
        record=a_record(a_retiring(5, APP, since=NOW - HOUR), a_live(6, APP)),
        keys=seen(a_record(a_live(6, APP)), contents={APP.target: Held.NOTHING}),
    ),
    row(
        "not when it was begun already",
        Do.MINT,
        record=a_record(a_retiring(5, since=NOW - HOUR), a_live(6), rotation=a_rotation()),
    ),
    row(
        "an order does not wait",
        Do.MINT,
        record=a_record(a_retiring(5, since=NOW - HOUR), a_live(6), orders=ORDERED),
    ),
    row(
        "an offered orphan is not waited for",
        Do.MINT,
        record=a_record(an_orphan(5, CI, superseded={CI: NOW - HOUR}), a_live(6, **OLD_ENOUGH)),
    ),
)
def test_waiting_for_an_old_key(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "four older keys do not stop it",
        Do.MINT,
        record=a_record(*FIVE[:4], a_live(6, **OLD_ENOUGH)),
    ),
    row(
        "with five, orphans included, it refuses and asks for a person",
        Do.REFUSE,
        "a rotation is due",
        "5 older keys are still there",
        f"{named(1)} (id 101), {named(2)} (id 102), {named(3)} (id 103), {named(4)} (id 104) and {named(5)} (id 105)",
        "run: rotator rotate ci",
        record=a_record(*FIVE, a_live(6, **OLD_ENOUGH)),
        at_poll=True,
    ),
    row(
        "it refuses a policy without a live key as well",
        Do.REFUSE,
        "5 older keys",
        record=a_record(*FIVE, rotation=a_rotation()),
    ),
    row(
        "nothing is refused while nothing is due",
        Do.WAIT,
        record=a_record(*FIVE, a_live(6)),
    ),
    row(
        "an order is not stopped",
        Do.MINT,
        record=a_record(*FIVE, a_live(6), orders=ORDERED),
    ),
    row(
        "nor is the rotation that an order began, when its first attempt failed",
        Do.MINT,
        record=a_record(*FIVE, a_live(6), rotation=a_rotation(ordered=True)),
    ),
    row(
        "which goes on to twice as many at most",
        Do.REFUSE,
        "10 older keys",
        record=a_record(*[an_orphan(n, CI) for n in range(1, 11)], a_live(11), rotation=a_rotation(ordered=True)),
    ),
    row(
        "and not beyond nine without a refusal",
        Do.MINT,
        record=a_record(*[an_orphan(n, CI) for n in range(1, 10)], a_live(11), rotation=a_rotation(ordered=True)),
    ),
)
def test_five_older_keys(situation: Situation) -> None:
    situation.check()


VIRGIN = a_record()


@table(
    row(
        "a key named like the policy's own and nothing remembered: the state was probably lost",
        Do.REFUSE,
        "nothing is remembered of this policy",
        "ci-20261001T000000Z-abc123 (id 7)",
        "was the state lost?",
        "Set adopt: 7",
        "run: rotator rotate ci",
        keys=seen(VIRGIN, LOOK_ALIKE),
    ),
    row(
        "all such keys are named, and the newest id is proposed",
        Do.REFUSE,
        "ci-20261001T000000Z-abc123 (id 7) and ci-20261101T000000Z-zzz999 (id 9)",
        "Set adopt: 9",
        keys=seen(VIRGIN, a_foreign(9, "ci-20261101T000000Z-zzz999"), LOOK_ALIKE),
    ),
    row(
        "keys of a policy with a longer name are not taken for its own",
        Do.MINT,
        keys=seen(VIRGIN, a_foreign(7, "ci-eu-20261001T000000Z-abc123"), a_foreign(8, "xci-20261001T000000Z-abc123")),
    ),
    row(
        "nor are names that only look alike",
        Do.MINT,
        keys=seen(
            VIRGIN,
            a_foreign(7, "ci-20261001T000000Z-abc1234"),
            a_foreign(8, "ci-20261001T000000Z-ABC123"),
            a_foreign(9, "ci"),
        ),
    ),
    row(
        "keys of other accounts do not count",
        Do.MINT,
        policy=a_policy(scope=ORG),
        keys=seen(VIRGIN, LOOK_ALIKE, accounts=["personal", "org-a"]),
    ),
    row(
        "an order to rotate starts anew",
        Do.MINT,
        record=a_record(orders=ORDERED),
        keys=seen(VIRGIN, LOOK_ALIKE),
    ),
    row(
        "adopt is consent",
        Do.ADOPT,
        policy=a_policy(adopt=7),
        keys=seen(VIRGIN, LOOK_ALIKE),
        key_id=7,
    ),
    row(
        "a policy of the management key: nothing is made before the key in use is known",
        Do.REFUSE,
        "set adopt: 9 and neon.api_key_id to the same id",
        "run: rotator rotate ci",
        policy=a_policy(management_key=True),
        keys=seen(VIRGIN, own={9: "it was used when this program made its own calls"}),
        at_poll=True,
    ),
    row(
        "a policy of the management key, where several may be it",
        Do.REFUSE,
        "set adopt: ID, with the id of the key in neon.api_key",
        "rotator rotate ci to create a successor now and leave the old key alone",
        policy=a_policy(management_key=True),
        keys=seen(VIRGIN, own={8: "so", 9: "or so"}),
    ),
    row(
        "a policy of the management key that an operator orders to begin",
        Do.MINT,
        policy=a_policy(management_key=True),
        record=a_record(orders=ORDERED),
    ),
    row(
        "a record from which every key is gone is not empty",
        Do.MINT,
        record=a_record(next_generation=2),
        keys=seen(VIRGIN, LOOK_ALIKE),
    ),
    row(
        "a record with an adopted key alone is not empty",
        Do.MINT,
        policy=a_policy(rotate=Every(DAY)),
        record=a_record(an_adopted(), next_generation=1),
        keys=seen(a_record(an_adopted()), LOOK_ALIKE),
    ),
    row(
        "a list that is not believed does not prove that there are none",
        Do.WAIT,
        "the policy has no live key, but the list is empty",
        keys=seen(VIRGIN, doubt="the list is empty"),
        at_poll=True,
    ),
)
def test_an_empty_record_is_suspicious(situation: Situation) -> None:
    situation.check()


TWO = SinkRef("two", "file:/two", reads_back=True)
GONE = {CI.target: CI.settings}
DRIFT = seen(a_record(a_live(6, APP)), contents={APP.target: "sha256:foreign"})


@table(
    row(
        "paused in the configuration",
        Do.WAIT,
        "a rotation is due",
        "the policy is paused; set paused: false in the configuration",
        policy=a_policy(paused=True),
        record=DUE,
        at_poll=True,
    ),
    row(
        "paused by an operator",
        Do.WAIT,
        "the policy is paused; run: rotator resume ci",
        record=a_record(a_live(6, **OLD_ENOUGH), paused=True),
    ),
    row(
        "a pause stops an order too",
        Do.WAIT,
        "the policy is paused",
        record=a_record(a_live(6), paused=True, orders=ORDERED),
    ),
    row(
        "a sink answered 410",
        Do.REFUSE,
        "sink ci answered 410 Gone, so it wants no more keys",
        "rotator rotate ci",
        record=a_record(a_live(6, **OLD_ENOUGH), gone=GONE),
        sink="ci",
    ),
    row(
        "a sink answered 410, and the first of two did not",
        Do.REFUSE,
        "sink ci answered 410",
        policy=a_policy(VAULT, CI),
        record=a_record(a_live(6, VAULT, CI, **OLD_ENOUGH), gone=GONE),
    ),
    row(
        "a sink answered 410 and has other settings since",
        Do.MINT,
        record=a_record(a_live(6, **OLD_ENOUGH), gone={CI.target: "older settings"}),
    ),
    row(
        "a sink answered 410 and was taken out of the policy",
        Do.MINT,
        record=a_record(a_live(6, **OLD_ENOUGH), gone={VAULT.target: VAULT.settings}),
    ),
    row(
        "a sink answered 410 and an operator orders a rotation",
        Do.MINT,
        record=a_record(a_live(6), gone=GONE, orders=ORDERED),
    ),
    row(
        "a sink answered 410 to a rotation that an operator ordered",
        Do.REFUSE,
        "410 Gone",
        record=a_record(a_live(6), gone=GONE, rotation=a_rotation(ordered=True)),
    ),
    row(
        "a file holds something else: a hold until a person decides",
        Do.REFUSE,
        f"sink app holds another secret than the live key {named(6)}",
        "put the live key back",
        "rotator rotate ci",
        policy=a_policy(APP),
        record=a_record(a_live(6, APP, **OLD_ENOUGH)),
        keys=DRIFT,
        sink="app",
    ),
    row(
        "one file lost the key and another holds something else",
        Do.REFUSE,
        "sink app holds another secret",
        policy=a_policy(TWO, APP),
        record=a_record(a_live(6, TWO, APP)),
        keys=seen(a_record(a_live(6, APP)), contents={TWO.target: Held.NOTHING, APP.target: "sha256:foreign"}),
    ),
    row(
        "a file that cannot be read",
        Do.REFUSE,
        "sink app cannot be read, so what it holds is unknown",
        policy=a_policy(APP),
        record=a_record(a_live(6, APP, **OLD_ENOUGH)),
        keys=seen(a_record(a_live(6, APP)), contents={APP.target: Held.UNREADABLE}),
    ),
    row(
        "an order replaces what a file holds",
        Do.MINT,
        policy=a_policy(APP),
        record=a_record(a_live(6, APP), orders=ORDERED),
        keys=DRIFT,
    ),
    row(
        "so does the rotation that an order began",
        Do.MINT,
        policy=a_policy(APP),
        record=a_record(a_live(6, APP), rotation=a_rotation(ordered=True)),
        keys=DRIFT,
    ),
    row(
        "a file that holds the key of the rotation before, which is an orphan now, is all right",
        Do.MINT,
        policy=a_policy(APP),
        record=a_record(a_live(6, APP), an_orphan(7, APP), rotation=a_rotation()),
        keys=seen(a_record(a_live(6, APP), an_orphan(7)), contents={APP.target: "sha256:7"}),
    ),
    row(
        "a key that was never offered to the file has no business there",
        Do.REFUSE,
        policy=a_policy(APP, CI),
        record=a_record(a_live(6, APP, CI), an_orphan(7, CI), rotation=a_rotation()),
        keys=seen(a_record(a_live(6, APP), an_orphan(7)), contents={APP.target: "sha256:7"}),
    ),
    row(
        "nor has an older key",
        Do.REFUSE,
        policy=a_policy(APP),
        record=a_record(an_orphan(5, APP), a_live(6, APP, **OLD_ENOUGH)),
        keys=seen(a_record(an_orphan(5), a_live(6, APP)), contents={APP.target: "sha256:5"}),
    ),
    row(
        "the last attempt failed: its pause",
        Do.WAIT,
        "the last attempt failed: the sink is down; next try at 2026-11-23 12:01:00 UTC",
        record=a_record(a_live(6, **OLD_ENOUGH), failure=a_failure()),
        until=NOW + MINUTE,
    ),
    row(
        "the pause is over",
        Do.MINT,
        record=a_record(a_live(6, **OLD_ENOUGH), failure=a_failure(retry_at=NOW)),
    ),
    row(
        "the pause was ended by a SIGHUP",
        Do.MINT,
        record=a_record(a_live(6, **OLD_ENOUGH), failure=a_failure(retry_at=None)),
    ),
    row(
        "an order that no attempt was made for passes the pause",
        Do.MINT,
        record=a_record(a_live(6), failure=a_failure(order=1), orders=(an_order(2),)),
    ),
    row(
        "the first order there ever was passes the pause of an attempt without one",
        Do.MINT,
        record=a_record(a_live(6), failure=a_failure(), orders=(an_order(1),)),
    ),
    row(
        "an order whose own attempt failed backs off",
        Do.WAIT,
        "next try at",
        record=a_record(a_live(6), failure=a_failure(order=2), orders=(an_order(1), an_order(2))),
    ),
    row(
        "an order whose own attempt failed backs off, though the failure was noted by a local clock that is behind",
        Do.WAIT,
        "next try at",
        record=a_record(a_live(6), failure=a_failure(order=1), orders=(an_order(1, at=NOW + HOUR),)),
    ),
    row(
        "several attempts were lost: the back-off of the state",
        Do.WAIT,
        "3 attempts in a row were lost before a key went live, so the next one is made at 2026-11-23 12:02:00 UTC",
        record=a_record(a_live(6), rotation=a_rotation(), lost=3, lost_retry_at=NOW + 2 * MINUTE),
        until=NOW + 2 * MINUTE,
    ),
    row(
        "the back-off of the state is over",
        Do.MINT,
        record=a_record(a_live(6), rotation=a_rotation(), lost=3, lost_retry_at=NOW),
    ),
    row(
        "an order passes the back-off of the state",
        Do.MINT,
        record=a_record(a_live(6), lost=3, lost_retry_at=NOW + HOUR, orders=ORDERED),
    ),
    row(
        "a key is to be adopted first, and there is no list yet",
        Do.LOOK,
        "key 7 is to be adopted, so Neon's list is needed",
        policy=a_policy(adopt=7),
        record=a_record(),
        keys=seen(lists={}),
        account="personal",
    ),
    row(
        "a key is to be adopted and cannot be: nothing is made in its place",
        Do.REFUSE,
        "key 7 cannot be adopted",
        policy=a_policy(adopt=7),
        record=a_record(),
    ),
    row(
        "a key is to be adopted first",
        Do.WAIT,
        policy=a_policy(adopt=7),
        record=a_record(),
        decide=mint_step,
        why="key 7 is to be adopted first",
        coming=Do.MINT,
    ),
    row(
        "an order makes a key although one is to be adopted",
        Do.MINT,
        policy=a_policy(adopt=7),
        record=a_record(orders=ORDERED),
    ),
    row(
        "a policy with a live key rotates although another is to be adopted",
        Do.MINT,
        policy=a_policy(adopt=7),
        record=DUE,
    ),
    row(
        "no list was read yet",
        Do.LOOK,
        "a rotation is due (the policy has no live key), and Neon's list has not been read yet",
        record=a_record(),
        keys=seen(lists={}),
        account="personal",
    ),
    row(
        "no list can be read",
        Do.WAIT,
        "a rotation is due (the policy has no live key); Neon's list cannot be read: Neon is unavailable (HTTP 503)",
        record=a_record(),
        keys=seen(lists={}, unreadable=unread()),
        at_poll=True,
    ),
    row(
        "an old list will do, though there is no newer one to be had",
        Do.MINT,
        record=DUE,
        keys=seen(DUE, age=HOUR, unreadable=unread()),
    ),
    row(
        "no second key is made while the outcome of the first is open",
        Do.LOOK,
        record=a_record(a_live(6, **OLD_ENOUGH), intent=an_intent(7)),
        keys=seen(DUE, age=HOUR),
    ),
    row(
        "no second key is made while one is handed out",
        Do.WAIT,
        "sink ci did not take",
        record=a_record(
            a_live(6, **OLD_ENOUGH),
            a_generation(7, offers={CI.target: Offer(NOW, 1, NOW + MINUTE, "HTTP 500")}),
        ),
        keys=seen(a_record(a_live(6), a_generation(7)), in_hand=frozenset({107})),
        coming=Do.DELIVER,
    ),
)
def test_what_stands_against_a_new_key(situation: Situation) -> None:
    situation.check()
