"""Which step comes next: outcomes that are not known, keys that turn up, orders, hand-offs, and what goes first."""

from __future__ import annotations

from dataclasses import replace
from datetime import time
from typing import Any

import pytest
from builders import (
    APP,
    CI,
    DAY,
    FIRST,
    HOUR,
    MINUTE,
    NOW,
    ORG,
    PROJECT,
    SECOND,
    VAULT,
    Situation,
    a_closed_name,
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
    an_adopted,
    an_intent,
    an_order,
    an_orphan,
    asked,
    named,
    row,
    seen,
    table,
    unread,
)

from rotator.clock import JUMP
from rotator.decide import next_step
from rotator.model import Absence, Check, Condemned, Do, Held, Keys, Offer, Policy, Record, SinkRef, Window
from rotator.standing import INSTANT

LIVE = a_record(a_live(6))
MISSING = Absence(2, NOW - MINUTE, NOW)
AFTERNOON = Window(frozenset(range(7)), time(13), time(16), "UTC")
ENDED = an_intent(7, at=NOW - MINUTE, ended_at=NOW - 50 * SECOND)
OPEN = a_record(a_live(6), intent=ENDED, next_generation=8)
CREATED = a_foreign(107, named(7), created_at=NOW - MINUTE)


@table(
    row(
        "its outcome is unknown and no list was read: look",
        Do.LOOK,
        f"whether Neon created {named(7)} is not known; the list will tell",
        record=OPEN,
        keys=seen(lists={}),
        account="personal",
    ),
    row("a list from before the call ended does not tell", Do.LOOK, record=OPEN, keys=seen(LIVE, age=50 * SECOND)),
    row(
        "a list from after the call ended tells that nothing was created",
        Do.CLOSE_INTENT,
        f"Neon did not create {named(7)}",
        record=OPEN,
        keys=seen(LIVE, age=50 * SECOND - INSTANT),
        key_id=None,
    ),
    row(
        "a list from after the call ended tells that the key is there",
        Do.CLOSE_INTENT,
        f"Neon created {named(7)}, but its secret never arrived",
        record=OPEN,
        keys=seen(LIVE, CREATED),
        key_id=107,
    ),
    row(
        "Neon's times are whole seconds: a key from a second before the intent is its key",
        Do.CLOSE_INTENT,
        "its secret never arrived",
        record=OPEN,
        keys=seen(LIVE, a_foreign(107, named(7), created_at=NOW - MINUTE - SECOND)),
        key_id=107,
    ),
    row(
        "our clock may have been ahead by less than a jump: a key from that long before the intent is its key",
        Do.CLOSE_INTENT,
        "its secret never arrived",
        record=OPEN,
        keys=seen(LIVE, a_foreign(107, named(7), created_at=NOW - MINUTE - JUMP - SECOND)),
        key_id=107,
    ),
    row(
        "a key of the same name from before the intent is somebody else's",
        Do.CLOSE_INTENT,
        "did not create",
        record=OPEN,
        keys=seen(LIVE, a_foreign(107, named(7), created_at=NOW - MINUTE - JUMP - 2 * SECOND)),
        key_id=None,
    ),
    row(
        "a key of a similar name is somebody else's",
        Do.CLOSE_INTENT,
        "did not create",
        record=OPEN,
        keys=seen(LIVE, a_foreign(107, named(7) + "x", created_at=NOW - MINUTE)),
        key_id=None,
    ),
    row(
        "a key of the exact name is recorded even if Neon says nothing of its project",
        Do.CLOSE_INTENT,
        "its secret never arrived",
        policy=a_policy(scope=PROJECT),
        record=a_record(intent=an_intent(7, scope=PROJECT)),
        keys=seen(lists={"org-a": a_list(CREATED, account="org-a")}),
        key_id=107,
    ),
    row(
        "after a restart, when nobody knows when the call ended, a list from after the intent tells",
        Do.CLOSE_INTENT,
        "did not create",
        record=a_record(a_live(6), intent=an_intent(7)),
        keys=seen(LIVE, age=MINUTE - INSTANT),
    ),
    row(
        "after a restart a list from before the intent does not",
        Do.LOOK,
        record=a_record(a_live(6), intent=an_intent(7)),
        keys=seen(LIVE, age=MINUTE),
    ),
    row(
        "a list from the very moment after the call tells",
        Do.CLOSE_INTENT,
        record=a_record(a_live(6), intent=an_intent(7, ended_at=NOW - INSTANT)),
    ),
    row(
        "while the clock is behind the end of the call no list can tell, and none is asked for",
        Do.WAIT,
        "a list asked for after 2026-11-23 12:00:09 UTC will tell",
        record=a_record(a_live(6), intent=an_intent(7, at=NOW, ended_at=NOW + 9 * SECOND)),
        until=NOW + 9 * SECOND + INSTANT,
        coming=Do.MINT,
    ),
    row(
        "a list that is not believed does not tell that nothing was created",
        Do.WAIT,
        f"whether Neon created {named(7)} is not known; it lacks several",
        record=OPEN,
        keys=seen(LIVE, doubt="it lacks several"),
        at_poll=True,
        coming=Do.MINT,
    ),
    row(
        "a list that is not believed tells that the key is there",
        Do.CLOSE_INTENT,
        record=OPEN,
        keys=seen(LIVE, CREATED, doubt="it lacks several"),
        key_id=107,
    ),
    row(
        "a list that cannot be read is waited for",
        Do.WAIT,
        "its list cannot be read: Neon is unavailable (HTTP 503)",
        record=OPEN,
        keys=seen(LIVE, unreadable=unread()),
        at_poll=True,
        coming=Do.MINT,
    ),
    row(
        "the list of the intent's own scope is the one that tells",
        Do.LOOK,
        record=a_record(a_live(6), intent=an_intent(7, scope=ORG)),
        account="org-a",
    ),
)
def test_an_intent(situation: Situation) -> None:
    situation.check()


