"""The state: records, history, orders and what is still to be told, in SQLite through SQLAlchemy Core.

One file, mode 0600, WAL, `synchronous=FULL`: what a call has returned from survives a power cut. Every
change of a record happens inside one transaction that begins as a write (`BEGIN IMMEDIATE`): the
record is read, a pure transition is applied to it, and the new record is written with a
compare-and-swap on its version, together with its history entries, the orders that it closes and the
notifications that it causes. So a transition never works on a stale record, and nothing is ever told
that was not also remembered.

Nothing in it grows for ever. `prune` removes what is beyond `Limits`: of the history the oldest entries
(see `store_history.py`), of the notices for a sink that takes none the oldest too, and closed orders, whose
outcome stands in the history. SQLite uses the freed room again; the file does not shrink.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rotator import store_tables as tables
from rotator.errors import StateUnavailable
from rotator.model import Event, Order, Record
from rotator.rhythm import Sample
from rotator.secret import blank
from rotator.store_file import Footing, connect, path_of, prepare_file, unavailable
from rotator.store_history import GENESIS, Entry, Verdict, append, chained, entry_of, head_of, verify
from rotator.store_history import prune as prune_history
from rotator.store_tables import SCHEMA_VERSION, Notice, open_orders, text_of, time_of
from rotator.transitions import Change

__all__ = ["GENESIS", "SCHEMA_VERSION", "Entry", "Limits", "Notice", "Store", "Verdict", "chained"]

_SAMPLES_KEPT = 100
_SECONDS = re.compile(r"\d{1,10}\.\d{3}", re.ASCII)
_NOTICES_AT_ONCE = 100


@dataclass(frozen=True)
class Limits:
    """How much is kept: entries of the history, which go a `portion` at a time, notices a sink, closed orders."""

    history: int = 100_000
    portion: int = 1_000
    notices: int = 10_000
    orders: int = 1_000


LIMITS = Limits()


class Store:
    """The state of one configuration. Safe for threads; other processes may read and add orders.

    Every method raises StateUnavailable when the state cannot be read or written now.
    """

    def __init__(
        self, url: str, notify: Sequence[str] = (), *, create: bool = True, check: Callable[[], None] = lambda: None
    ) -> None:
        """Open the state at `sqlite:///PATH`. Raises NeedsPerson for one that this program cannot use.

        `notify` names the sinks that events are kept for. Without `create`, a state that is not there
        is not made. `check` is called before anything is read or written, and raises StateUnavailable if it must not
        be. `repaired` says what was put right with its files, so that nobody else reads or replaces them.
        """
        self.path = path_of(url)
        self.notify = tuple(notify)
        self._check = check
        self._writing = threading.Lock()
        self.repaired = prepare_file(self.path, create)
        self._footing = Footing(self.path)
        self._engine = sa.create_engine(
            "sqlite://",
            creator=lambda: connect(self.path, create),
            poolclass=sa.pool.QueuePool,
            pool_size=4,
            max_overflow=-1,  # a thread that waits for another's connection could hold up a writer
        )
        try:
            with self._transaction(writing=create) as connection:
                tables.prepare(connection, self.path, create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back the file handles."""
        self._engine.dispose()
        self._footing.closed()

    @contextmanager
    def _transaction(self, *, writing: bool) -> Iterator[sa.Connection]:
        guard: AbstractContextManager[object] = self._writing if writing else nullcontext()
        try:
            with guard, self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
                try:
                    self._check()
                    if writing:
                        self._footing.check(lambda: _length(connection))
                    yield connection
                    connection.exec_driver_sql("COMMIT")
                except BaseException:
                    self._roll_back(connection)
                    raise
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            raise unavailable(self.path, error) from None

    def _roll_back(self, connection: sa.Connection) -> None:
        try:
            connection.exec_driver_sql("ROLLBACK")
        except (sa.exc.SQLAlchemyError, sqlite3.Error):
            connection.invalidate()  # the transaction is already gone, and so must the connection be
            self._footing.closed()

    # Records

    def record(self, policy: str) -> Record:
        """What is remembered of a policy, with its open orders; an empty record for one that is new."""
        with self._transaction(writing=False) as connection:
            return self._load(connection, policy)[0]

    def records(self) -> dict[str, Record]:
        """Every record, by policy, with its open orders."""
        with self._transaction(writing=False) as connection:
            orders: dict[str | None, list[Order]] = {}
            for order in open_orders(connection):
                orders.setdefault(order.policy, []).append(order)
            rows = connection.execute(sa.select(tables.records.c.policy, tables.records.c.document)).all()
            return {
                policy: replace(tables.parse_record(policy, document), orders=tuple(orders.get(policy, ())))
                for policy, document in rows
            }

    def change(self, policy: str, now: datetime, transition: Callable[[Record], Change | None]) -> Record:
        """Apply a transition to the record as it stands, and commit all that follows from it."""
        return self.change_many(now, {policy: transition})[policy]

    def change_many(
        self, now: datetime, transitions: Mapping[str, Callable[[Record], Change | None]]
    ) -> dict[str, Record]:
        """Apply one transition to each of several records, in one transaction."""
        changed = {}
        with self._transaction(writing=True) as connection:
            for policy, transition in transitions.items():
                record, version = self._load(connection, policy)
                change = transition(record)
                if change is not None:
                    record = self._write(connection, policy, version, record, change, now)
                changed[policy] = record
        return changed

    def rename(self, old: str, new: str, now: datetime) -> bool:
        """Let `new` take over the record of `old` and its open orders, unless `new` has had keys of its own.

        Whether it did.
        """
        records = tables.records
        with self._transaction(writing=True) as connection:
            record, version = self._load(connection, old)
            own, _ = self._load(connection, new)
            if not version or own.next_generation > 1 or own.generations:
                return False
            connection.execute(sa.delete(records).where(records.c.policy.in_((old, new))))
            connection.execute(sa.delete(tables.outlooks).where(tables.outlooks.c.policy == old))
            waiting = (tables.orders.c.policy == old) & tables.orders.c.closed_at.is_(None)
            connection.execute(sa.update(tables.orders).where(waiting).values(policy=new))
            event = Event("policy.renamed", f"policy {old} is now called {new}", new)
            renamed = replace(record, policy=new, paused=record.paused or own.paused)
            self._write(connection, new, 0, record, Change(renamed, (event,)), now)
            return True

    def _load(self, connection: sa.Connection, policy: str) -> tuple[Record, int]:
        row = connection.execute(
            sa.select(tables.records.c.version, tables.records.c.document).where(tables.records.c.policy == policy)
        ).first()
        record = tables.parse_record(policy, row.document) if row else Record(policy=policy)
        version = tables.version_of(policy, row.version) if row else 0
        return replace(record, orders=tuple(open_orders(connection, policy))), version

    def _write(
        self, connection: sa.Connection, policy: str, version: int, before: Record, change: Change, now: datetime
    ) -> Record:
        if replace(change.record, orders=()) != replace(before, orders=()) or version == 0:
            document = tables.document_of(change.record)
            if version == 0:
                connection.execute(sa.insert(tables.records).values(policy=policy, version=1, document=document))
            else:
                swapped = connection.execute(
                    sa.update(tables.records)
                    .where(tables.records.c.policy == policy, tables.records.c.version == version)
                    .values(version=version + 1, document=document)
                )
                if swapped.rowcount != 1:
                    raise StateUnavailable(f"the record of {policy} was changed by another process")
        self._tell(connection, change.events, now)
        if change.closed_orders:
            _close(connection, change.closed_orders, now)
        left = tuple(order for order in before.orders if order.id not in change.closed_orders)
        return replace(change.record, orders=left)

    # History

    def tell(self, events: Sequence[Event], now: datetime) -> None:
        """Add entries that belong to no record."""
        with self._transaction(writing=True) as connection:
            self._tell(connection, events, now)

    def _tell(self, connection: sa.Connection, events: Sequence[Event], now: datetime) -> None:
        if not events:
            return
        append(connection, events, now)
        for event in events:
            for sink in self.notify if event.notify else ():
                text = tables.event_text(replace(event, why=blank(event.why)))
                connection.execute(sa.insert(tables.notices).values(sink=sink, at=text_of(now), event=text))

    def history(self, policy: str | None = None, *, key_id: int | None = None, after: int = 0) -> list[Entry]:
        """The entries after that number, oldest first; those of one policy or of one key if it is named."""
        query = sa.select(tables.history).where(tables.history.c.seq > after).order_by(tables.history.c.seq)
        if policy is not None:
            query = query.where(tables.history.c.policy == policy)
        if key_id is not None:
            query = query.where(tables.history.c.key_id == key_id)
        with self._transaction(writing=False) as connection:
            return [entry_of(row._asdict()) for row in connection.execute(query)]

    def head(self) -> str:
        """The hash of the newest entry."""
        with self._transaction(writing=False) as connection:
            return head_of(connection).hash

    def newest(self) -> int:
        """The number of the newest entry; numbers are never given twice."""
        with self._transaction(writing=False) as connection:
            return head_of(connection).seq

    def oldest(self) -> Entry | None:
        """The oldest entry there still is."""
        query = sa.select(tables.history).order_by(tables.history.c.seq).limit(1)
        with self._transaction(writing=False) as connection:
            row = connection.execute(query).first()
        return entry_of(row._asdict()) if row else None

    def verify(self) -> Verdict:
        """Recompute the chain of hashes."""
        with self._transaction(writing=False) as connection:
            return verify(connection)

    def broken_at(self) -> int | None:
        """The first entry that does not follow from the one before, or None if the chain is whole."""
        return self.verify().broken_at

    def newest_time(self) -> datetime | None:
        """The newest time in the history, on Neon's clock."""
        newest = sa.select(tables.history.c.at).order_by(tables.history.c.seq.desc()).limit(1)
        with self._transaction(writing=False) as connection:
            at = connection.execute(newest).scalar()
        return time_of(at) if at else None

    # Orders

    def add_order(self, order: Order) -> int:
        """Take an operator's order down; its number. `order.id` is not used."""
        with self._transaction(writing=True) as connection:
            done = connection.execute(
                sa.insert(tables.orders).values(
                    policy=order.policy,
                    kind=order.kind.value,
                    at=text_of(order.at),
                    key_id=order.key_id,
                    leaked=order.leaked,
                    now=order.now,
                    unmanaged=order.unmanaged,
                )
            )
            primary_key = done.inserted_primary_key
            return int(primary_key[0]) if primary_key else 0

    def open_orders(self) -> list[Order]:
        """The orders that nobody has taken up, oldest first."""
        with self._transaction(writing=False) as connection:
            return list(open_orders(connection))

    def close_order(self, order_id: int, events: Sequence[Event], now: datetime) -> None:
        """End an order that belongs to no policy, with what came of it."""
        with self._transaction(writing=True) as connection:
            _close(connection, (order_id,), now)
            self._tell(connection, events, now)

    # Notifications

    def notices(self, sink: str) -> list[Notice]:
        """The oldest events that this sink has not confirmed, in order; at most a hundred."""
        table = tables.notices
        query = sa.select(table).where(table.c.sink == sink).order_by(table.c.id).limit(_NOTICES_AT_ONCE)
        with self._transaction(writing=False) as connection:
            return [tables.notice_of(row) for row in connection.execute(query)]

    def confirm_notice(self, notice_id: int) -> None:
        """The sink has taken the event."""
        with self._transaction(writing=True) as connection:
            connection.execute(sa.delete(tables.notices).where(tables.notices.c.id == notice_id))

    # What other processes read

    def set_outlooks(self, outlooks: Mapping[str, Mapping[str, Any]]) -> None:
        """Remember, by policy, what comes next and why, for `status`."""
        with self._transaction(writing=True) as connection:
            for policy, outlook in outlooks.items():
                connection.execute(sa.delete(tables.outlooks).where(tables.outlooks.c.policy == policy))
                connection.execute(
                    sa.insert(tables.outlooks).values(policy=policy, document=blank(json.dumps(outlook)))
                )

    def outlooks(self) -> dict[str, dict[str, Any]]:
        """What `set_outlooks` was last given, by policy."""
        with self._transaction(writing=False) as connection:
            return {row.policy: tables.outlook_of(row) for row in connection.execute(sa.select(tables.outlooks))}

    def set_meta(self, name: str, value: str) -> None:
        """Remember a word about the state as a whole."""
        with self._transaction(writing=True) as connection:
            connection.execute(sa.delete(tables.meta).where(tables.meta.c.name == name))
            connection.execute(sa.insert(tables.meta).values(name=name, value=value))

    def meta(self, name: str) -> str | None:
        """What `set_meta` was last given under this name."""
        with self._transaction(writing=False) as connection:
            value = connection.execute(sa.select(tables.meta.c.value).where(tables.meta.c.name == name)).scalar()
        if not isinstance(value, str | None):
            raise StateUnavailable(f"the state's word on {name} is damaged", "restore the state from a backup")
        return value

    def as_of(self) -> datetime | None:
        """How old the lists are that the last decisions rest on; None before the first."""
        told = self.meta("as_of")
        return time_of(told) if told else None

    def clock_reading(self) -> tuple[datetime, float] | None:
        """Neon's time and the seconds since the boot, as the service left them at its last poll; None before that."""
        told, _, at = (self.meta("clock") or "").partition(" ")
        if not told:
            return None
        if not _SECONDS.fullmatch(at):
            raise StateUnavailable("a time in the state is damaged", "restore the state from a backup")
        return time_of(told), float(at)

    def flags(self) -> dict[int, datetime]:
        """The keys that are flagged as unused, each with since when."""
        with self._transaction(writing=False) as connection:
            return {row.key_id: time_of(row.since) for row in connection.execute(sa.select(tables.flags))}

    def set_flags(self, add: Sequence[int], drop: Sequence[int], events: Sequence[Event], now: datetime) -> None:
        """Flag keys as unused, clear others, and tell."""
        with self._transaction(writing=True) as connection:
            for key_id in [*add, *drop]:
                connection.execute(sa.delete(tables.flags).where(tables.flags.c.key_id == key_id))
            for key_id in add:
                connection.execute(sa.insert(tables.flags).values(key_id=key_id, since=text_of(now)))
            self._tell(connection, events, now)

    # What is kept no longer

    def prune(self, now: datetime, limits: Limits = LIMITS) -> list[Event]:
        """Remove what is beyond the limits, of the history at most one portion; what was done, to be told.

        There may be more to remove after a `history.pruned`.
        """
        with self._transaction(writing=True) as connection:
            dropped = tables.trim(connection, limits.orders, limits.notices)
            pruned = prune_history(connection, limits.history, limits.portion, now)
        return [*dropped, *([pruned] if pruned else [])]

    # Samples of use

    def add_samples(self, samples: Sequence[Sample]) -> None:
        """Keep what was seen of keys' use; of each key the newest 100."""
        rows = [
            {"key_id": s.key_id, "used_at": text_of(s.used_at), "addresses": json.dumps(s.addresses)} for s in samples
        ]
        uses = tables.uses
        with self._transaction(writing=True) as connection:
            for row in rows:
                connection.execute(sa.insert(uses).prefix_with("OR REPLACE").values(**row))
                newest = sa.select(uses.c.used_at).where(uses.c.key_id == row["key_id"])
                kept = newest.order_by(uses.c.used_at.desc()).limit(_SAMPLES_KEPT)
                connection.execute(
                    sa.delete(uses).where(uses.c.key_id == row["key_id"], uses.c.used_at.not_in(kept.scalar_subquery()))
                )

    def drop_samples(self, key_ids: Collection[int]) -> None:
        """Forget the use of keys that are gone."""
        with self._transaction(writing=True) as connection:
            connection.execute(sa.delete(tables.uses).where(tables.uses.c.key_id.in_(key_ids)))

    def samples(self, key_id: int) -> list[Sample]:
        """What was seen of a key's use, oldest first."""
        query = sa.select(tables.uses).where(tables.uses.c.key_id == key_id).order_by(tables.uses.c.used_at)
        with self._transaction(writing=False) as connection:
            return [tables.sample_of(row) for row in connection.execute(query)]

    def newest_uses(self) -> dict[int, datetime]:
        """The newest use of each key that was kept."""
        query = sa.select(tables.uses.c.key_id, sa.func.max(tables.uses.c.used_at)).group_by(tables.uses.c.key_id)
        with self._transaction(writing=False) as connection:
            return {key_id: time_of(used_at) for key_id, used_at in connection.execute(query)}


def _length(connection: sa.Connection) -> int:
    pages, size = (connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0 for name in ("page_count", "page_size"))
    return int(pages) * int(size)


def _close(connection: sa.Connection, orders: Sequence[int], now: datetime) -> None:
    connection.execute(sa.update(tables.orders).where(tables.orders.c.id.in_(orders)).values(closed_at=text_of(now)))
