"""What goes wrong: a list of troubles, drawn from a seed or given.

A *boundary* is a moment before or after something that the product does outside or writes down, or that
happens in the world. A trouble strikes `gap` boundaries after the one before. `kind` says what it is, `lot` in
[0, 1) everything else about it (which key, how long, which answer). So a story is a list of small values: fewer
troubles, and earlier kinds in `KINDS`, make a simpler story, which is what shrinking looks for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# At once, wherever the product is.
HAPPENINGS = (
    "die",
    "stay down",
    "order rotate",
    "order leaked",
    "order leaked now",
    "order revoke",
    "order revoke unmanaged",
    "pause",
    "revoke by hand",
    "create by hand",
    "create a look-alike",
    "straggler",
    "straggler for ever",
    "sink down",
    "sink gone",
    "file lost",
    "file overwritten",
    "file unreadable",
    "state down",
    "state read-only",
    "neon down",
    "neon refuses",
    "usage lags",
    "usage frozen",
    "lists partial",
    "lists empty",
    "lists stale",
    "machine sleeps",
    "machine frozen",
    "local clock stepped",
    "sink added",
    "sink removed",
    "sink moved",
    "scope changed",
    "cadence changed",
    "policy removed",
    "policy renamed",
    "adopted elsewhere",
    "configuration loaded again",
)
# With the next call of that kind.
ARMED = {
    "create": (
        "create lost, done",
        "create lost, not done",
        "create lost, done later",
        "create refused",
        "create unavailable",
        "create unauthorized",
    ),
    "revoke": (
        "revoke lost, done",
        "revoke lost, not done",
        "revoke lost, done later",
        "revoke refused",
        "revoke unavailable",
        "revoke not found",
    ),
    "check": ("check unavailable", "check refused"),
    "list": (
        "list unavailable",
        "list stale",
        "list empty",
        "list partial",
        "list unauthorized",
        "list refused",
        "list forgets uses",
    ),
    "deliver": ("deliver fails before", "deliver fails after", "deliver late", "deliver later please", "deliver gone"),
    "sink check": ("sink check fails",),
    "write": ("write fails",),
    "date": ("date a little wrong", "date very wrong"),
    "meanwhile": ("poll meanwhile", "turns meanwhile", "configuration loaded meanwhile"),
}
ARMED_WITH = {trouble: call for call, troubles in ARMED.items() for trouble in troubles}
KINDS = (*HAPPENINGS, *ARMED_WITH)


class Trouble(NamedTuple):
    gap: int
    kind: str
    lot: float


def drawn(lots: random.Random) -> Iterator[Trouble]:
    """Troubles without end, as this seed draws them: how often, and of which kinds, is drawn first."""
    mean = lots.choice((6, 15, 40, 100, 250))
    share = lots.choice((0.15, 0.4, 1.0))
    kinds = [kind for kind in KINDS if lots.random() < share] or ["die"]
    if lots.random() < 0.6:  # the classic ones, which every world needs some of
        kinds += ["die", "die", "create lost, done", "deliver fails after", "sink down", "straggler"]
        kinds += ["write fails", "write fails", "list partial", "sink added"]
    while True:
        yield Trouble(int(lots.expovariate(1 / mean)) + 1, lots.choice(kinds), lots.random())


class Troubles:
    """Hands out each trouble when it is its time; keeps those of calls until the call comes."""

    def __init__(self, source: Iterator[Trouble] | Sequence[Trouble]) -> None:
        self._source = iter(source)
        self._next: Trouble | None = None
        self._left = 0
        self._armed: dict[str, Trouble] = {}
        self.over = False
        self.struck: dict[str, int] = {}
        self._draw()

    def _draw(self) -> None:
        self._next = next(self._source, None)
        self._left = self._next.gap if self._next else 0

    def boundary(self) -> Trouble | None:
        """The trouble that strikes at this boundary, if it is one that happens at once."""
        if self._next is None or self.over:
            return None
        self._left -= 1
        if self._left > 0:
            return None
        trouble = self._next
        self._draw()
        call = ARMED_WITH.get(trouble.kind)
        if call is not None:
            self._armed.setdefault(call, trouble)
            return None
        return trouble

    def of(self, call: str) -> Trouble | None:
        """What goes wrong with this call."""
        if not self._armed or self.over:
            return None
        trouble = self._armed.pop(call, None)
        if trouble is not None:
            self.count(trouble.kind)
        return trouble

    def count(self, kind: str) -> None:
        self.struck[kind] = self.struck.get(kind, 0) + 1

    def end(self) -> None:
        """All goes well from now on."""
        self.over = True
        self._armed.clear()