REMEMBERED = a_record(a_live(8), closed=(a_closed_name(6), a_closed_name(7)))
LATE_KEY = a_foreign(107, named(7), created_at=FIRST + 7 * DAY)


@table(
    row(
        "a key that turns up under the name of a closed intent is an orphan",
        Do.RECOVER,
        f"{named(7)} turned up in Neon's list although it was not there before",
        record=REMEMBERED,
        keys=seen(REMEMBERED, LATE_KEY),
        key_id=107,
        account="personal",
    ),
    row(
        "a key of that name from before the intent is somebody else's",
        Do.WAIT,
        record=REMEMBERED,
        keys=seen(REMEMBERED, a_foreign(107, named(7), created_at=FIRST + 7 * DAY - JUMP - 2 * SECOND)),
    ),
    row(
        "a key that was known is found again by its id",
        Do.RECOVER,
        record=a_record(a_live(8), closed=(a_closed_name(7, key_id=107),)),
        keys=seen(REMEMBERED, LATE_KEY),
        key_id=107,
    ),
    row(
        "another key of the name of one that was known is somebody else's, for people give names again",
        Do.WAIT,
        record=a_record(a_live(8), closed=(a_closed_name(7, key_id=99),)),
        keys=seen(REMEMBERED, LATE_KEY),
    ),
    row(
        "a key that the record knows is not found twice",
        Do.WAIT,
        record=a_record(a_live(7), closed=(a_closed_name(7),)),
    ),
    row("no list, nothing found", Do.WAIT, record=REMEMBERED, keys=seen(lists={})),
    row(
        "the account is that of the name",
        Do.RECOVER,
        policy=a_policy(scope=ORG),
        record=a_record(a_live(8, scope=ORG), closed=(a_closed_name(7, scope=ORG),)),
        keys=seen(a_record(a_live(8, scope=ORG)), LATE_KEY, accounts=["org-a"]),
        account="org-a",
    ),
)
def test_a_key_that_turns_up_later(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "a key whose process died is an orphan",
        Do.ABANDON,
        f"the process that held the secret of {named(7)} ended before it went live",
        record=a_record(a_live(6), a_generation(7), rotation=a_rotation()),
        key_id=107,
        gone=False,
    ),
    row(
        "so is one that some sinks have receipted",
        Do.ABANDON,
        policy=a_policy(CI, VAULT),
        record=a_record(a_live(6, CI, VAULT), a_live(7, CI, live_since=None), rotation=a_rotation()),
        key_id=107,
    ),
    row(
        "a key in hand is not",
        Do.DELIVER,
        record=a_record(a_live(6), a_generation(7, recorded_at=NOW)),
        keys=seen(a_record(a_live(6), a_generation(7)), in_hand=frozenset({107})),
    ),
    row("a live key and an orphan need no secret", Do.WAIT, record=a_record(a_live(6), an_orphan(7, CI))),
)
def test_a_lost_secret(situation: Situation) -> None:
    situation.check()


