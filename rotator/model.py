"""The nouns: what a policy asks for, what is remembered, what Neon shows, what to do next.

Everything here is frozen and holds no secret; of a secret only the fingerprint is known. All
times are aware UTC datetimes on Neon's clock (see `clock.py`). `Record` and what it is made of
are written to the state as JSON; every field that was added after version 1 has a default, so
that records of older versions of the program are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from enum import StrEnum

DOCUMENT_VERSION = 1
MAX_OLDER_KEYS = 5
LIST_MAX_AGE = timedelta(seconds=30)
SEEN_ALIVE_MAX_AGE = timedelta(minutes=1)
CHECK_AGAIN_AFTER = timedelta(seconds=15)
CLOSED_NAME_KEPT = timedelta(days=30)
ORDER_LAPSES_AFTER = timedelta(hours=1)
PERSONAL = "personal"
YEARS = range(1970, 3000)  # of every time taken in: so that what is reckoned from one stays in the calendar


# What a user declares


@dataclass(frozen=True)
class Scope:
    """What a key may do: everything of a person, an organization's, or one project's."""

    organization: str | None = None
    project: str | None = None

    @property
    def account(self) -> str:
        """The list that keys of this scope are in: `personal` or the organization's id."""
        return self.organization or PERSONAL

    def __str__(self) -> str:
        if self.project:
            return f"project {self.project} of {self.organization}"
        return f"organization {self.organization}" if self.organization else PERSONAL


@dataclass(frozen=True)
class Every:
    """A rotation this long after the live key was created."""

    interval: timedelta


@dataclass(frozen=True)
class Cron:
    """A rotation at the first fire time after the live key was created. Five fields, as cron(8) reads them."""

    expression: str
    timezone: str


@dataclass(frozen=True)
class Window:
    """When creations, first offers and revocations may happen; over midnight if `start` > `end`.

    `days` are weekdays, Monday is 0; a window over midnight belongs to the day that it opens on.
    """

    days: frozenset[int]
    start: time
    end: time
    timezone: str


class Then(StrEnum):
    KEEP = "keep"
    REVOKE = "revoke"


class OnMissing(StrEnum):
    ALERT = "alert"
    REPLACE = "replace"


@dataclass(frozen=True)
class Hold:
    """When an old key past its grace is kept. `while_old_key_used_within` None means `auto`."""

    while_old_key_used_within: timedelta | None = None
    until_new_key_used: bool = False
    at_most: timedelta = timedelta(days=7)
    then: Then = Then.KEEP


@dataclass(frozen=True)
class SinkRef:
    """A sink as the decision knows it.

    `target` is what a receipt belongs to (type and path and entry, URL, or command), `settings` a
    digest of all its settings, `pause` how long after an offer that has no recorded outcome another
    generation may not be offered, `reads_back` whether the sink can tell what it holds.
    """

    name: str
    target: str
    settings: str = ""
    pause: timedelta = timedelta(0)
    reads_back: bool = False


@dataclass(frozen=True)
class Policy:
    """What to rotate, how often, and where to hand it."""

    name: str
    rotate: Every | Cron
    deliver_to: tuple[SinkRef, ...]
    scope: Scope = Scope()
    adopt: int | None = None
    jitter: timedelta = timedelta(0)
    window: Window | None = None
    grace_period: timedelta = timedelta(hours=24)
    hold: Hold = Hold()
    on_missing: OnMissing = OnMissing.ALERT
    management_key: bool = False
    paused: bool = False
    renamed_from: str | None = None


# What Neon shows


@dataclass(frozen=True)
class Key:
    """One key as Neon lists it. `last_used_from` holds addresses, the client's first."""

    id: int
    name: str
    created_at: datetime
    created_by: str | None = None
    last_used_at: datetime | None = None
    last_used_from: tuple[str, ...] = ()
    project: str | None = None


@dataclass(frozen=True)
class KeyList:
    """One answer of Neon: the keys of an account, and when they were asked for.

    `doubt` says why the absence of a key from this list is not believed, or is empty. `confirms` is how
    many polls in a row agreed before it was believed. `polled` is false for a list that was read between
    two polls: it shows what is there, but what it lacks is not counted.
    """

    account: str
    requested_at: datetime
    keys: Mapping[int, Key]
    doubt: str = ""
    confirms: int = 1
    polled: bool = True


