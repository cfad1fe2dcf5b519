"""The rounds: what is done for all policies together, at every poll.

Neon's list of every account in use is read once; policies that it concerns are named, so that they get
a turn. Keys that are unused are flagged once and cleared when they are used again. Orders to revoke
a key that no policy owns are carried out here, for they belong to no turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from rotator.engine import Engine
from rotator.errors import KeyRefused, NeedsPerson, RotatorError, StateUnavailable, TryLater
from rotator.lasting import Lasting
from rotator.model import ORDER_LAPSES_AFTER, Event, Key, KeyList, Order, Record
from rotator.observe import observe, wrong_id
from rotator.ports import Clock, State, Tell
from rotator.rhythm import Sample
from rotator.standing import turned_up
from rotator.usage import KeyReport, Role, accounts_in_use, inventory
from rotator.words import when

_SENT_WITHIN = 20.0
_KEYS_AT_ONCE = 1_000
_PORTIONS_AT_ONCE = 100


class Rounds:
    """One for a process, beside its engine."""

    def __init__(self, engine: Engine, state: State, clock: Clock, tell: Tell) -> None:
        self._engine = engine
        self._outside = engine.outside
        self._state = state
        self._clock = clock
        self._tell = tell
        self._unreadable = Lasting(tell, "list.unreadable", "list.readable")
        self._wrong_id = Lasting(tell, "management_key.id_wrong", "management_key.id_right")
        self._refused = False
        self._ended: dict[int, Event] = {}
        self._sampled: dict[int, datetime] | None = None
        self._unseen = state.meta("usage_unseen") or ""
        self._outside.recall(self._unseen)

    def poll(self) -> set[str]:
        """Read every list, take in what it shows; the policies that should have a turn now.

        Raises StateUnavailable. A list that cannot be read is told, and left for the next poll.
        """
        records = self._state.records()
        self._outside.remember_all(records)
        accounts = accounts_in_use(self._engine.setup.policies, records)
        for account in sorted(accounts):
            self._poll_account(account)
        self._outside.lists.keep(accounts)
        lists = self._outside.lists.newest()
        if self._outside.since is None and lists:
            self._outside.since = min(listing.requested_at for listing in lists.values())
        if self._outside.unseen != self._unseen:
            self._unseen = self._outside.unseen
            self._state.set_meta("usage_unseen", self._unseen)
        self._check_own_id(lists)
        complete = self._is_complete(records, lists)
        self._sample_uses(records, lists, complete)
        self._flag_unused(records, lists, complete)
        if lists:  # what is told is as old as what it rests on
            self._state.set_meta("as_of", min(listing.requested_at for listing in lists.values()).isoformat())
        self._state.set_meta("clock", f"{self._clock.now().isoformat()} {self._clock.monotonic():.3f}")
        return self._engine.waiting_for_poll() | self._concerned(records)

    def prune(self) -> None:
        """Remove from the state what is kept no longer, a portion at a time. Raises StateUnavailable."""
        for _ in range(_PORTIONS_AT_ONCE):
            events = self._state.prune(self._clock.now())
            for event in events:
                self._tell(event)
            if not any(event.name == "history.pruned" for event in events):
                return

    def _is_complete(self, records: Mapping[str, Record], lists: Mapping[str, KeyList]) -> bool:
        """Whether a key that is in none of the lists is gone: all were read, and all are believed."""
        accounts = accounts_in_use(self._engine.setup.policies, records)
        return bool(lists) and accounts <= lists.keys() and all(not listing.doubt for listing in lists.values())

    def _poll_account(self, account: str) -> None:
        try:
            self._outside.lists.poll(account, self._clock.now())
        except (TryLater, NeedsPerson) as error:
            self._unreadable.lasts(account, f"the keys of {account} cannot be listed: {error}", self._clock.now())
            if isinstance(error, KeyRefused) and not self._refused:
                self._refused = True
                refused = Event("management_key.refused", str(error), notify=True)
                self._state.tell([refused], self._clock.now())
                self._tell(refused)
        else:
            self._unreadable.ends(account, f"the keys of {account} can be listed again")
            self._refused = False

    def _check_own_id(self, lists: Mapping[str, KeyList]) -> None:
        believed = [listing for listing in lists.values() if not listing.doubt]
        if not believed:
            return
        wrong = wrong_id(self._engine.setup.api_key_id, self._outside.own(lists), believed)
        if wrong:
            self._wrong_id.lasts("id", f"neon.api_key_id {wrong}", self._clock.now())
        else:
            self._wrong_id.ends("id", "neon.api_key_id is the management key's again, or left out")

    def _concerned(self, records: Mapping[str, Record]) -> set[str]:
        setup = self._engine.setup
        policies = setup.policies
        concerned = {name for name in records if name not in policies}
        for name, policy in policies.items():
            record = records.get(name)
            if record is None:
                concerned.add(name)
                continue
            seen = self._outside.keys(setup, policy, record, set(), {})
            if turned_up(record, seen) or observe(policy, record, seen) is not None:
                concerned.add(name)
        return concerned

    # Who uses what

    def _sample_uses(self, records: Mapping[str, Record], lists: Mapping[str, KeyList], complete: bool) -> None:
        """Keep the use of every key but our own, where it changed; forget that of keys that are gone."""
        if self._sampled is None:
            self._sampled = self._state.newest_uses()
        own = self._outside.own(lists)
        fresh = [
            Sample(key.id, key.last_used_at, key.last_used_from)
            for listing in lists.values()
            for key in listing.keys.values()
            if key.last_used_at is not None and key.id not in own and self._sampled.get(key.id) != key.last_used_at
        ]
        if fresh:
            self._state.add_samples(fresh)
            self._sampled.update({sample.key_id: sample.used_at for sample in fresh})
        listed = {key_id for listing in lists.values() for key_id in listing.keys}
        remembered = {generation.key_id for record in records.values() for generation in record.generations}
        gone = sorted(self._sampled.keys() - listed - remembered)[:_KEYS_AT_ONCE] if complete else []
        if gone:
            self._state.drop_samples(gone)
            for key_id in gone:
                del self._sampled[key_id]

    # Unused keys

    def _flag_unused(self, records: Mapping[str, Record], lists: Mapping[str, KeyList], complete: bool) -> None:
        setup, now = self._engine.setup, self._clock.now()
        reports = inventory(lists.values(), records, setup.policies, self._outside.own(lists), setup.unused, now)
        flagged = self._state.flags()
        by_id = {report.key.id: report for report in reports}
        add = [report for report in reports if report.unused and report.key.id not in flagged]
        cleared = [by_id[key_id] for key_id in flagged if key_id in by_id and not by_id[key_id].unused]
        gone = [key_id for key_id in flagged if key_id not in by_id and complete]
        if not add and not cleared and not gone:
            return
        events = [_about("api_key.unused", report, report.why) for report in add]
        events += [
            _about("api_key.used_again", report, f"{report.key.name} is in use again")
            for report in cleared
            if report.role not in (Role.RETIRING, Role.HELD, Role.ORPHAN)
        ]
        drop = [report.key.id for report in cleared] + gone
        self._state.set_flags([report.key.id for report in add], drop, events, now)
        for event in events:
            self._tell(event)

    # Orders that belong to no policy

    def obey(self) -> None:
        """Carry out the orders to revoke keys that no policy owns. Raises StateUnavailable.

        What came of one is kept in memory until it is written down: it is not carried out twice.
        """
        for order in self._state.open_orders():
            if order.policy is None and order.key_id is not None:
                if order.id not in self._ended:
                    self._ended[order.id] = self._revoke_unowned(order, order.key_id)
                self._state.close_order(order.id, [self._ended[order.id]], self._clock.now())
                self._tell(self._ended.pop(order.id))

    def _revoke_unowned(self, order: Order, key_id: int) -> Event:
        if not order.unmanaged:
            return Event("order.lapsed", f"no policy owns key {key_id}", key_id=key_id, notify=True)
        for account in sorted(accounts_in_use(self._engine.setup.policies, self._state.records())):
            try:
                listing = self._outside.lists.poll(account, self._clock.now())
                if key_id not in listing.keys:
                    continue
                own = self._outside.own(self._outside.lists.newest())
                if not own:  # it might be the very key that the order would be carried out with
                    why = (
                        f"key {key_id} is not revoked: which key this program uses itself is not known, as Neon's "
                        "list does not show its last calls; set neon.api_key_id, or order it again"
                    )
                    return Event("order.lapsed", why, key_id=key_id, notify=True)
                if key_id in own:
                    why = f"key {key_id} is not revoked: it is the management key ({own[key_id]})"
                    return Event("order.lapsed", why, key_id=key_id, notify=True)
                if against := self._lapses(order, key_id):
                    return Event("order.lapsed", f"key {key_id} is not revoked: {against}", key_id=key_id, notify=True)
                key = listing.keys[key_id]
                why = "an operator ordered the revocation of this key, which no policy owns"
                self._state.tell([_about_key("key.revoking", key, why)], self._clock.now())
                self._engine.setup.provider.revoke_key(account, key_id, patience=_SENT_WITHIN)
                return replace(_about_key("api_key.revoked", key, why), notify=True)
            except StateUnavailable:
                raise  # nothing was asked of Neon: the order stands
            except RotatorError as error:
                why = f"Neon did not confirm that key {key_id} is revoked: {error}; order it again"
                return Event("order.lapsed", why, key_id=key_id, notify=True)
        return Event("order.lapsed", f"key {key_id} is in no list of the accounts in use", key_id=key_id, notify=True)

    def _lapses(self, order: Order, key_id: int) -> str:
        """Why the order does not hold any more, or an empty string: the key may have become a policy's since then."""
        for record in self._state.records().values():
            if any(generation.key_id == key_id for generation in record.generations):
                return f"it belongs to policy {record.policy} by now; order it again if it is still to be revoked"
        if self._clock.now() - order.at > ORDER_LAPSES_AFTER:
            return f"the order given at {when(order.at)} is older than an hour; give it again if it is still wanted"
        return ""


def _about(name: str, report: KeyReport, why: str) -> Event:
    return Event(name, why, report.policy, report.generation, report.key.id, report.key.name, notify=True)


def _about_key(name: str, key: Key, why: str) -> Event:
    return Event(name, why, key_id=key.id, key_name=key.name)