ADOPTING = a_policy(adopt=50)


@table(
    row(
        "the key is in the list: adopt it",
        Do.ADOPT,
        "the configuration asks to adopt by-hand",
        policy=ADOPTING,
        keys=seen(None, a_foreign(50)),
        key_id=50,
    ),
    row("no list was read: look", Do.LOOK, "is needed", policy=ADOPTING, keys=seen(lists={}), account="personal"),
    row(
        "the list cannot be read",
        Do.WAIT,
        "key 50 is to be adopted, but Neon's list cannot be read: Neon is unavailable (HTTP 503)",
        policy=ADOPTING,
        keys=seen(lists={}, unreadable=unread()),
        at_poll=True,
    ),
    row(
        "a key that another policy owns",
        Do.REFUSE,
        "key 50 cannot be adopted: it belongs to policy other",
        policy=ADOPTING,
        keys=seen(None, a_foreign(50), owners={50: "other"}),
        at_poll=True,
    ),
    row(
        "a key that is not in the list",
        Do.REFUSE,
        "key 50 cannot be adopted: it is not in the list of scope personal",
        "correct adopt or scope, or take adopt out",
        policy=ADOPTING,
        keys=seen(None, a_foreign(51)),
    ),
    row(
        "a key that is not in a list of half a minute ago",
        Do.REFUSE,
        "it is not in the list",
        policy=ADOPTING,
        keys=seen(None, a_foreign(51), age=30 * SECOND),
    ),
    row(
        "nor in an older one, which the key may be newer than: look",
        Do.LOOK,
        "key 50 is to be adopted, and may be newer than Neon's list",
        policy=ADOPTING,
        keys=seen(None, a_foreign(51), age=31 * SECOND),
        account="personal",
    ),
    row(
        "a list that is not believed does not prove that it is not there",
        Do.WAIT,
        "key 50 is to be adopted, but the list is empty",
        policy=ADOPTING,
        keys=seen(None, doubt="the list is empty"),
    ),
    row(
        "a list that is not believed, but holds it",
        Do.ADOPT,
        policy=ADOPTING,
        keys=seen(None, a_foreign(50), doubt="it lacks several"),
    ),
    row(
        "a key of another project",
        Do.REFUSE,
        "the policy's scope is organization org-a, the key's project is proj-1; correct the scope",
        policy=a_policy(adopt=50, scope=ORG),
        keys=seen(lists={"org-a": a_list(a_foreign(50, project="proj-1"), account="org-a")}),
    ),
    row(
        "a key without the project that the policy asks for",
        Do.REFUSE,
        "the key's project is none",
        policy=a_policy(adopt=50, scope=PROJECT),
        keys=seen(lists={"org-a": a_list(a_foreign(50), account="org-a")}),
    ),
    row(
        "a key that was adopted before is not adopted again, though it is gone",
        Do.WAIT,
        policy=ADOPTING,
        record=a_record(a_live(6), adopted=(50,)),
    ),
    row(
        "a second key",
        Do.ADOPT,
        policy=a_policy(adopt=51),
        record=a_record(an_adopted(50)),
        keys=seen(a_record(an_adopted(50)), a_foreign(51)),
        key_id=51,
    ),
    row(
        "a refusal is told, and does not hold up a hand-off",
        Do.DELIVER,
        policy=ADOPTING,
        record=a_record(a_live(6), a_generation(7, recorded_at=NOW)),
        keys=seen(a_record(a_live(6), a_generation(7)), in_hand=frozenset({107})),
    ),
)
def test_adopting(situation: Situation) -> None:
    situation.check()


IN_HAND = a_record(a_live(6), a_generation(7, recorded_at=NOW), rotation=a_rotation())
HELD_KEYS = seen(IN_HAND, in_hand=frozenset({107}))