class Held(StrEnum):
    """What a sink that reads back was found to hold."""

    NOTHING = "nothing"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Misdated:
    """That the clock had stood still: what it dated after `since`, up to `until`, may be from as late as `at`."""

    since: datetime
    until: datetime
    at: datetime


@dataclass(frozen=True)
class Keys:
    """What was seen outside in one look.

    `lists` by account, the newest answer each; `unreadable` the accounts whose list could not be had in
    this turn, each with why; `since` when this run of the program began; `in_hand` the ids of keys whose
    secret this process holds; `contents` what sinks that read back hold, by target: a fingerprint or a
    `Held`; `own` the ids of keys that may be the one this process authenticates with, each with how that
    is known; `usage_lag` how far `last_used_at` lags behind at the least, as far as that can be measured;
    `owners` which other policy owns a key; `distrust` why the clock is not to be trusted, or empty; `misdated` which
    times this run recorded too early.
    """

    lists: Mapping[str, KeyList] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    in_hand: frozenset[int] = frozenset()
    contents: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[int, str] = field(default_factory=dict)
    usage_lag: timedelta = timedelta(0)
    owners: Mapping[int, str] = field(default_factory=dict)
    distrust: str = ""
    misdated: tuple[Misdated, ...] = ()


# What is remembered


class Check(StrEnum):
    """What Neon said when a new key was first used."""

    PENDING = "pending"
    PASSED = "passed"
    INCONCLUSIVE = "inconclusive"
    REFUSED = "refused"


class Condemned(StrEnum):
    """That an operator ordered a key's revocation: at the last receipt of its successor, or at once."""

    AT_LIVE = "at_live"
    NOW = "now"


@dataclass(frozen=True)
class Offer:
    """That a sink was offered a key: when last, how often that failed in a row, when to try again."""

    at: datetime
    failures: int = 0
    retry_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True)
class Orphan:
    """A key whose secret was lost before it went live."""

    since: datetime
    why: str


@dataclass(frozen=True)
class Hindrance:
    """Why a key past its grace is held. `overdue` once `hold.at_most` has passed."""

    since: datetime
    why: str
    overdue: bool = False


@dataclass(frozen=True)
class Absence:
    """That lists in a row lacked a key: how many, the first and the newest."""

    polls: int
    since: datetime
    newest: datetime


