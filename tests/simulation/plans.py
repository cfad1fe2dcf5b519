"""What a world begins with: policies, places and the pace of everything, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import time, timedelta

from rotator.model import Cron, Every, Hold, OnMissing, Policy, Scope, SinkRef, Then, Window

from .places import Place

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SCOPES = (Scope(), Scope(), Scope("org-a"), Scope("org-a", "proj-1"), Scope("org-b"))
_WEEK = frozenset(range(7))


@dataclass(frozen=True)
class Tempo:
    """How fast a world lives. `gap` is the shortest time between two rotations."""

    gap: timedelta
    poll_every: timedelta
    rotations: int


TEMPOS = (
    Tempo(4 * HOUR, 10 * MINUTE, 30),
    Tempo(1 * DAY, 30 * MINUTE, 40),
    Tempo(1 * DAY, 2 * HOUR, 90),
    Tempo(4 * DAY, 4 * HOUR, 30),
    Tempo(15 * DAY, 12 * HOUR, 12),
)


def a_tempo(lots: random.Random) -> Tempo:
    return lots.choice(TEMPOS)


def a_policy(lots: random.Random, name: str, refs: tuple[SinkRef, ...], tempo: Tempo) -> Policy:
    """A policy as a person would write it for this tempo."""
    gap = tempo.gap
    rotate: Every | Cron = Every(gap * lots.choice((1, 1, 1.5, 2)))
    daily = gap >= DAY
    if lots.random() < 0.2 and gap <= 4 * DAY:
        rotate = Cron("0 */4 * * *" if not daily else "30 3 * * *" if gap == DAY else "0 3 */4 * *", "Europe/Berlin")
    window = None
    if daily and lots.random() < 0.25:
        window = (
            Window(_WEEK, time(9), time(16), "UTC")
            if lots.random() < 0.6
            else Window(_WEEK, time(22), time(4), "America/New_York")
        )
    return Policy(
        name=name,
        rotate=rotate,
        deliver_to=refs,
        scope=lots.choice(SCOPES),
        jitter=gap * 0.1 if lots.random() < 0.3 else timedelta(0),
        window=window,
        grace_period=gap * lots.choice((0.05, 0.1, 0.25, 0.6)),
        hold=a_hold(lots, gap),
        on_missing=lots.choice((OnMissing.ALERT, OnMissing.REPLACE)),
    )


def a_hold(lots: random.Random, gap: timedelta) -> Hold:
    return Hold(
        while_old_key_used_within=lots.choice((None, None, None, gap * 0.2, timedelta(0))),
        until_new_key_used=lots.random() < 0.2,
        at_most=gap * lots.choice((0.5, 2, 5)),
        then=lots.choice((Then.KEEP, Then.KEEP, Then.REVOKE)),
    )


def own_place(lots: random.Random, name: str) -> Place:
    """A place for one policy alone."""
    kind = lots.choice(("file", "file", "webhook", "command"))
    return Place(name, kind, lots.choice((10.0, 30.0)), after_write=kind == "file" and lots.random() < 0.3)


def shared_places() -> list[Place]:
    """Receivers that tell policies apart, so that several may deliver there."""
    return [Place("ci", "webhook", 15.0), Place("vault", "command", 30.0)]