@table(
    row(
        "older than an hour it lapses",
        Do.LAPSE,
        "the order to rotate given at 2026-11-23 10:59:59 UTC is older than an hour and lapses; give it again",
        record=a_record(a_live(6), orders=(an_order(3, at=NOW - HOUR - SECOND),)),
        order=3,
    ),
    row(
        "an order to revoke lapses too",
        Do.LAPSE,
        "the order to revoke",
        record=a_record(a_live(6), orders=(a_revoke_order(106, at=NOW - 2 * HOUR),)),
    ),
    row("at an hour it does not", Do.MINT, record=a_record(a_live(6), orders=(an_order(at=NOW - HOUR),))),
    row(
        "revoke: taken up at once",
        Do.OBEY,
        why="an operator ordered a revocation",
        record=a_record(a_live(6), orders=(a_revoke_order(106, 4),)),
        order=4,
        key_id=106,
    ),
    row(
        "rotate: ends with the intent, so it is not taken up by itself",
        Do.MINT,
        "an operator ordered a rotation",
        record=a_record(a_live(6), orders=(an_order(),)),
    ),
    row(
        "rotate: given during a rotation it joins it",
        Do.OBEY,
        why="an operator ordered a rotation, and one is under way: they are one",
        record=a_record(a_live(6), a_generation(7, recorded_at=NOW), orders=(an_order(5),)),
        keys=HELD_KEYS,
        order=5,
    ),
    row(
        "rotate: while the outcome of a creation is open it waits for that",
        Do.WAIT,
        "is not known",
        record=a_record(a_live(6), intent=ENDED, orders=(an_order(5),)),
        keys=seen(LIVE, unreadable=unread()),
    ),
    row(
        "leaked: nothing is condemned before the new key",
        Do.MINT,
        "as the old key leaked",
        record=a_record(a_live(6), orders=(an_order(leaked=True),)),
    ),
    row(
        "leaked, now: every key is condemned before a new one is made",
        Do.OBEY,
        why="an operator ordered every key of the policy to be revoked before a new one is made",
        record=a_record(a_live(6), orders=(an_order(6, leaked=True, now=True),)),
        order=6,
    ),
    row(
        "leaked, now: one that is not condemned yet is enough",
        Do.OBEY,
        record=a_record(
            a_retiring(5, condemned=Condemned.NOW),
            a_live(6, condemned=Condemned.AT_LIVE),
            orders=(an_order(leaked=True, now=True),),
        ),
    ),
    row(
        "leaked, now: what is condemned is revoked first",
        Do.REVOKE,
        record=a_record(a_live(6, condemned=Condemned.NOW), orders=(an_order(leaked=True, now=True),)),
        key_id=106,
    ),
    row(
        "leaked, now: a revocation that cannot be had now does not hold up the new key",
        Do.MINT,
        record=a_record(
            a_live(6, condemned=Condemned.NOW, revocation=asked(ended_at=NOW, retry_at=NOW + MINUTE)),
            orders=(an_order(leaked=True, now=True),),
        ),
    ),
    row(
        "leaked, now: during a rotation it joins it",
        Do.OBEY,
        "they are one",
        record=a_record(a_live(6), a_generation(7, recorded_at=NOW), orders=(an_order(5, leaked=True, now=True),)),
        keys=HELD_KEYS,
    ),
    row(
        "now without leaked condemns nothing, and does not spin",
        Do.MINT,
        record=a_record(a_live(6), orders=(an_order(now=True),)),
    ),
    row(
        "an order that lapses comes before one that does not",
        Do.LAPSE,
        record=a_record(a_live(6), orders=(an_order(1, at=NOW - 2 * HOUR), a_revoke_order(106, 2))),
        order=1,
    ),
)
def test_orders(situation: Situation) -> None:
    situation.check()


TWO = a_policy(CI, VAULT)


def handing(**changes: Any) -> Record:
    """Generation 7 in hand, created just now."""
    settings = {"recorded_at": NOW, "created_at": NOW, **changes}
    return a_record(a_live(6, CI, VAULT), a_generation(7, **settings), rotation=a_rotation())


def in_hand(record: Record | None, **changes: Any) -> Keys:
    return seen(record, in_hand=frozenset({107}), **changes)


