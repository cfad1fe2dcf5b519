"""Neon as it really is: the keys of some accounts, who uses them, and what a list shows of that.

This is the ground truth that the invariants are judged by. It knows more than Neon shows: when a key died and
why, who was given its secret, and every use. Times are seconds of `Pace`; what is shown has whole seconds.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rotator.model import PERSONAL, Key, Scope

from .pace import START, Pace, whole

OWN_ADDRESS = "192.0.2.1"
_ALPHABET = string.ascii_lowercase + string.digits
_USES_KEPT = 400


@dataclass(eq=False)
class Made:
    """One key of an account. `line` is whose policy had it made or adopted, None for a stranger's.

    `offered` and `receipted` say, by place, when a sink was first given the secret and when it said that it has
    it. `held_by` is the process that was given the secret, 0 for none. `death` says why it does not work any more.
    """

    id: int
    name: str
    scope: Scope
    created: float
    created_at: datetime
    secret: str
    order: int
    line: int | None = None
    by_product: bool = False
    adopted_at: float | None = None
    held_by: int = 0
    died: float | None = None
    death: str = ""
    offered: dict[str, float] = field(default_factory=dict)
    receipted: dict[str, float] = field(default_factory=dict)
    live_at: float | None = None
    orphaned: bool = False
    refused: bool = False
    checked: list[float] = field(default_factory=list)
    uses: list[tuple[float, str]] = field(default_factory=list)
    shown: float | None = None
    lacked: int = 0
    grace_at_death: float = 0.0
    served_at_death: frozenset[tuple[str, int]] = frozenset()

    @property
    def alive(self) -> bool:
        return self.died is None

    def alive_at(self, moment: float) -> bool:
        return self.created <= moment and (self.died is None or self.died > moment)

    def last_use(self, until: float) -> tuple[float, str] | None:
        """The newest use that is not later than that."""
        return next((use for use in reversed(self.uses) if use[0] <= until), None)


class Account:
    """All keys there are and were, of every account, by id; `alive` those that work, `asked` the newest lists."""

    def __init__(self, pace: Pace, lots: random.Random) -> None:
        self.pace = pace
        self.keys: dict[int, Made] = {}
        self.alive: dict[int, Made] = {}
        self.by_secret: dict[str, Made] = {}
        self.by_name: dict[str, Made] = {}
        self.asked: dict[str, float] = {}
        self.lag = 0.0
        self.frozen: float | None = None
        self._lots = lots
        self._ids = 2291500

    def create(self, scope: Scope, name: str, *, line: int | None = None, by_product: bool = False) -> Made:
        self._ids += self._lots.randint(1, 9)
        secret = "napi_" + "".join(self._lots.choices(_ALPHABET, k=64))
        now = self.pace.seconds
        key = Made(self._ids, name, scope, now, whole(self.pace.now()), secret, self._ids, line, by_product)
        self.keys[key.id] = self.alive[key.id] = self.by_secret[secret] = self.by_name[name] = key
        return key

    def kill(self, key: Made, death: str) -> None:
        """The key does not work from now on."""
        if key.alive:
            key.died, key.death = self.pace.seconds, death
            del self.alive[key.id]

    def use(self, key: Made, address: str) -> bool:
        """Somebody calls Neon with this key; whether that worked."""
        if not key.alive:
            return False
        key.uses.append((float(int(self.pace.seconds)), address))
        if len(key.uses) > _USES_KEPT:
            del key.uses[: _USES_KEPT // 2]
        return True

    def shown_until(self, now: float) -> float:
        """Uses later than that are not shown yet."""
        until = now - self.lag
        return min(until, self.frozen) if self.frozen is not None else until

    def listed(self, account: str, back: float = 0.0) -> dict[int, Key]:
        """What a list of an account shows, newest key first; with `back` as it was so many seconds ago."""
        moment = self.pace.seconds - back
        if back:
            there: Iterable[Made] = [key for key in self.keys.values() if key.alive_at(moment)]
        else:
            there = self.alive.values()
        until = self.shown_until(moment)
        found = [self._listed(key, until) for key in there if key.scope.account == account]
        return {key.id: key for key in reversed(found)}

    def _listed(self, made: Made, until: float) -> Key:
        use = made.last_use(until)
        return Key(
            id=made.id,
            name=made.name,
            created_at=made.created_at,
            last_used_at=START + timedelta(seconds=use[0]) if use else None,
            last_used_from=(use[1],) if use else (),
            project=made.scope.project,
        )


def strangers(account: Account, accounts: Iterable[str]) -> list[Made]:
    """Keys that other programs and people have in these accounts from the start."""
    names = ("github-integration", "terraform-prod", "neonctl")
    scopes = {name: Scope() if name == PERSONAL else Scope(name) for name in accounts}
    return [account.create(scope, f"{name}-{number}") for scope in scopes.values() for number, name in enumerate(names)]
