"""What is seen outside in one look: Neon's lists, what sinks hold, which keys may be our own.

The lists come from `lists.Lists`, which reads each account once for everybody. What should be in them
is known from an index of the records, kept in memory and renewed with every record that is written.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Set
from datetime import UTC, datetime, timedelta

from rotator.errors import NeedsPerson, RotatorError, StateUnavailable
from rotator.lag import Unseen, follow, lag_of
from rotator.lists import Lists
from rotator.model import Held, KeyList, Keys, Policy, Record
from rotator.observe import own_keys
from rotator.ports import Clock, Setup, State


class Outside:
    """The eyes of the engine. `setup` is replaced when the configuration is loaded again."""

    def __init__(self, setup: Setup, state: State, clock: Clock) -> None:
        self.setup = setup
        self.since: datetime | None = None
        self.usage_lag = timedelta(0)
        self._state = state
        self._clock = clock
        self._index: dict[str, tuple[tuple[str, int], ...]] = {}
        self._fingerprints: dict[str, dict[int, str]] = {}
        self._unseen = Unseen()
        self._measured: int | None = None
        self._homes: dict[str, int] = {}
        self._guard = threading.Lock()
        self.lists = Lists(self._read, self._known, self._own_id, self._vouch)

    def keys(
        self, setup: Setup, policy: Policy, record: Record, in_hand: Set[int], unreadable: Mapping[str, str]
    ) -> Keys:
        """Everything that the decision may look at beside the record. `setup` is the turn's own."""
        lists = self.lists.newest()
        return Keys(
            lists=lists,
            unreadable=unreadable,
            since=self.since,
            in_hand=frozenset(in_hand),
            contents=contents_of(setup, policy),
            own=self.own(lists),
            usage_lag=self.usage_lag,
            owners=self._owners(policy.name),
            distrust=self._clock.distrust,
            misdated=self._clock.misdated,
        )

    def remember(self, record: Record) -> None:
        """Take note of the keys that should be in Neon's lists."""
        kept = tuple((g.scope.account, g.key_id) for g in record.generations if g.revocation is None)
        marks = {g.key_id: g.fingerprint for g in record.generations if g.fingerprint is not None}
        with self._guard:
            self._index[record.policy] = kept
            self._fingerprints[record.policy] = marks

    def remember_all(self, records: Mapping[str, Record]) -> None:
        """The same of every record there is; what was known of policies that were renamed away is dropped."""
        for record in records.values():
            self.remember(record)
        with self._guard:
            for gone in self._index.keys() - records.keys() - self.setup.policies.keys():
                del self._index[gone], self._fingerprints[gone]

    def own(self, lists: Mapping[str, KeyList]) -> dict[int, str]:
        """The keys that may be the management key, each with how that is known."""
        try:
            fingerprint = self.setup.provider.management_key.fingerprint
        except NeedsPerson:
            fingerprint = ""
        with self._guard:
            known = {key_id: mark for marks in self._fingerprints.values() for key_id, mark in marks.items()}
        return own_keys(self.setup.api_key_id, known, fingerprint, self.setup.provider.own_uses, lists.values())

    def _read(self, account: str) -> KeyList:
        calls = self.setup.provider.own_uses
        listing = self.setup.provider.list_keys(account)
        self._measure_lag(listing, [end for _, end in calls])
        return listing

    @property
    def unseen(self) -> str:
        """What is to be remembered of the lag over a restart: our own key, and its oldest call not shown yet."""
        with self._guard:
            return f"{self._measured} {self._unseen.calls[0].isoformat()}" if self._unseen.calls else ""

    def recall(self, unseen: str) -> None:
        """Go on measuring where an earlier process stopped: a restart does not make a frozen signal credible."""
        key_id, _, since = unseen.partition(" ")
        if not unseen:
            return
        try:
            call = datetime.fromisoformat(since)
            self._measured, self._unseen = int(key_id), Unseen((call.astimezone(UTC),))
        except (ValueError, OverflowError):
            raise StateUnavailable(
                "what the state says of the lag of Neon's usage is damaged", "restore the state from a backup"
            ) from None

    def _measure_lag(self, listing: KeyList, calls: list[datetime]) -> None:
        own = list(self.own({}))
        if len(own) != 1 or own[0] not in listing.keys:
            return
        with self._guard:
            if own[0] != self._measured:  # another key is in use now
                self._measured, self._unseen = own[0], Unseen()
                calls = calls[-1:]
            shown = listing.keys[own[0]].last_used_at
            self._unseen = follow(self._unseen, calls, shown, listing.requested_at)
            self.usage_lag = lag_of(self._unseen, listing.requested_at)

    def _known(self, account: str) -> Set[int]:
        with self._guard:
            return {key_id for kept in self._index.values() for where, key_id in kept if where == account}

    def _own_id(self, account: str) -> int | None:
        """Our key, if this account's lists have ever held it: only then are they lists of our own account."""
        known = next(iter(self.own({})), None)
        newest = self.lists.newest().get(account)
        if known is not None and newest is not None and known in newest.keys:
            self._homes[account] = known
        return known if known is not None and self._homes.get(account) == known else None

    def _vouch(self) -> bool:
        self.setup.provider.whoami()
        return True

    def _owners(self, but: str) -> dict[int, str]:
        configured = self.setup.policies
        with self._guard:
            return {
                key_id: policy
                for policy, kept in self._index.items()
                if policy != but and policy in configured
                for _, key_id in kept
            }


def contents_of(setup: Setup, policy: Policy) -> dict[str, str]:
    """What the policy's sinks that read back hold now, by target: a fingerprint or a `Held`."""
    found = {}
    for sink in policy.deliver_to:
        if sink.reads_back:
            try:
                found[sink.target] = setup.sinks[sink.name].contents()
            except RotatorError:
                found[sink.target] = Held.UNREADABLE.value
    return found
