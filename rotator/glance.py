"""One look at Neon for a command that changes nothing: the lists, the records, what the sinks hold."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rotator import renames
from rotator.assembly import new_neon, setup_of
from rotator.clock import NeonClock
from rotator.config import Config
from rotator.errors import NeedsPerson
from rotator.lock import ProcessLock
from rotator.model import KeyList, Keys, Policy, Record
from rotator.neon import Neon
from rotator.observe import own_keys
from rotator.outside import contents_of
from rotator.ports import Setup
from rotator.rate import RateLimit
from rotator.standing import unfinished
from rotator.store import Store
from rotator.usage import KeyReport, accounts_in_use, inventory


@dataclass(frozen=True)
class Glance:
    """What was seen, and when on Neon's clock. `served` if a running service may have secrets in hand.

    `records` are by the policies' names, `renames` tells the names that some of them still have in the state.
    """

    config: Config
    setup: Setup
    records: Mapping[str, Record]
    renames: Mapping[str, str]
    lists: Mapping[str, KeyList]
    own: Mapping[int, str]
    now: datetime
    served: bool

    def keys(self, policy: Policy) -> Keys:
        """What the decision may look at for one policy."""
        others = {
            generation.key_id: record.policy
            for record in self.records.values()
            if record.policy != policy.name and record.policy in self.config.policies
            for generation in record.generations
        }
        contents = contents_of(self.setup, policy)
        on_their_way = unfinished(self.records.get(policy.name, Record(policy=policy.name))) if self.served else []
        return Keys(
            lists=self.lists,
            in_hand=frozenset(generation.key_id for generation in on_their_way),
            contents=contents,
            own=self.own,
            owners=others,
            since=self.now,
        )

    def inventory(self) -> list[KeyReport]:
        """Every key of the accounts in use."""
        return inventory(self.lists.values(), self.records, self.config.policies, self.own, self.setup.unused, self.now)


def glance(config: Config, state: Path) -> Glance:
    """Look once. A state that is not there yet is an empty one. Raises what Neon and the state raise."""
    records, waiting = records_of(config, state)
    clock = NeonClock()
    stop = threading.Event()
    neon = new_neon(config, clock, RateLimit(config.neon.requests_per_minute, stop), stop)
    lists = {name: neon.list_keys(name) for name in sorted(accounts_in_use(config.policies, records))}
    own = own_of(config, neon, records, lists.values())
    served = ProcessLock(state).is_held()
    return Glance(config, setup_of(config, neon), records, waiting, lists, own, clock.now(), served)


def own_of(config: Config, neon: Neon, records: Mapping[str, Record], lists: Iterable[KeyList]) -> dict[int, str]:
    """The keys that may be the management key, as the service would say. Raises NeedsPerson."""
    known = {g.key_id: g.fingerprint for record in records.values() for g in record.generations if g.fingerprint}
    return own_keys(config.neon.api_key_id, known, neon.management_key.fingerprint, neon.own_uses, lists)


def records_of(config: Config, state: Path) -> tuple[dict[str, Record], dict[str, str]]:
    """What the state remembers, and under which names where they differ; nothing if it is not there yet.

    Raises what the state raises.
    """
    try:
        state.stat()
    except FileNotFoundError:
        return {}, {}
    except OSError as error:  # a state that may be there but cannot be seen is no empty one
        raise NeedsPerson(
            f"the state {state} cannot be read: {error.strerror}",
            f"let this user read it, and enter the folder {state.parent}",
        ) from None
    store = Store(config.state, create=False)
    try:
        records = store.records()
        former = renames.wanted(config.policies, renames.read(store.meta(renames.META)))
        waiting = renames.pending(former, records)
        return renames.taken_over(records, waiting), waiting
    finally:
        store.close()