FAILED = Offer(NOW - MINUTE, 2, NOW + 8 * SECOND, "it answered HTTP 500")
OLDER_THAN_A_MINUTE = {"created_at": NOW - HOUR, "recorded_at": NOW - MINUTE - SECOND}


def hand_off(
    says: str,
    do: Do,
    *why: str,
    record: Record,
    policy: Policy = TWO,
    seen_as: Keys | None = None,
    **answers: Any,
) -> Any:
    """A row with generation 7 in hand."""
    return row(says, do, *why, policy=policy, record=record, keys=seen_as or in_hand(record), **answers)


@table(
    hand_off(
        "a new key is checked first",
        Do.VERIFY,
        f"{named(7)} is new: does Neon accept it?",
        record=handing(check=Check.PENDING),
        key_id=107,
    ),
    hand_off(
        "a refused key is given up",
        Do.ABANDON,
        f"Neon refused {named(7)} although it had just created it",
        record=handing(check=Check.REFUSED),
        key_id=107,
        gone=False,
    ),
    hand_off(
        "a check that ended in doubt does not stop the hand-off",
        Do.DELIVER,
        record=handing(check=Check.INCONCLUSIVE),
    ),
    hand_off(
        "the management key's successor is handed over only when Neon has accepted it",
        Do.WAIT,
        "is to be the management key, and Neon has not accepted it yet",
        policy=replace(TWO, management_key=True),
        record=handing(check=Check.INCONCLUSIVE, checked_at=NOW - SECOND),
        until=NOW + 14 * SECOND,
        coming=Do.DELIVER,
        key_id=107,
    ),
    hand_off(
        "until then it is checked again and again",
        Do.VERIFY,
        "Neon has not accepted it yet",
        policy=replace(TWO, management_key=True),
        record=handing(check=Check.INCONCLUSIVE, checked_at=NOW - 15 * SECOND),
        key_id=107,
    ),
    hand_off(
        "and once it has, it is handed over",
        Do.DELIVER,
        policy=replace(TWO, management_key=True),
        record=handing(check=Check.PASSED, checked_at=NOW - SECOND),
    ),
    hand_off(
        "the first sink of deliver_to comes first",
        Do.DELIVER,
        why=f"sink ci has no receipt of {named(7)} yet",
        record=handing(),
        sink="ci",
        key_id=107,
    ),
    hand_off(
        "in the order of deliver_to",
        Do.DELIVER,
        policy=a_policy(VAULT, CI),
        record=handing(),
        sink="vault",
    ),
    hand_off(
        "the next sink after the receipt of the one before",
        Do.DELIVER,
        record=handing(receipts={CI.target: NOW}),
        sink="vault",
    ),
    hand_off(
        "no sink before the receipt of the one before",
        Do.WAIT,
        "sink ci did not take",
        record=handing(offers={CI.target: FAILED}),
        sink="ci",
    ),
    hand_off(
        "every receipt is there: live",
        Do.GO_LIVE,
        f"every sink has receipted {named(7)}",
        record=handing(receipts={CI.target: NOW, VAULT.target: NOW}),
        key_id=107,
    ),
    hand_off(
        "while the clock is in doubt nothing goes live: the grace period of the key before would begin at a wrong time",
        Do.WAIT,
        "Neon's clock jumped",
        record=handing(receipts={CI.target: NOW, VAULT.target: NOW}),
        seen_as=seen(handing(), in_hand={107}, distrust="Neon's clock jumped"),
        until=NOW + 15 * SECOND,
        coming=Do.GO_LIVE,
        key_id=107,
    ),
    hand_off(
        "a sink that was taken out owes no receipt",
        Do.GO_LIVE,
        policy=a_policy(CI),
        record=handing(receipts={CI.target: NOW}),
    ),
    hand_off(
        "a sink that was added owes one",
        Do.DELIVER,
        policy=a_policy(CI, VAULT, APP),
        record=handing(receipts={CI.target: NOW, VAULT.target: NOW}),
        sink="app",
    ),
    hand_off(
        "a sink whose target changed owes one",
        Do.DELIVER,
        policy=a_policy(CI, SinkRef("vault", "run:other")),
        record=handing(receipts={CI.target: NOW, VAULT.target: NOW}),
        sink="vault",
    ),
    hand_off(
        "a failure is tried again after its pause",
        Do.WAIT,
        f"sink ci did not take {named(7)}: it answered HTTP 500; next try at 2026-11-23 12:00:08 UTC",
        record=handing(offers={CI.target: FAILED}),
        until=NOW + 8 * SECOND,
        coming=Do.DELIVER,
        key_id=107,
    ),
    hand_off(
        "the pause is over: again",
        Do.DELIVER,
        "again, sink ci has no receipt",
        record=handing(offers={CI.target: Offer(NOW - MINUTE, 2, NOW, "x")}),
    ),
    hand_off(
        "an offer that was not answered yet is made again",
        Do.DELIVER,
        why=f"sink ci has no receipt of {named(7)} yet",
        record=handing(offers={CI.target: Offer(NOW - MINUTE)}),
    ),
    hand_off(
        "the sink answered 410",
        Do.REFUSE,
        f"sink ci answered 410 Gone to {named(7)}",
        "rotator rotate ci to try it again",
        record=a_record(a_live(6, CI, VAULT), a_generation(7, recorded_at=NOW), gone={CI.target: CI.settings}),
        sink="ci",
        key_id=107,
    ),
    hand_off(
        "the sink answered 410 and has other settings since",
        Do.DELIVER,
        record=a_record(a_live(6, CI, VAULT), a_generation(7, recorded_at=NOW), gone={CI.target: "old"}),
    ),
    hand_off(
        "another sink answered 410 than the one whose turn it is",
        Do.DELIVER,
        record=a_record(a_live(6, CI, VAULT), a_generation(7, recorded_at=NOW), gone={VAULT.target: VAULT.settings}),
        sink="ci",
    ),
    hand_off(
        "a sink that may still be taking in an earlier key is left alone until its time-out has passed",
        Do.WAIT,
        "sink ci may still be taking in an earlier key",
        "is offered to it at 2026-11-23 12:00:10 UTC",
        record=a_record(a_live(6, CI, VAULT), a_generation(7, recorded_at=NOW), offered={CI.target: NOW + 10 * SECOND}),
        until=NOW + 10 * SECOND,
    ),
    hand_off(
        "its time-out has passed",
        Do.DELIVER,
        record=a_record(a_live(6, CI, VAULT), a_generation(7, recorded_at=NOW), offered={CI.target: NOW}),
    ),
    hand_off(
        "the same key need not wait for its own offer",
        Do.DELIVER,
        record=a_record(
            a_live(6, CI, VAULT),
            a_generation(7, recorded_at=NOW, offers={CI.target: Offer(NOW - SECOND)}),
            offered={CI.target: NOW + 10 * SECOND},
        ),
    ),
    hand_off(
        "a first offer waits for the window",
        Do.WAIT,
        f"{named(7)} is offered to sink ci when the window opens at 2026-11-23 13:00:00 UTC",
        policy=a_policy(CI, VAULT, window=AFTERNOON),
        record=handing(),
        until=NOW + HOUR,
        coming=Do.DELIVER,
    ),
    hand_off(
        "a retry does not",
        Do.DELIVER,
        policy=a_policy(CI, VAULT, window=AFTERNOON),
        record=handing(offers={CI.target: Offer(NOW - MINUTE, 1, NOW, "x")}),
    ),
    hand_off(
        "a first offer of an urgent rotation does not",
        Do.DELIVER,
        policy=a_policy(CI, VAULT, window=AFTERNOON),
        record=a_record(a_live(6, CI, VAULT), a_generation(7, recorded_at=NOW), rotation=a_rotation(urgent=True)),
    ),
    hand_off(
        "a first offer of a policy without a live key does not",
        Do.DELIVER,
        policy=a_policy(CI, VAULT, window=AFTERNOON),
        record=a_record(a_generation(7, recorded_at=NOW), rotation=a_rotation()),
    ),
    hand_off(
        "a first offer of a policy whose live key is missing does not",
        Do.DELIVER,
        policy=a_policy(CI, VAULT, window=AFTERNOON),
        record=a_record(a_live(6, CI, VAULT, absence=MISSING), a_generation(7, recorded_at=NOW), rotation=a_rotation()),
    ),
    hand_off(
        "a first offer without a rotation in the record waits for the window",
        Do.WAIT,
        policy=a_policy(CI, VAULT, window=AFTERNOON),
        record=a_record(a_live(6, CI, VAULT), a_generation(7, recorded_at=NOW)),
    ),
    hand_off(
        "a first offer in the open window is made",
        Do.DELIVER,
        policy=a_policy(CI, VAULT, window=Window(frozenset({0}), time(12), time(13), "UTC")),
        record=handing(),
    ),
    hand_off(
        "a pause of the policy does not stop a hand-off",
        Do.DELIVER,
        policy=a_policy(CI, VAULT, paused=True),
        record=handing(),
    ),
    hand_off(
        "a key seen alive a minute ago is offered without a list",
        Do.DELIVER,
        record=handing(recorded_at=NOW - MINUTE),
        seen_as=in_hand(None, lists={}),
    ),
    hand_off(
        "a key last seen alive more than a minute ago needs a list first",
        Do.LOOK,
        f"{named(7)} was last seen alive at 2026-11-23 11:58:59 UTC; is it still there?",
        record=handing(**OLDER_THAN_A_MINUTE),
        seen_as=in_hand(None, lists={}),
        account="personal",
    ),
    hand_off(
        "a list of more than a minute will not do",
        Do.LOOK,
        record=handing(**OLDER_THAN_A_MINUTE),
        seen_as=in_hand(handing(), age=61 * SECOND),
    ),
    hand_off(
        "a list of a minute that holds it will do",
        Do.DELIVER,
        record=handing(**OLDER_THAN_A_MINUTE),
        seen_as=in_hand(handing(), age=60 * SECOND),
    ),
    hand_off(
        "it counts when it was seen in a list",
        Do.DELIVER,
        record=handing(**OLDER_THAN_A_MINUTE, seen_at=NOW - MINUTE),
        seen_as=in_hand(None, lists={}),
    ),
    hand_off(
        "the list cannot be read",
        Do.WAIT,
        f"{named(7)} is offered to sink ci when Neon's list can be read: Neon is unavailable (HTTP 503)",
        record=handing(**OLDER_THAN_A_MINUTE),
        seen_as=in_hand(handing(), unreadable=unread()),
        at_poll=True,
        coming=Do.DELIVER,
    ),
    hand_off(
        "the list does not hold it: it is given up and replaced",
        Do.ABANDON,
        f"{named(7)} is gone from Neon before it went live",
        record=handing(**OLDER_THAN_A_MINUTE),
        seen_as=in_hand(handing(), but=[107]),
        key_id=107,
        gone=True,
    ),
    hand_off(
        "a list that is not believed does not hold it",
        Do.WAIT,
        f"{named(7)} is not in Neon's list, but it lacks several",
        record=handing(**OLDER_THAN_A_MINUTE),
        seen_as=in_hand(handing(), but=[107], doubt="it lacks several"),
        at_poll=True,
    ),
    hand_off(
        "two polls lacked it: it is given up although its next try would come later",
        Do.ABANDON,
        "is gone from Neon before it went live",
        record=handing(offers={CI.target: FAILED}, absence=MISSING),
        gone=True,
        key_id=107,
    ),
    hand_off(
        "one that an operator condemned is handed to nobody",
        Do.REVOKE,
        record=handing(condemned=Condemned.NOW),
        key_id=107,
    ),
    hand_off(
        "one that is to go at the next last receipt is handed out",
        Do.DELIVER,
        record=handing(condemned=Condemned.AT_LIVE),
    ),
    hand_off(
        "one that an operator condemned and that cannot be revoked now: nothing else is made meanwhile",
        Do.WAIT,
        "could not be revoked: HTTP 500",
        record=handing(
            condemned=Condemned.NOW, revocation=asked(ended_at=NOW, retry_at=NOW + MINUTE, error="HTTP 500")
        ),
        until=NOW + MINUTE,
    ),
)
def test_handing_off(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "an older key that two polls lacked is forgotten",
        Do.FORGET,
        f"{named(5)} is gone from Neon's list: somebody else revoked it",
        record=a_record(a_retiring(5, absence=MISSING), a_live(6)),
        key_id=105,
    ),
    row(
        "one that we asked to revoke was revoked as was asked",
        Do.FORGET,
        f"{named(5)} is gone from Neon's list: as was asked",
        policy=a_policy(paused=True),
        record=a_record(a_retiring(5, absence=MISSING, revocation=asked()), a_live(6)),
    ),
    row("an orphan too", Do.FORGET, record=a_record(a_live(5), an_orphan(6, CI, absence=MISSING)), key_id=106),
    row(
        "one poll is not enough",
        Do.WAIT,
        record=a_record(a_live(5), an_orphan(6, CI, absence=Absence(1, NOW, NOW))),
    ),
    row(
        "the live key is not forgotten",
        Do.WAIT,
        record=a_record(a_live(6, absence=MISSING)),
    ),
    row(
        "unless an operator ordered its revocation",
        Do.FORGET,
        record=a_record(a_live(6, absence=MISSING, condemned=Condemned.NOW)),
        key_id=106,
    ),
    row(
        "a live key that leaked is not forgotten before its successor is live",
        Do.WAIT,
        record=a_record(a_live(6, absence=MISSING, condemned=Condemned.AT_LIVE)),
    ),
)
def test_a_key_that_is_gone(situation: Situation) -> None:
    situation.check()


