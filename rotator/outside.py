"""What is seen outside in one look: Neon's lists, what sinks hold, which keys may be our own.

The lists come from `lists.Lists`, which reads each account once for everybody. What should be in them
is known from an index of the records, kept in memory and renewed with every record that is written.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Set
from datetime import datetime

from rotator.errors import NeedsPerson, RotatorError
from rotator.lists import Lists
from rotator.model import Held, KeyList, Keys, Policy, Record
from rotator.observe import own_keys
from rotator.ports import Clock, Setup, State


class Outside:
    """The eyes of the engine. `setup` is replaced when the configuration is loaded again."""

    def __init__(self, setup: Setup, state: State, clock: Clock) -> None:
        self.setup = setup
        self.since: datetime | None = None
        self._state = state
        self._clock = clock
        self._index: dict[str, tuple[tuple[str, int], ...]] = {}
        self._guard = threading.Lock()
        self.lists = Lists(self._read, self._known, self._own_id, self._vouch)

    def keys(
        self, setup: Setup, policy: Policy, record: Record, in_hand: Set[int], unreadable: Mapping[str, str]
    ) -> Keys:
        """Everything that the decision may look at beside the record. `setup` is the turn's own."""
        lists = self.lists.newest()
        pending = policy.adopt is not None and policy.adopt not in record.adopted
        return Keys(
            lists=lists,
            unreadable=unreadable,
            since=self.since,
            in_hand=frozenset(in_hand),
            contents=_contents(setup, policy),
            own=self.own(lists),
            owners=self._owners(policy.name) if pending else {},
            distrust=self._clock.distrust,
        )

    def remember(self, record: Record) -> None:
        """Take note of the keys that should be in Neon's lists."""
        kept = tuple((g.scope.account, g.key_id) for g in record.generations if g.revocation is None)
        with self._guard:
            self._index[record.policy] = kept

    def own(self, lists: Mapping[str, KeyList]) -> dict[int, str]:
        """The keys that may be the management key, each with how that is known."""
        try:
            fingerprint = self.setup.provider.management_key.fingerprint
        except NeedsPerson:
            fingerprint = ""
        return own_keys(
            self.setup.api_key_id, self._minted(), fingerprint, self.setup.provider.own_uses, lists.values()
        )

    def _read(self, account: str) -> KeyList:
        return self.setup.provider.list_keys(account)

    def _known(self, account: str) -> Set[int]:
        with self._guard:
            return {key_id for kept in self._index.values() for where, key_id in kept if where == account}

    def _own_id(self, account: str) -> int | None:
        known = next(iter(self.own({})), None)
        newest = self.lists.newest().get(account)
        # Only a list that has held our key before is one of our own account.
        return known if known is not None and newest is not None and known in newest.keys else None

    def _vouch(self) -> bool:
        self.setup.provider.whoami()
        return True

    def _minted(self) -> dict[str, int]:
        names = [policy.name for policy in self.setup.policies.values() if policy.management_key]
        return {g.fingerprint: g.key_id for n in names for g in self._state.record(n).generations if g.fingerprint}

    def _owners(self, but: str) -> dict[int, str]:
        return {
            generation.key_id: record.policy
            for record in self._state.records().values()
            if record.policy != but and record.policy in self.setup.policies
            for generation in record.generations
        }


def _contents(setup: Setup, policy: Policy) -> dict[str, str]:
    found = {}
    for sink in policy.deliver_to:
        if sink.reads_back:
            try:
                found[sink.target] = setup.sinks[sink.name].contents()
            except RotatorError:
                found[sink.target] = Held.UNREADABLE.value
    return found
