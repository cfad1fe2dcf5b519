"""Situations in few words: policies, generations, records and what was seen, around one fixed moment.

Generation N of the policy `ci` has the key 100 + N, the fingerprint `sha256:N` and the name `named(N)`, and is
created N days after `FIRST`, so that later generations are younger. Everything has a default that is healthy;
a test names only what it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rotator.decide import next_step
from rotator.model import (
    Check,
    ClosedName,
    Do,
    Every,
    Failure,
    Generation,
    Hindrance,
    Hold,
    Intent,
    Key,
    KeyList,
    Keys,
    Offer,
    Order,
    OrderKind,
    Orphan,
    Policy,
    Record,
    Revocation,
    Rotation,
    Scope,
    SinkRef,
    Step,
)
from rotator.standing import live as live_key

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)  # a Monday
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
FIRST = NOW - 10 * DAY
NAME = "ci"
PERSONAL = Scope()
ORG = Scope("org-a")
PROJECT = Scope("org-a", "proj-1")
APP = SinkRef("app", "file:/etc/app.env", settings="app-1", reads_back=True)
CI = SinkRef("ci", "https://ci.example.com/hook", settings="ci-1", pause=15 * SECOND)
VAULT = SinkRef("vault", "run:vault kv put", settings="vault-1", pause=30 * SECOND)
ANY: Any = object()


def named(number: int) -> str:
    """The name of generation `number`."""
    return f"{NAME}-202611{number + 12:02}T120000Z-aaaa{number:02}"


def a_policy(*deliver_to: SinkRef, grace: timedelta = DAY, **changes: Any) -> Policy:
    """The policy `ci`: every 30 days, to the webhook `ci` unless sinks are given."""
    settings: dict[str, Any] = {"rotate": Every(30 * DAY), "deliver_to": deliver_to or (CI,), "grace_period": grace}
    return Policy(name=NAME, **{**settings, **changes})


def a_hold(**changes: Any) -> Hold:
    return Hold(**changes)


def a_generation(number: int, **changes: Any) -> Generation:
    """A generation on its way to the sinks: created and verified, offered to nobody yet."""
    created_at = changes.pop("created_at", FIRST + number * DAY)
    settings: dict[str, Any] = {
        "key_id": 100 + number,
        "name": named(number),
        "scope": PERSONAL,
        "created_at": created_at,
        "recorded_at": created_at,
        "fingerprint": f"sha256:{number}",
        "check": Check.PASSED,
        "checked_at": created_at,
    }
    return Generation(number=number, **{**settings, **changes})


def at_sinks(*sinks: SinkRef, at: datetime) -> dict[str, Any]:
    """Offers and receipts of these sinks."""
    return {"offers": {s.target: Offer(at) for s in sinks}, "receipts": {s.target: at for s in sinks}}


def a_live(number: int, *sinks: SinkRef, **changes: Any) -> Generation:
    """A live generation that the sinks (`ci` if none is given) have receipted."""
    since = changes.get("created_at", FIRST + number * DAY)
    return a_generation(number, **{"live_since": since, **at_sinks(*(sinks or (CI,)), at=since), **changes})


def a_retiring(number: int, *sinks: SinkRef, since: datetime = NOW - 2 * DAY, **changes: Any) -> Generation:
    """A retiring generation, by default since two days."""
    superseded = {sink.target: since for sink in sinks or (CI,)}
    return a_live(number, *sinks, **{"retiring_since": since, "superseded": superseded, **changes})


def an_orphan(
    number: int, *offered: SinkRef, superseded: Mapping[SinkRef, datetime] | None = None, **changes: Any
) -> Generation:
    """An orphan that these sinks were offered."""
    at = changes.get("created_at", FIRST + number * DAY)
    settings: dict[str, Any] = {
        "offers": {sink.target: Offer(at) for sink in offered},
        "superseded": {sink.target: when for sink, when in (superseded or {}).items()},
        "orphan": Orphan(at, "the process died"),
    }
    return a_generation(number, **{**settings, **changes})


def an_adopted(key_id: int = 50, **changes: Any) -> Generation:
    """A live adopted key, created 20 days ago and adopted 9 days ago; the sink `ci` owes it no receipt."""
    settings: dict[str, Any] = {
        "key_id": key_id,
        "name": f"by-hand-{key_id}",
        "created_at": NOW - 20 * DAY,
        "recorded_at": NOW - 9 * DAY,
        "adopted": True,
        "fingerprint": None,
        "checked_at": None,
        "excused": (CI.target,),
        "live_since": NOW - 9 * DAY,
    }
    return a_generation(0, **{**settings, **changes})


def a_record(*generations: Generation, **changes: Any) -> Record:
    """A record of the policy `ci`. Adopted keys are noted as adopted."""
    settings: dict[str, Any] = {
        "next_generation": 1 + max((g.number for g in generations), default=0),
        "adopted": tuple(g.key_id for g in generations if g.adopted),
    }
    return Record(policy=NAME, generations=generations, **{**settings, **changes})


def a_key(generation: Generation, **changes: Any) -> Key:
    """A generation as Neon lists it."""
    key = Key(
        id=generation.key_id,
        name=generation.name,
        created_at=generation.created_at,
        last_used_at=generation.last_used_at,
        last_used_from=generation.last_used_from,
        project=generation.scope.project,
    )
    return replace(key, **changes)


def a_foreign(key_id: int, name: str = "by-hand", **changes: Any) -> Key:
    """A key that no policy owns."""
    return replace(Key(key_id, name, NOW - 40 * DAY), **changes)


def a_list(*keys: Key, account: str = "personal", age: timedelta = timedelta(0), **changes: Any) -> KeyList:
    """A list of `keys`, requested `age` ago."""
    return KeyList(account=account, requested_at=NOW - age, keys={key.id: key for key in keys}, **changes)


def lists_of(
    record: Record,
    *more: Key,
    but: Collection[int] = (),
    age: timedelta = timedelta(0),
    accounts: Iterable[str] = ("personal",),
    **changes: Any,
) -> dict[str, KeyList]:
    """Lists that hold every key of the record but `but`, and `more` in the first account."""
    wanted = dict.fromkeys([*accounts, *(g.scope.account for g in record.generations)])
    lists = {}
    for account in wanted:
        owned = [a_key(g) for g in record.generations if g.scope.account == account and g.key_id not in but]
        extra = more if account == next(iter(wanted)) else ()
        lists[account] = a_list(*owned, *extra, account=account, age=age, **changes)
    return lists


def seen(record: Record | None = None, *more: Key, **changes: Any) -> Keys:
    """What is seen when all is well: fresh lists with every key of the record, files that hold the live key.

    `but`, `age`, `accounts`, `doubt`, `confirms` and `polled` are for the lists; the rest are fields of `Keys`.
    """
    known = record or a_record()
    about_lists = {
        name: changes.pop(name) for name in ("but", "age", "accounts", "doubt", "confirms", "polled") if name in changes
    }
    current = live_key(known)
    contents = (
        {target: current.fingerprint for target in current.receipts if target.startswith("file:")}
        if current is not None and current.fingerprint
        else {}
    )
    settings: dict[str, Any] = {
        "lists": lists_of(known, *more, **about_lists),
        "contents": contents,
        "since": NOW - 30 * DAY,
    }
    return Keys(**{**settings, **changes})


def unread(account: str = "personal", why: str = "Neon is unavailable (HTTP 503)") -> dict[str, str]:
    """`Keys.unreadable` for one account."""
    return {account: why}


def an_order(number: int = 1, *, at: datetime = NOW - MINUTE, **changes: Any) -> Order:
    """An order to rotate the policy."""
    return Order(id=number, kind=OrderKind.ROTATE, at=at, policy=NAME, **changes)


def a_revoke_order(key_id: int, number: int = 1, *, at: datetime = NOW - MINUTE) -> Order:
    return Order(id=number, kind=OrderKind.REVOKE, at=at, policy=NAME, key_id=key_id)


def an_intent(number: int = 2, *, at: datetime = NOW - MINUTE, **changes: Any) -> Intent:
    return Intent(name=named(number), generation=number, scope=changes.pop("scope", PERSONAL), at=at, **changes)


def a_rotation(*, since: datetime = NOW - HOUR, **changes: Any) -> Rotation:
    return Rotation(since=since, why="it was due", **changes)


def a_failure(*, retry_at: datetime | None = NOW + MINUTE, count: int = 1, order: int | None = None) -> Failure:
    """One that was a minute ago; `order` could not be carried out."""
    at = NOW - MINUTE
    return Failure(count=count, since=at, at=at, why="the sink is down", retry_at=retry_at, order=order)


def a_closed_name(number: int, **changes: Any) -> ClosedName:
    settings: dict[str, Any] = {"not_before": FIRST + number * DAY, "closed_at": NOW - DAY, "generation": number}
    return ClosedName(named(number), changes.pop("scope", PERSONAL), **{**settings, **changes})


def asked(at: datetime = NOW - MINUTE, **changes: Any) -> Revocation:
    """A revocation that Neon was asked for."""
    return Revocation(at, **changes)


def held(why: str = "it was in use", *, since: datetime = NOW - HOUR, overdue: bool = False) -> Hindrance:
    return Hindrance(since, why, overdue)


@dataclass(frozen=True)
class Situation:
    """What there is, and what the decision must say of it. `ANY` stands for what the row is not about."""

    policy: Policy
    record: Record
    keys: Keys
    do: Do
    why: tuple[str, ...]
    now: datetime
    answers: Mapping[str, Any]
    decide: Callable[[Policy, Record, Keys, datetime], Step]

    def check(self) -> None:
        step = self.decide(self.policy, self.record, self.keys, self.now)
        assert step.do is self.do, step
        for words in self.why:
            assert words in step.why, step.why
        for field, expected in self.answers.items():
            assert getattr(step, field) == expected, (field, step)
        assert step.until is None or step.until > self.now, step


def row(
    says: str,
    do: Do,
    *why: str,
    policy: Policy | None = None,
    record: Record | None = None,
    keys: Keys | None = None,
    now: datetime = NOW,
    decide: Callable[[Policy, Record, Keys, datetime], Step] = next_step,
    **answers: Any,
) -> Any:
    """A situation of a table, with its sentence as the id; `why` are words that the answer must contain."""
    known = record if record is not None else a_record()
    situation = Situation(
        policy or a_policy(), known, keys if keys is not None else seen(known), do, why, now, answers, decide
    )
    return pytest.param(situation, id=says)


def table(*rows: Any) -> pytest.MarkDecorator:
    """The test takes each `situation` of the table."""
    return pytest.mark.parametrize("situation", rows)
