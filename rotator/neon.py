"""Neon's API: the five calls that the program makes, and what their outcomes mean to a caller.

Every method ends in one of these ways (see `errors`), and the split is the point of this module:
- it returns: Neon did it and said so;
- TryLater: provably nothing happened. The request never left, or the answer was 423, 429 or 503;
- NeedsPerson, KeyRefused: Neon refused it, and will again;
- OutcomeUnknown (POST and DELETE only): it left, and no answer that can be read says what became of it.
  Never resent: a later list settles it.

**What is sent again**, a few times within some ten seconds, with pauses that a stop ends: whatever provably did
nothing, and a GET besides after a broken connection or a 5xx. Longer waits belong to the caller, whose state
outlives the process. A 429 holds back every thread, through the rate limit that stands before each request.

**The management key** comes from its reference, and is read again when the file behind it changes (a `stat`
before each request) or when Neon refuses it; a file that cannot be read for the moment changes nothing. A
401 did nothing, so after it a key that turned out to be new is tried at once.

**Time.** Every answer of Neon's sets the clock. A list carries the time just before it was asked for; and
since every call is a use of our own key, the times of the last ones are kept to recognise it in the list.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

from rotator.clock import NeonClock
from rotator.errors import KeyNotFound, KeyRefused, NeedsPerson, OutcomeUnknown, TryLater
from rotator.model import PERSONAL, Check, Key, KeyList, Scope
from rotator.neon_answers import (
    Account,
    Flaw,
    message_of,
    parse_account,
    parse_created,
    parse_list,
    parse_retry_after,
    parse_revoked,
    read,
)
from rotator.neon_wire import Answer, exchange
from rotator.rate import STOPPING, RateLimit
from rotator.secret import Secret

if TYPE_CHECKING:
    from rotator.fields import SecretRef

__all__ = ["Account", "Neon"]

T = TypeVar("T")

PAUSES = (0.5, 2.0)
BUDGET = 12.0  # seconds, within which a call's last try begins: room for a Retry-After of ten
PATIENCE = 60.0  # seconds, for one turn of the rate limit
CHECK_PAUSES = (1.0, 1.5, 2.5)
LARGEST_LIST = 64 * 2**20
LARGEST_ANSWER = 2**20
OWN_USES = 3

DID_NOTHING = frozenset({423, 429, 503})
UNSURE = frozenset({303, 408, 409, 499})  # below 500, yet no promise that a POST or DELETE did nothing
NAME_TAKEN = "choose another unique name"
NO_SUCH_KEY = "api key not found"
ORGANIZATION_KEY = "not allowed for organization api keys"
PROJECT_KEY = "outside the project"

_STATUS = "see https://neonstatus.com if this lasts"


@dataclass(frozen=True)
class _Use:
    """One call with the key of that fingerprint. `counted` if Neon surely took it for a use."""

    fingerprint: str
    start: datetime
    end: datetime
    counted: bool


class Neon:
    """Neon's key API. Every method may be called from any thread.

    `timeout` is for connecting and for each read, in seconds; a whole exchange takes at most the first
    and twice the second. Nothing is read or sent before the first call.
    """

    def __init__(
        self,
        api_url: str,
        api_key: SecretRef,
        clock: NeonClock,
        rate: RateLimit,
        stop: threading.Event,
        timeout: tuple[float, float] = (5, 30),
    ) -> None:
        self._url = api_url.rstrip("/")
        self._host = urlsplit(api_url).netloc.rpartition("@")[2]
        self._reference = api_key
        self._clock = clock
        self._rate = rate
        self._stop = stop
        self._timeout = timeout
        self._deadline = timeout[0] + 2 * timeout[1]
        self._lock = threading.Lock()
        self._key: Secret | None = None
        self._seen: tuple[int, ...] | None = None
        self._uses: list[_Use] = []
        self._calls: Counter[tuple[str, int | str]] = Counter()

    # The calls

    def list_keys(self, account: str) -> KeyList:
        """All keys of `personal` or of an organization. Raises TryLater, KeyRefused, NeedsPerson."""
        what = f"list the keys of {account}"
        answer, asked_at = self._ask("GET", _path(account), what, largest=LARGEST_LIST)
        keys = self._read(answer, what, parse_list)
        return KeyList(account=account, requested_at=asked_at, keys=keys)

    def create_key(self, scope: Scope, name: str) -> tuple[Key, Secret]:
        """Create a key. Raises TryLater, KeyRefused or NeedsPerson: none was created; OutcomeUnknown: perhaps one was.

        The key's `project` is what Neon answered, None if it did not say; one that differs from
        what was asked for is an outcome unknown.
        """
        what = f"create the key {name}"
        body = {"key_name": name} | ({"project_id": scope.project} if scope.project else {})
        answer, _ = self._ask("POST", _path(scope.account), what, body=body)
        if answer.status != 200 and NAME_TAKEN in message_of(answer.body):
            raise OutcomeUnknown(
                f"Neon says that the name {name} is taken",
                "an earlier request may have created it; the next list tells",
            )
        key, secret = self._read(answer, what, parse_created, unsafe=True)
        if key.project not in (None, scope.project):
            raise OutcomeUnknown(f"Neon confined the key {name} to another project than {scope}", "the next list tells")
        return key, secret

    def revoke_key(self, account: str, key_id: int, patience: float | None = PATIENCE) -> None:
        """Revoke a key, for good.

        Raises TryLater (also if its turn would come later than `patience` seconds from now), KeyRefused or NeedsPerson:
        it was not revoked; KeyNotFound: Neon knows no such key; OutcomeUnknown: perhaps it was.
        """
        what = f"revoke the key {key_id} of {account}"
        answer, _ = self._ask("DELETE", f"{_path(account)}/{key_id}", what, patience=patience)
        if answer.status == 404 and NO_SUCH_KEY in message_of(answer.body):
            raise KeyNotFound(f"Neon knows no key {key_id} in {account}", "the next list tells whether it is gone")
        if self._read(answer, what, parse_revoked, unsafe=True) != key_id:
            raise OutcomeUnknown(f"Neon's answer to revoking the key {key_id} is about another", "the next list tells")

    def check_key(self, secret: Secret) -> Check:
        """Use a key once: does Neon take it? A refusal counts only when repeated over some seconds. Never raises."""
        for pause in (*CHECK_PAUSES, None):
            try:
                self._rate.acquire(PATIENCE)
            except TryLater:
                return Check.INCONCLUSIVE
            answer, _ = self._once("GET", "/auth", secret, None, LARGEST_ANSWER)
            if answer.status != 401:
                passed = (
                    answer.status == 200 and not answer.flaw and isinstance(read(answer.body, parse_account), Account)
                )
                return Check.PASSED if passed else Check.INCONCLUSIVE
            if pause is not None and self._stop.wait(pause):
                return Check.INCONCLUSIVE
        return Check.REFUSED

    def whoami(self) -> Account:
        """Whose key the management key is. Raises TryLater, KeyRefused, NeedsPerson."""
        what = "tell whose key this is"
        answer, _ = self._ask("GET", "/auth", what)
        return self._read(answer, what, parse_account)

    def close(self) -> None:
        """Nothing to do: nothing stays open between calls."""

    # What is known beside

    @property
    def management_key(self) -> Secret:
        """The key that is sent. Raises NeedsPerson if it never could be read."""
        with self._lock:
            return self._key or self._take(self._reference.read())

    def key_changed(self) -> bool:
        """Read the reference again if the file behind it changed. Whether the key is now another."""
        path = self._reference.path
        if path is None:
            return False
        with self._lock:
            try:
                found = path.stat()
                seen = (found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size)
                if seen == self._seen:
                    return False
                changed = self._changed_to(self._reference.read())
            except (OSError, NeedsPerson):
                return False  # the key in memory goes on; without one, management_key says what is wrong
            self._seen = seen  # as it was before the reading: a change since then shows the next time
            return changed

    @property
    def own_uses(self) -> tuple[tuple[datetime, datetime], ...]:
        """From when to when, in Neon's time, our last three calls with the present key lasted, oldest first.

        Calls that may not have counted as a use (no answer, a 5xx) come on top of the three.
        """
        with self._lock:
            return tuple((use.start, use.end) for use in self._uses)

    @property
    def calls(self) -> dict[tuple[str, int | str], int]:
        """How many requests were tried, by method and status, or a word for why none came."""
        with self._lock:
            return dict(self._calls)

    # How they are made

    def _ask(
        self,
        method: str,
        path: str,
        what: str,
        *,
        body: dict[str, str] | None = None,
        largest: int = LARGEST_ANSWER,
        patience: float | None = PATIENCE,
    ) -> tuple[Answer, datetime]:
        """Send until there is an answer that no further try would better, and when it was asked for."""
        began: float | None = None
        pauses = iter(PAUSES)
        again_after_401 = True
        while True:
            self._rate.acquire(patience)
            began = self._clock.monotonic() if began is None else began
            self.key_changed()
            key = self.management_key
            answer, asked_at = self._once(method, path, key, body, largest)
            if answer.status == 401:
                if again_after_401 and self._is_outdated(key):
                    again_after_401 = False
                    continue
                raise KeyRefused(
                    f"Neon refused the management key ({self._reference})",
                    "it is wrong or was revoked; put a valid personal key there, it is taken up by itself",
                )
            problem, hint = self._passing(answer, method)
            if not problem:
                return answer, asked_at
            asked = parse_retry_after(answer.retry_after, answer.date)
            pause = next(pauses, None)
            wait = max(pause or PAUSES[-1], asked.total_seconds() if asked else 0)
            if answer.status == 429:
                self._rate.pause(wait)
            if pause is None or self._clock.monotonic() - began + wait > BUDGET:
                raise TryLater(f"Neon did not {what}: {problem}", hint, retry_after=asked)
            if answer.status != 429 and self._stop.wait(wait):
                raise TryLater(STOPPING)

    def _once(
        self, method: str, path: str, key: Secret, body: dict[str, str] | None, largest: int
    ) -> tuple[Answer, datetime]:
        """One request: send it, set the clock, count it. The answer, and when it was asked for."""
        clock = self._clock
        known, before, sent = clock.skew() is not None, clock.now(), clock.monotonic()
        answer = exchange(
            method,
            self._url + path,
            key,
            body=body,
            timeout=self._timeout,
            deadline=self._deadline,
            largest=largest,
            monotonic=clock.monotonic,
        )
        # An error of a proxy or of the edge has the clock of who knows whom.
        if answer.date is not None and answer.is_json and answer.status is not None and answer.status < 500:
            clock.heard(answer.date, answer.received, sent)
        after, lasted = clock.now(), timedelta(seconds=clock.monotonic() - sent)
        # Before the first answer there was only the local clock; where both are Neon's, the earlier claims less.
        asked_at = min(before, after - lasted) if known else after - lasted
        with self._lock:
            self._calls[method, answer.status if answer.status is not None else answer.fault] += 1
            if self._key is not None and key == self._key and answer.sent and answer.status != 401:
                counted = answer.status is not None and answer.status < 500 and answer.status not in DID_NOTHING
                self._uses = _last_uses([*self._uses, _Use(key.fingerprint, asked_at, max(asked_at, after), counted)])
        return answer, asked_at

    def _passing(self, answer: Answer, method: str) -> tuple[str, str]:
        """Why the same request may be sent again, or an empty text; and what to do if that does not help."""
        if answer.status == 423:
            return "another operation is in progress there (HTTP 423)", _STATUS
        if answer.status == 429:
            return "there were too many requests (HTTP 429)", "lower neon.requests_per_minute if this lasts"
        if answer.status == 503 or (method == "GET" and answer.status is not None and answer.status >= 500):
            return f"it is unavailable (HTTP {answer.status})", _STATUS
        if not answer.sent or (method == "GET" and answer.flaw):
            return f"{self._host} {answer.flaw}", answer.hint
        return "", ""

    def _read(self, answer: Answer, what: str, parse: Callable[[object], T], *, unsafe: bool = False) -> T:
        """What a success says; anything else raises. `unsafe` for a call that may have had an effect."""
        unreadable = OutcomeUnknown if unsafe else TryLater
        if answer.flaw:
            raise unreadable(f"{self._host} {answer.flaw}, asked to {what}", answer.hint)
        status = answer.status or 0
        if unsafe and (status in UNSURE or status < 200 or status >= 500):
            raise OutcomeUnknown(f"Neon answered HTTP {status}, asked to {what}", "the next list tells")
        if status == 408:
            raise TryLater(f"Neon answered HTTP 408, asked to {what}", _STATUS)
        if status >= 300:
            self._refused(status, message_of(answer.body), what)
        result = read(answer.body, parse)
        if isinstance(result, Flaw):
            raise unreadable(f"Neon's answer could not be read, asked to {what}: {result.why}", _STATUS)
        return result

    def _refused(self, status: int, said: str, what: str) -> NoReturn:
        problem = f"Neon refused to {what} (HTTP {status})"
        if ORGANIZATION_KEY in said:
            hint = "neon.api_key is an organization key; use a personal key of an organization's admin"
        elif PROJECT_KEY in said:
            hint = "neon.api_key is confined to one project; use a personal key of an organization's admin"
        elif status < 400:
            problem = f"{self._host} sent us elsewhere (HTTP {status}), asked to {what}"
            hint = "put the address that answers itself into neon.api_url; no redirect is followed"
        elif status == 403:
            hint = "the owner of neon.api_key may not do this; use a personal key of an organization's admin"
        elif status == 404:
            hint = "check neon.api_url and the ids of organization and project, and that neon.api_key may see them"
        else:
            hint = "check the scope and neon.api_url; if they are right, this version does not fit Neon's API"
        raise NeedsPerson(problem, hint)

    # The management key; under the lock where marked

    def _is_outdated(self, refused: Secret) -> bool:
        """After a refusal: whether there is a newer key to try, by the reference or by another thread."""
        with self._lock:
            try:
                self._changed_to(self._reference.read())
            except NeedsPerson:
                return self._key != refused
            return self._key != refused

    def _changed_to(self, key: Secret) -> bool:
        """Under the lock."""
        changed = self._key is not None and key != self._key
        self._take(key)
        return changed

    def _take(self, key: Secret) -> Secret:
        """Under the lock."""
        if key != self._key:
            self._key, self._uses = key, []
        return key


def _path(account: str) -> str:
    return "/api_keys" if account == PERSONAL else f"/organizations/{quote(account, safe='')}/api_keys"


def _last_uses(uses: list[_Use]) -> list[_Use]:
    """The last calls that surely counted, and those in between and after that may have."""
    counted = [place for place, use in enumerate(uses) if use.counted]
    start = counted[-OWN_USES] if len(counted) >= OWN_USES else 0
    return uses[start:][-4 * OWN_USES :]