@dataclass(frozen=True)
class Revocation:
    """That Neon was, or is about to be, asked to revoke. `ended_at` is None until the call has an end."""

    asked_at: datetime
    ended_at: datetime | None = None
    failures: int = 0
    retry_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One key of a policy.

    `superseded` says, by target, when a later generation was first receipted there. `excused` are the
    targets that owe an adopted key no receipt. `last_used_at` never goes back; `checked_at` is this
    program's own use of the key. `longest_gap` is the longest time seen between two uses in one run.
    """

    number: int
    key_id: int
    name: str
    scope: Scope
    created_at: datetime
    recorded_at: datetime
    adopted: bool = False
    fingerprint: str | None = None
    check: Check = Check.PENDING
    checked_at: datetime | None = None
    offers: Mapping[str, Offer] = field(default_factory=dict)
    receipts: Mapping[str, datetime] = field(default_factory=dict)
    superseded: Mapping[str, datetime] = field(default_factory=dict)
    excused: tuple[str, ...] = ()
    live_since: datetime | None = None
    retiring_since: datetime | None = None
    orphan: Orphan | None = None
    held: Hindrance | None = None
    condemned: Condemned | None = None
    revocation: Revocation | None = None
    seen_at: datetime | None = None
    absence: Absence | None = None
    missing_reported: bool = False
    last_used_at: datetime | None = None
    last_used_from: tuple[str, ...] = ()
    longest_gap: timedelta | None = None


@dataclass(frozen=True)
class Intent:
    """That Neon was, or is about to be, asked to create the key `name`. `ended_at` as in `Revocation`."""

    name: str
    generation: int
    scope: Scope
    at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Rotation:
    """A rotation that was begun and has not ended in a live key yet.

    `urgent` when somebody may be left with a key that does not work, so that no window is waited for;
    `ordered` when an operator ordered it, so that a first attempt that fails does not end the order.
    """

    since: datetime
    why: str
    urgent: bool = False
    ordered: bool = False


@dataclass(frozen=True)
class ClosedName:
    """The name of an intent, or of a key that left the list, under which a key may yet turn up.

    `offered` are the targets that may hold it then, and `superseded` since when some had a later one. `key_id` is the
    key's, if it is known: then no other key of that name is meant, for names that people give are given again.
    `condemned` is what an operator asked for; `live_since` when an adopted key went live, after keys of higher numbers.
    """

    name: str
    scope: Scope
    not_before: datetime
    closed_at: datetime
    generation: int
    offered: tuple[str, ...] = ()
    key_id: int | None = None
    superseded: Mapping[str, datetime] = field(default_factory=dict)
    condemned: Condemned | None = None
    live_since: datetime | None = None


class OrderKind(StrEnum):
    ROTATE = "rotate"
    REVOKE = "revoke"


@dataclass(frozen=True)
class Order:
    """What an operator asked for. `key_id` belongs to `revoke`, `leaked` and `now` to `rotate`."""

    id: int
    kind: OrderKind
    at: datetime
    policy: str | None = None
    key_id: int | None = None
    leaked: bool = False
    now: bool = False
    unmanaged: bool = False


@dataclass(frozen=True)
class Failure:
    """Failed attempts to mint in a row: how many, since when, when to try again, what the last one said.

    `order` is the newest order to rotate that the last attempt could not carry out.
    """

    count: int
    since: datetime
    at: datetime
    why: str
    retry_at: datetime | None = None
    order: int | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that must be remembered of one policy.

    `lost` counts keys and answers lost since something went live. `failure_notified_at` is when
    `rotation.failed` was last sent. `offered` are offers without a
    recorded outcome, by target, with when the sink's time-out ends. `gone` are targets that answered
    410, each with the settings that the sink had. `spent` are fingerprints of keys that are gone although a
    sink may still hold them, until something goes live. `orders` are kept beside the record by the store.
    """

    policy: str
    document: int = DOCUMENT_VERSION
    next_generation: int = 1
    generations: tuple[Generation, ...] = ()
    intent: Intent | None = None
    rotation: Rotation | None = None
    failure: Failure | None = None
    failure_notified_at: datetime | None = None
    lost: int = 0
    lost_retry_at: datetime | None = None
    offered: Mapping[str, datetime] = field(default_factory=dict)
    gone: Mapping[str, str] = field(default_factory=dict)
    closed: tuple[ClosedName, ...] = ()
    adopted: tuple[int, ...] = ()
    drifted: tuple[str, ...] = ()
    spent: tuple[str, ...] = ()
    paused: bool = False
    orders: tuple[Order, ...] = ()


# What to do next


class Do(StrEnum):
    """What a step does. The engine knows each; the first group changes nothing outside."""

    WAIT = "wait"
    REFUSE = "refuse"
    LOOK = "look"
    OBEY = "obey"
    LAPSE = "lapse"
    CLOSE_INTENT = "close_intent"
    RECOVER = "recover"
    ADOPT = "adopt"
    ABANDON = "abandon"
    GO_LIVE = "go_live"
    HOLD = "hold"
    RELEASE = "release"
    FORGET = "forget"
    VERIFY = "verify"
    MINT = "mint"
    DELIVER = "deliver"
    REVOKE = "revoke"


@dataclass(frozen=True)
class Step:
    """The next step for a policy, and why, in plain words.

    `until` and `at_poll` belong to WAIT and REFUSE: when to decide again, and whether the next poll may
    change the answer. `coming` says what a WAIT waits for. `key_id` is the key concerned, `sink` the name
    of the sink, `account` the list to read, `order` the order to take up. `overdue` belongs to HOLD, `gone`
    to ABANDON: the key no longer works.
    """

    do: Do
    why: str
    until: datetime | None = None
    at_poll: bool = False
    coming: Do | None = None
    key_id: int | None = None
    sink: str | None = None
    account: str | None = None
    order: int | None = None
    overdue: bool = False
    gone: bool = False


# What crosses to the adapters


@dataclass(frozen=True)
class HandOff:
    """What a sink is told beside the secret: the key, and the one that it replaces."""

    policy: str
    generation: int
    key_id: int
    key_name: str
    created_at: datetime
    fingerprint: str
    sink: str
    replaces_id: int | None = None
    replaces_name: str | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened, without a secret: for the history, the log and `notify`."""

    name: str
    why: str
    policy: str | None = None
    generation: int | None = None
    key_id: int | None = None
    key_name: str | None = None
    notify: bool = False
