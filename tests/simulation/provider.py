"""Neon as the product meets it: `ports.Provider` over the account, with answers that are lost, late or wrong.

It does with time what `neon.Neon` does: each request waits for the rate limit, sets the clock by the `Date` of its
answer, and is remembered as a use of our own key. The outcomes are those that `neon.Neon` promises; how bytes
become outcomes is tested elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.clock import NeonClock
from rotator.errors import KeyNotFound, KeyRefused, NeedsPerson, OutcomeUnknown, TryLater
from rotator.model import Check, Key, KeyList, Scope
from rotator.neon import CHECK_PAUSES, OWN_USES, PATIENCE
from rotator.rate import RateLimit
from rotator.secret import Secret, fingerprint

from .account import OWN_ADDRESS, Account, Made
from .pace import START, Stop, whole
from .troubles import Trouble

HOUR = 3600.0
_TIME_OUT = 30.0


@dataclass
class Weather:
    """How Neon is at the moment; each of these lasts until its time."""

    down_until: float = 0.0
    refuses_until: float = 0.0
    partial_until: float = 0.0
    partial_lot: float = 0.0
    empty_until: float = 0.0
    stale_until: float = 0.0
    stale_since: float = 0.0


@dataclass(frozen=True)
class Shown:
    """A list as the product got it, and when it was really asked for."""

    asked: float
    since_boot: float
    keys: dict[int, Key]


@dataclass(frozen=True)
class Hooks:
    """What the world does around each call: `boundary` may end the process, `meanwhile` lets others act."""

    boundary: Callable[[str], None]
    meanwhile: Callable[[], None]
    trouble: Callable[[str], Trouble | None]
    creating: Callable[[Scope, str], int]
    create_ended: Callable[[str, timedelta | None], None]
    revoking: Callable[[Made | None, str, int], None]
    revoke_ended: Callable[[int, bool, timedelta | None], None]
    created: Callable[[Made, int], None]
    killed: Callable[[Made], None]
    latency: Callable[[], float]
    process: Callable[[], int]
    requested: Callable[[], None]
    heard: Callable[[], None]
    wrong_date: Callable[[float], None]


class Provider:
    """One process's way to Neon."""

    def __init__(
        self,
        account: Account,
        clock: NeonClock,
        rate: RateLimit,
        stop: Stop,
        weather: Weather,
        reference: Callable[[], str],
        hooks: Hooks,
    ) -> None:
        self._account = account
        self._pace = account.pace
        self._clock = clock
        self._rate = rate
        self._stop = stop
        self._weather = weather
        self._reference = reference
        self._hooks = hooks
        self._secret: Secret | None = None
        self._uses: list[tuple[datetime, datetime, bool]] = []
        self._dates: list[float] = []
        self._answers = 0
        self.shown: dict[str, Shown] = {}
        self.own_calls: deque[float] = deque(maxlen=200)

    # What is known beside

    @property
    def management_key(self) -> Secret:
        value = self._reference()
        if self._secret is None or self._secret.reveal() != value:
            self._secret, self._uses = Secret(value), []
        return self._secret

    @property
    def own_uses(self) -> tuple[tuple[datetime, datetime], ...]:
        return tuple((start, end) for start, end, _ in self._uses)

    # The calls

    def list_keys(self, account: str) -> KeyList:
        trouble = self._hooks.trouble("list")
        kind = trouble.kind if trouble else ""
        lot = trouble.lot if trouble else 0.0
        answer: dict[int, Key] = {}

        def serve() -> bool:
            nonlocal answer
            if not self._authenticated(kind == "list unauthorized"):
                raise KeyRefused("Neon refused the management key", "put a valid one there")
            self._pass(kind == "list unavailable", kind == "list refused", lot)
            weather, now = self._weather, self._pace.seconds
            back = 0.0
            if now < weather.stale_until:
                back = now - weather.stale_since
            elif kind == "list stale":
                back = 10 ** (1 + lot * 4.5)  # ten seconds to four days
            answer = self._account.listed(account, back)
            if kind == "list forgets uses":  # but those of our own key
                own = self.management_key.fingerprint
                answer = {i: self._forgets(key, own, 10 ** (2 + lot * 4)) for i, key in answer.items()}
            if kind == "list empty" or now < weather.empty_until:
                answer = {}
            elif kind == "list partial" and lot < 0.6:
                ours = [key_id for key_id in answer if self._account.keys[key_id].line is not None]
                answer.pop(ours[int(lot * 997) % min(3, len(ours))] if ours else 0, None)
            elif kind == "list partial" or now < weather.partial_until:
                share = lot or weather.partial_lot
                answer = {i: key for i, key in answer.items() if (i * 7919 % 101) / 101 > share * 0.9}
            return True

        asked_at, asked = self._call(serve, counted=True)
        since_boot = self._pace.since_boot() - (self._pace.seconds - asked)
        self.shown[account] = Shown(asked, since_boot, answer)
        self._account.asked[account] = asked
        self._note_uses(answer)
        for made in self._account.alive.values():
            if made.line is not None and made.scope.account == account:
                made.lacked += made.id not in answer
        return KeyList(account=account, requested_at=asked_at, keys=answer)

    def create_key(self, scope: Scope, name: str) -> tuple[Key, Secret]:
        trouble = self._hooks.trouble("create")
        kind, lot = (trouble.kind, trouble.lot) if trouble else ("", 0.0)
        made: Made | None = None
        line = -1

        def make() -> Made:
            found = self._account.create(scope, name, by_product=True)
            self._hooks.created(found, line)
            return found

        def serve() -> bool:
            nonlocal made, line
            line = self._hooks.creating(scope, name)
            if not self._authenticated(kind == "create unauthorized"):
                raise KeyRefused("Neon refused the management key", "put a valid one there")
            self._pass(kind == "create unavailable", kind == "create refused", lot)
            taken = self._account.by_name.get(name)
            if taken is not None and taken.alive:
                raise OutcomeUnknown(f"Neon says that the name {name} is taken", "the next list tells")
            if kind == "create lost, not done":
                return False
            if kind == "create lost, done later":
                self._pace.after(10 ** (lot * 4.8), make)  # a second to seventeen hours
                return False
            made = make()
            return kind != "create lost, done"

        try:
            self._call(serve, counted=True, what=f"create {name}", lost="whether a key was created is not known")
        except (TryLater, NeedsPerson) as error:
            self._hooks.create_ended("refused", error.retry_after if isinstance(error, TryLater) else None)
            raise
        except OutcomeUnknown:
            self._hooks.create_ended("unknown", None)
            raise
        self._hooks.create_ended("made", None)
        assert made is not None
        made.held_by = self._hooks.process()
        return Key(made.id, name, made.created_at, project=scope.project), Secret(made.secret)

    def revoke_key(self, account: str, key_id: int, patience: float | None = PATIENCE) -> None:
        trouble = self._hooks.trouble("revoke")
        kind, lot = (trouble.kind, trouble.lot) if trouble else ("", 0.0)
        key = self._account.alive.get(key_id)
        if key is not None and key.scope.account != account:
            key = None

        def kill() -> None:
            if key is not None and key.alive:
                self._account.kill(key, key.death or "revoked")
                self._hooks.killed(key)

        def serve() -> bool:
            self._hooks.revoking(key, account, key_id)
            if not self._authenticated(False):
                raise KeyRefused("Neon refused the management key", "put a valid one there")
            self._pass(kind == "revoke unavailable", kind == "revoke refused", lot)
            if key is None or not key.alive or kind == "revoke not found":
                raise KeyNotFound(f"Neon knows no key {key_id}", "the next list tells")
            if kind == "revoke lost, not done":
                return False
            if kind == "revoke lost, done later":
                self._pace.after(1 + 59 * lot, kill)
                return False
            kill()
            return kind != "revoke lost, done"

        what = f"revoke {key_id}"
        try:
            self._call(serve, counted=True, what=what, lost="whether it was revoked is not known", patience=patience)
        except (TryLater, NeedsPerson, KeyNotFound, OutcomeUnknown) as error:
            self._hooks.revoke_ended(key_id, False, error.retry_after if isinstance(error, TryLater) else None)
            raise
        self._hooks.revoke_ended(key_id, True, None)

    def check_key(self, secret: Secret) -> Check:
        trouble = self._hooks.trouble("check")
        kind = trouble.kind if trouble else ""
        key = self._account.by_secret[secret.reveal()]
        for pause in (*CHECK_PAUSES, None):

            def serve() -> bool:
                now = self._pace.seconds
                if kind == "check unavailable" or now < self._weather.down_until:
                    raise TryLater("Neon is unavailable (HTTP 503)")
                if kind == "check refused":
                    raise KeyRefused("refused")
                key.checked.append(float(int(now)))
                if not self._account.use(key, OWN_ADDRESS):
                    raise KeyRefused("refused")
                return True

            try:
                self._rate.acquire(PATIENCE)
                self._call(serve, counted=False, waits=False)
            except TryLater:
                return Check.INCONCLUSIVE
            except KeyRefused:
                if pause is not None:
                    self._stop.wait(pause)
                continue
            return Check.PASSED
        key.refused = True
        return Check.REFUSED

    def whoami(self) -> object:
        def serve() -> bool:
            if not self._authenticated(False):
                raise KeyRefused("Neon refused the management key", "put a valid one there")
            self._pass(False, False, 0.5)
            return True

        self._call(serve, counted=True)
        return True

    # One request

    def _call(
        self,
        serve: Callable[[], bool],
        *,
        counted: bool,
        what: str = "",
        lost: str = "",
        patience: float | None = PATIENCE,
        waits: bool = True,
    ) -> tuple[datetime, float]:
        """Send, let Neon act, hear its clock. When it was asked for, on the product's clock and in truth."""
        if waits:
            self._rate.acquire(patience)
        if what:
            self._hooks.boundary(f"before {what}")
        self._hooks.requested()
        clock = self._clock
        known, before, sent = clock.skew() is not None, clock.now(), clock.monotonic()
        asked = self._pace.seconds
        self._pace.advance(self._hooks.latency())
        answered, failure = False, None
        try:
            answered = serve()
        except (TryLater, NeedsPerson, KeyNotFound, OutcomeUnknown) as error:
            answered, failure = not isinstance(error, TryLater), error
        if what:
            self._hooks.meanwhile()
        lost_answer = failure is None and not answered
        self._pace.advance(_TIME_OUT if lost_answer else self._hooks.latency())
        received = clock.monotonic()
        if answered:
            clock.heard(self._date(), received, sent)
            self._hooks.heard()
        after, lasted = clock.now(), timedelta(seconds=clock.monotonic() - sent)
        asked_at = min(before, after - lasted) if known else after - lasted
        if counted and not isinstance(failure, KeyRefused):
            self._uses.append((asked_at, max(asked_at, after), answered))
            sure = [place for place, use in enumerate(self._uses) if use[2]]
            start = sure[-OWN_USES] if len(sure) >= OWN_USES else 0
            self._uses = self._uses[start:][-4 * OWN_USES :]
        if what:
            self._hooks.boundary(f"after {what}")
        if failure is not None:
            raise failure
        if lost_answer:
            raise OutcomeUnknown(f"no answer within {_TIME_OUT:g} s; {lost}", "the next list tells")
        return asked_at, asked

    def _forgets(self, key: Key, own: str, back: float) -> Key:
        made = self._account.keys[key.id]
        use = made.last_use(self._pace.seconds - back)
        if fingerprint(made.secret) == own:
            return key
        return replace(key, last_used_at=START + timedelta(seconds=use[0]) if use else None)

    def _authenticated(self, refused: bool) -> bool:
        """Whether Neon takes our own key; if so, this is a use of it."""
        weather, now = self._weather, self._pace.seconds
        if refused or now < weather.refuses_until:
            return False
        if now < weather.down_until:
            return True
        own = self._account.by_secret.get(self.management_key.reveal())
        if own is None or not self._account.use(own, OWN_ADDRESS):
            return False
        self.own_calls.append(now)
        return True

    def _pass(self, unavailable: bool, refused: bool, lot: float) -> None:
        if unavailable or self._pace.seconds < self._weather.down_until:
            asked = timedelta(seconds=round(10 ** (lot * 3.8))) if lot > 0.5 else None
            raise TryLater("Neon is unavailable (HTTP 503)", retry_after=asked)
        if refused:
            raise NeedsPerson("Neon refused (HTTP 403)", "use another key")

    def _date(self) -> datetime:
        """The answer's `Date`. A wrong one comes at most twice in a row, and never first."""
        self._answers += 1
        if self._answers > 1 and not self._dates:
            trouble = self._hooks.trouble("date")
            if trouble is not None:
                sign = 1 if trouble.lot * 1000 % 1 < 0.5 else -1
                small = trouble.kind == "date a little wrong"
                size = 3 + 280 * trouble.lot if small else 400 + 10 ** (3 + 4 * trouble.lot)
                self._dates = [sign * size] * (2 if trouble.lot > 0.6 and not small else 1)
        error = self._dates.pop() if self._dates else 0.0
        if error:
            self._hooks.wrong_date(error)
        return whole(self._pace.now() + timedelta(seconds=error))

    def _note_uses(self, answer: dict[int, Key]) -> None:
        """What the product was shown of each key's use, for the invariants."""
        for key_id, key in answer.items():
            if key.last_used_at is None:
                continue
            made = self._account.keys[key_id]
            used = (key.last_used_at - START).total_seconds()
            if key.last_used_from != (OWN_ADDRESS,) and (made.shown is None or used > made.shown):
                made.shown = used
