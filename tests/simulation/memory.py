"""The state in memory, with the semantics of `store.Store` (`test_memory.py` holds it against the real one).

A record goes through its JSON document and back, so that what would be lost there is lost here. `gate` is called
before and after each transaction, with whether it writes; what it raises before, nothing was changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rotator.model import Event, Order, Record
from rotator.ports import Transition
from rotator.rhythm import Sample
from rotator.secret import blank
from rotator.store import LIMITS
from rotator.store_history import GENESIS, Entry, chained
from rotator.store_tables import Notice, document_of, parse_record, text_of, time_of
from rotator.transitions import Change

SAMPLES_KEPT = 100
NOTICES_AT_ONCE = 100
Gate = Callable[[bool, bool], None]
Wrote = Callable[[Mapping[str, Record], Sequence[Event]], None]


@dataclass
class _Row:
    """One record as it is written down. `parsed` is what reading it gives."""

    version: int
    document: str
    parsed: Record


class Memory:
    """`wrote` is told what each transaction changed: the records, by policy, and the events."""

    def __init__(
        self,
        notify: Sequence[str] = (),
        gate: Gate = lambda writing, done: None,
        wrote: Wrote = lambda records, events: None,
    ) -> None:
        self.notify = tuple(notify)
        self.entries: list[dict[str, Any]] = []
        self.gate = gate
        self.wrote = wrote
        self.looks = 0
        self._head = GENESIS
        self._rows: dict[str, _Row] = {}
        self._orders: list[Order] = []
        self._order_ids = 0
        self._notices: list[Notice] = []
        self._notice_ids = 0
        self._outlooks: dict[str, str] = {}
        self._meta: dict[str, str] = {}
        self._flags: dict[int, datetime] = {}
        self._samples: dict[int, dict[datetime, Sample]] = {}

    @contextmanager
    def _transaction(self, *, writing: bool) -> Iterator[None]:
        self.gate(writing, False)
        yield
        self.gate(writing, True)

    # Records

    def record(self, policy: str) -> Record:
        self.looks += 1
        with self._transaction(writing=False):
            return self._load(policy)

    def records(self) -> dict[str, Record]:
        with self._transaction(writing=False):
            return {policy: self._load(policy) for policy in self._rows}

    def change(self, policy: str, now: datetime, transition: Transition) -> Record:
        return self.change_many(now, {policy: transition})[policy]

    def change_many(self, now: datetime, transitions: Mapping[str, Transition]) -> dict[str, Record]:
        with self._transaction(writing=True):
            before = {policy: self._load(policy) for policy in transitions}
            changes = {policy: transition(before[policy]) for policy, transition in transitions.items()}
            there = {policy: change for policy, change in changes.items() if change is not None}
            changed = {policy: self._write(policy, before[policy], change, now) for policy, change in there.items()}
            if there:
                self.wrote(changed, [event for change in there.values() for event in change.events])
        return {**before, **changed}

    def rename(self, old: str, new: str, now: datetime) -> bool:
        with self._transaction(writing=True):
            own = self._load(new)
            if old not in self._rows or own.next_generation > 1 or own.generations:
                return False
            record = self._load(old)
            del self._rows[old]
            self._rows.pop(new, None)
            self._outlooks.pop(old, None)
            self._orders = [replace(o, policy=new) if o.policy == old else o for o in self._orders]
            event = Event("policy.renamed", f"policy {old} is now called {new}", new)
            renamed = replace(record, policy=new, paused=record.paused or own.paused)
            self.wrote({new: self._write(new, record, Change(renamed, (event,)), now)}, [event])
        return True

    def _load(self, policy: str) -> Record:
        row = self._rows.get(policy)
        record = row.parsed if row else Record(policy=policy)
        waiting = tuple(order for order in self._orders if order.policy == policy)
        return replace(record, orders=waiting) if waiting else record

    def _write(self, policy: str, before: Record, change: Change, now: datetime) -> Record:
        row = self._rows.get(policy)
        bare = replace(change.record, orders=())
        if row is None or bare != row.parsed:
            document = document_of(change.record)
            parsed = parse_record(policy, document)
            assert parsed == bare, f"JSON loses something of {policy}: {parsed} is not {bare}"
            self._rows[policy] = _Row(row.version + 1 if row else 1, document, parsed)
        self._tell(change.events, now)
        self._orders = [order for order in self._orders if order.id not in change.closed_orders]
        left = tuple(order for order in before.orders if order.id not in change.closed_orders)
        return replace(change.record, orders=left)

    def document(self, policy: str) -> str:
        """The record of a policy as it is written down."""
        return self._rows[policy].document

    # History

    def tell(self, events: Sequence[Event], now: datetime) -> None:
        with self._transaction(writing=True):
            self._tell(events, now)
            self.wrote({}, events)

    def _tell(self, events: Sequence[Event], now: datetime) -> None:
        for event in events:
            why = blank(event.why)
            entry = {
                "seq": len(self.entries) + 1,
                "at": text_of(now),
                "policy": event.policy,
                "event": event.name,
                "key_id": event.key_id,
                "key_name": event.key_name,
                "generation": event.generation,
                "why": why,
            }
            self._head = entry["hash"] = chained(self._head, entry)
            self.entries.append(entry)
            for sink in self.notify if event.notify else ():
                self._notice_ids += 1
                self._notices.append(Notice(self._notice_ids, sink, now, replace(event, why=why)))

    def history(self, policy: str | None = None) -> list[Entry]:
        with self._transaction(writing=False):
            chosen = [entry for entry in self.entries if policy in (None, entry["policy"])]
            return [Entry(**{**entry, "at": time_of(entry["at"])}) for entry in chosen]

    def head(self) -> str:
        with self._transaction(writing=False):
            return self._head

    def broken_at(self) -> int | None:
        """As `Store.broken_at`, computed anew from what is remembered."""
        head = GENESIS
        for expected, entry in enumerate(self.entries, start=1):
            head = chained(head, {name: value for name, value in entry.items() if name != "hash"})
            if entry["seq"] != expected or entry["hash"] != head:
                return expected
        return None

    def newest_time(self) -> datetime | None:
        with self._transaction(writing=False):
            return time_of(self.entries[-1]["at"]) if self.entries else None

    # Orders

    def add_order(self, order: Order) -> int:
        with self._transaction(writing=True):
            self._order_ids += 1
            self._orders.append(replace(order, id=self._order_ids))
        return self._order_ids

    def open_orders(self) -> list[Order]:
        with self._transaction(writing=False):
            return list(self._orders)

    def close_order(self, order_id: int, events: Sequence[Event], now: datetime) -> None:
        with self._transaction(writing=True):
            self._orders = [order for order in self._orders if order.id != order_id]
            self._tell(events, now)
            self.wrote({}, events)

    # Notices, and what other processes read

    def notices(self, sink: str) -> list[Notice]:
        with self._transaction(writing=False):
            return [notice for notice in self._notices if notice.sink == sink][:NOTICES_AT_ONCE]

    def confirm_notice(self, notice_id: int) -> None:
        with self._transaction(writing=True):
            self._notices = [notice for notice in self._notices if notice.id != notice_id]

    def set_outlooks(self, outlooks: Mapping[str, Mapping[str, Any]]) -> None:
        with self._transaction(writing=True):
            self._outlooks.update({policy: blank(json.dumps(outlook)) for policy, outlook in outlooks.items()})

    def outlooks(self) -> dict[str, dict[str, Any]]:
        with self._transaction(writing=False):
            return {policy: json.loads(text) for policy, text in self._outlooks.items()}

    def set_meta(self, name: str, value: str) -> None:
        with self._transaction(writing=True):
            self._meta[name] = value

    def meta(self, name: str) -> str | None:
        with self._transaction(writing=False):
            return self._meta.get(name)

    def flags(self) -> dict[int, datetime]:
        with self._transaction(writing=False):
            return dict(self._flags)

    def set_flags(self, add: Sequence[int], drop: Sequence[int], events: Sequence[Event], now: datetime) -> None:
        with self._transaction(writing=True):
            for key_id in drop:
                self._flags.pop(key_id, None)
            self._flags.update(dict.fromkeys(add, now))
            self._tell(events, now)
            self.wrote({}, events)

    # Samples of use

    def add_samples(self, samples: Sequence[Sample]) -> None:
        with self._transaction(writing=True):
            for sample in samples:
                kept = self._samples.setdefault(sample.key_id, {})
                kept[sample.used_at] = sample
                if len(kept) > SAMPLES_KEPT:
                    for used_at in sorted(kept)[:-SAMPLES_KEPT]:
                        del kept[used_at]

    def samples(self, key_id: int) -> list[Sample]:
        with self._transaction(writing=False):
            kept = self._samples.get(key_id, {})
            return [kept[used_at] for used_at in sorted(kept)]

    def newest_uses(self) -> dict[int, datetime]:
        with self._transaction(writing=False):
            return {key_id: max(kept) for key_id, kept in self._samples.items()}

    def drop_samples(self, key_ids: Collection[int]) -> None:
        with self._transaction(writing=True):
            for key_id in key_ids:
                self._samples.pop(key_id, None)

    def prune(self, now: datetime) -> list[Event]:
        """No world lasts so long that anything is beyond the limits."""
        with self._transaction(writing=True):
            assert len(self.entries) <= LIMITS.history
            assert len(self._notices) <= LIMITS.notices
        return []

    # For the invariants

    def texts(self) -> Iterator[str]:
        """Everything that stands in the state now, but the history."""
        yield from (row.document for row in self._rows.values())
        yield from self._outlooks.values()
        yield from self._meta.values()
        yield from (notice.event.why for notice in self._notices)
