"""Neon's lists, one per account, shared by every policy.

A list is read by the poll, and between polls when a decision needs a newer one than there is; of
several threads that ask for an account at once, one reads and the others take its answer. So the
number of reads depends on the accounts and on time, not on the number of policies. A list that
could not be read is not asked for again before a pause that grows with every failure.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rotator.errors import NeedsPerson, RotatorError, TryLater
from rotator.model import KeyList
from rotator.observe import Judgement, judge
from rotator.transitions import pause_after

Read = Callable[[str], KeyList]


@dataclass
class _Account:
    lock: threading.Lock = field(default_factory=threading.Lock)
    newest: KeyList | None = None
    judgement: Judgement = field(default_factory=Judgement)
    failures: int = 0
    error: str = ""
    retry_at: datetime | None = None


class Lists:
    """The newest list of each account, judged.

    `read` asks Neon, `known` says which keys should be in an account's list, `own` our own key's id if it
    is known for certain and belongs to that account, `vouch` whether Neon accepts the management key.
    """

    def __init__(
        self,
        read: Read,
        known: Callable[[str], Set[int]],
        own: Callable[[str], int | None],
        vouch: Callable[[], bool],
    ) -> None:
        self._read = read
        self._known = known
        self._own = own
        self._vouch = vouch
        self._accounts: dict[str, _Account] = {}
        self._guard = threading.Lock()

    def newest(self) -> dict[str, KeyList]:
        """The newest list of every account that was read."""
        with self._guard:
            return {name: account.newest for name, account in self._accounts.items() if account.newest is not None}

    def troubles(self) -> dict[str, tuple[str, datetime]]:
        """The accounts whose last read failed: why, and when they may be read again."""
        with self._guard:
            return {
                name: (account.error, account.retry_at)
                for name, account in self._accounts.items()
                if account.retry_at is not None
            }

    def look(self, name: str, older: KeyList | None, now: datetime) -> KeyList:
        """A list newer than `older`. Raises TryLater or NeedsPerson, also while a failed read is pausing."""
        account = self._account(name)
        with account.lock:
            newest = account.newest
            if newest is not None and (older is None or newest.requested_at > older.requested_at):
                return newest
            if account.retry_at is not None and now < account.retry_at:
                raise TryLater(account.error, retry_after=account.retry_at - now)
            return self._fetch(name, account, now, polled=False)

    def poll(self, name: str, now: datetime) -> KeyList:
        """A list read now. What it lacks counts. Raises as `look` does, but does not wait for a pause."""
        account = self._account(name)
        with account.lock:
            return self._fetch(name, account, now, polled=True)

    def keep(self, names: Set[str]) -> None:
        """Forget the accounts that are not in use any more: what is told must not be as old as their lists."""
        with self._guard:
            for name in self._accounts.keys() - names:
                del self._accounts[name]

    def renew(self) -> None:
        """Forget failures: the configuration changed, so the next read may succeed."""
        with self._guard:
            for account in self._accounts.values():
                account.failures, account.error, account.retry_at = 0, "", None

    def _account(self, name: str) -> _Account:
        with self._guard:
            return self._accounts.setdefault(name, _Account())

    def _fetch(self, name: str, account: _Account, now: datetime, *, polled: bool) -> KeyList:
        known = self._known(name)
        try:
            answer = replace(self._read(name), polled=polled)
        except (TryLater, NeedsPerson) as error:
            account.failures += 1
            asked = error.retry_after if isinstance(error, TryLater) else None
            account.retry_at = now + max(pause_after(account.failures, 1.0), asked or timedelta(0))
            account.error = str(error)
            raise
        # What was recorded or revoked while the list was under way need not be in it.
        known, own = known & self._known(name), self._own(name)
        judged, judgement = judge(answer, known, own, account.judgement, vouched=True)
        if judged.confirms > 1 and not self._vouched():  # asked only where nothing else is in the way of belief
            judged, judgement = judge(answer, known, own, account.judgement, vouched=False)
        account.newest, account.judgement = judged, judgement
        account.failures, account.error, account.retry_at = 0, "", None
        return judged

    def _vouched(self) -> bool:
        try:
            return self._vouch()
        except RotatorError:
            return False