@table(
    row(
        "what is not known comes before what was ordered",
        Do.LOOK,
        record=a_record(a_live(6), intent=ENDED, orders=(a_revoke_order(106),)),
        keys=seen(LIVE, age=HOUR),
    ),
    row(
        "a wait does not hide a step behind it",
        Do.OBEY,
        record=a_record(a_live(6), intent=ENDED, orders=(a_revoke_order(106),)),
        keys=seen(LIVE, unreadable=unread()),
    ),
    row(
        "a hand-off comes before a revocation",
        Do.DELIVER,
        record=a_record(a_retiring(5), a_live(6), a_generation(7, recorded_at=NOW)),
        keys=seen(a_record(a_retiring(5), a_live(6), a_generation(7)), in_hand=frozenset({107})),
    ),
    row(
        "a revocation comes before a new key",
        Do.REVOKE,
        record=a_record(a_retiring(5), a_live(6, created_at=NOW - 40 * DAY)),
    ),
    row(
        "of several waits with a time the first is told",
        Do.WAIT,
        "grace period",
        record=a_record(a_retiring(4, since=NOW - HOUR), a_retiring(5, since=NOW), a_live(6)),
        until=NOW + 23 * HOUR,
        key_id=104,
        at_poll=False,
    ),
    row(
        "a wait for the next poll is told before one with a time, and both wake",
        Do.WAIT,
        "is not in Neon's list",
        record=a_record(a_retiring(5), a_live(6)),
        keys=seen(a_record(a_retiring(5), a_live(6)), but=[105]),
        until=NOW + 26 * DAY,
        at_poll=True,
    ),
    row(
        "a refusal is told before a wait, and both wake",
        Do.REFUSE,
        "cannot be adopted",
        policy=a_policy(adopt=50),
        record=a_record(a_retiring(5, since=NOW), a_live(6), adopted=()),
        until=NOW + DAY,
        at_poll=True,
    ),
    row(
        "of several refusals the first is told",
        Do.REFUSE,
        "cannot be adopted",
        policy=a_policy(APP, adopt=50),
        record=a_record(a_live(6, APP, created_at=NOW - 40 * DAY)),
        keys=seen(a_record(a_live(6, APP)), contents={APP.target: Held.UNREADABLE}),
        until=None,
    ),
)
def test_what_comes_first(situation: Situation) -> None:
    situation.check()


def test_a_decision_does_not_hang_on_the_order_of_sets() -> None:
    """Two accounts, neither list there: the old key's own is looked at first, every time."""
    record = a_record(a_retiring(5), a_live(6, scope=ORG))
    step = next_step(a_policy(scope=ORG), record, seen(lists={"x": a_list(a_key(a_live(6)))}), NOW)
    assert (step.do, step.account) == (Do.LOOK, "personal")


@pytest.mark.parametrize("number", range(3))
def test_the_same_situation_has_the_same_answer(number: int) -> None:
    record = a_record(a_retiring(5, since=NOW - number * DAY), a_live(6))
    assert next_step(a_policy(), record, seen(record), NOW) == next_step(a_policy(), record, seen(record), NOW)
