"""The state: records, history, orders and what is still to be told, in SQLite through SQLAlchemy Core.

One file, mode 0600, WAL, `synchronous=FULL`: what a call has returned from survives a power cut. Every
change of a record happens inside one transaction that begins as a write (`BEGIN IMMEDIATE`): the
record is read, a pure transition is applied to it, and the new record is written with a
compare-and-swap on its version, together with its history entries, the orders that it closes and the
notifications that it causes. So a transition never works on a stale record, and nothing is ever told
that was not also remembered.

The history is append only. Each entry carries the SHA-256 of the entry before it and its own fields,
so a changed or missing entry shows; the newest hash, kept elsewhere, also shows a cut end.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError

from rotator.errors import NeedsPerson, StateUnavailable
from rotator.model import DOCUMENT_VERSION, Event, Order, OrderKind, Record
from rotator.transitions import Change

SCHEMA_VERSION = 1
GENESIS = "sha256:" + "0" * 64
_RECORD = TypeAdapter(Record)
_PERSISTED = {field.name for field in fields(Record)} - {"orders"}
_BUSY_TIMEOUT = 10.0

_metadata = sa.MetaData()
_meta = sa.Table(
    "meta", _metadata, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
_records = sa.Table(
    "records",
    _metadata,
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
_history = sa.Table(
    "history",
    _metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("policy", sa.Text, index=True),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("key_id", sa.BigInteger),
    sa.Column("key_name", sa.Text),
    sa.Column("generation", sa.Integer),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)
_orders = sa.Table(
    "orders",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("policy", sa.Text),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("key_id", sa.BigInteger),
    sa.Column("leaked", sa.Boolean, nullable=False),
    sa.Column("now", sa.Boolean, nullable=False),
    sa.Column("unmanaged", sa.Boolean, nullable=False),
    sa.Column("closed_at", sa.Text),
)
_notices = sa.Table(
    "notices",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("sink", sa.Text, nullable=False, index=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
)
_outlooks = sa.Table(
    "outlooks",
    _metadata,
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)
_flags = sa.Table(
    "flags",
    _metadata,
    sa.Column("key_id", sa.BigInteger, primary_key=True),
    sa.Column("since", sa.Text, nullable=False),
)


@dataclass(frozen=True)
class Entry:
    """One line of the history."""

    seq: int
    at: datetime
    policy: str | None
    event: str
    key_id: int | None
    key_name: str | None
    generation: int | None
    why: str
    hash: str


@dataclass(frozen=True)
class Notice:
    """An event that a sink of `notify` has not confirmed yet."""

    id: int
    sink: str
    at: datetime
    event: Event


class Store:
    """The state of one configuration. Safe for threads; other processes may read and add orders.

    Every method raises StateUnavailable when the state cannot be read or written now.
    """

    def __init__(self, url: str, notify: Sequence[str] = (), *, create: bool = True) -> None:
        """Open the state at `sqlite:///PATH`. Raises NeedsPerson for one that this program cannot use.

        `notify` names the sinks that events are kept for. Without `create`, a state that is not there
        is not made.
        """
        self.path = _path_of(url)
        self.notify = tuple(notify)
        self._writing = threading.Lock()
        _prepare_file(self.path, create)
        self._engine = sa.create_engine(
            "sqlite://", creator=self._connect, poolclass=sa.pool.QueuePool, pool_size=4, max_overflow=12
        )
        with self._transaction(writing=create) as connection:
            if create:
                _metadata.create_all(connection)
            _check_schema(connection, self.path, create)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def close(self) -> None:
        """Give back the file handles."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, *, writing: bool) -> Iterator[sa.Connection]:
        guard: AbstractContextManager[object] = self._writing if writing else nullcontext()
        try:
            with guard, self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
                try:
                    yield connection
                    connection.exec_driver_sql("COMMIT")
                except BaseException:
                    _roll_back(connection)
                    raise
        except (sa.exc.DatabaseError, sqlite3.Error) as error:
            raise _unavailable(self.path, error) from None

    # Records

    def record(self, policy: str) -> Record:
        """What is remembered of a policy, with its open orders; an empty record for one that is new."""
        with self._transaction(writing=False) as connection:
            return self._load(connection, policy)[0]

    def records(self) -> dict[str, Record]:
        """Every record, by policy, with its open orders."""
        with self._transaction(writing=False) as connection:
            orders: dict[str | None, list[Order]] = {}
            for order in _open_orders(connection):
                orders.setdefault(order.policy, []).append(order)
            rows = connection.execute(sa.select(_records.c.policy, _records.c.document)).all()
            return {
                policy: replace(_parse(policy, document), orders=tuple(orders.get(policy, ())))
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

    def rename(self, old: str, new: str, now: datetime) -> None:
        """Let `new` take over the record of `old`, if there is one and `new` has none."""
        with self._transaction(writing=True) as connection:
            record, version = self._load(connection, old)
            if version and not self._load(connection, new)[1]:
                connection.execute(sa.delete(_records).where(_records.c.policy == old))
                event = Event("policy.renamed", f"policy {old} is now called {new}", new)
                self._write(connection, new, 0, record, Change(replace(record, policy=new), (event,)), now)

    def _load(self, connection: sa.Connection, policy: str) -> tuple[Record, int]:
        row = connection.execute(
            sa.select(_records.c.version, _records.c.document).where(_records.c.policy == policy)
        ).first()
        record = _parse(policy, row.document) if row else Record(policy=policy)
        return replace(record, orders=tuple(_open_orders(connection, policy))), row.version if row else 0

    def _write(
        self, connection: sa.Connection, policy: str, version: int, before: Record, change: Change, now: datetime
    ) -> Record:
        if replace(change.record, orders=()) != replace(before, orders=()) or version == 0:
            document = _RECORD.dump_json(change.record, include=_PERSISTED, exclude_defaults=True).decode()
            if version == 0:
                connection.execute(sa.insert(_records).values(policy=policy, version=1, document=document))
            else:
                swapped = connection.execute(
                    sa.update(_records)
                    .where(_records.c.policy == policy, _records.c.version == version)
                    .values(version=version + 1, document=document)
                )
                if swapped.rowcount != 1:
                    raise StateUnavailable(f"the record of {policy} was changed by another process")
        self._tell(connection, change.events, now)
        if change.closed_orders:
            connection.execute(
                sa.update(_orders).where(_orders.c.id.in_(change.closed_orders)).values(closed_at=_text(now))
            )
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
        seq, head = _head(connection)
        for event in events:
            seq += 1
            entry = {
                "seq": seq,
                "at": _text(now),
                "policy": event.policy,
                "event": event.name,
                "key_id": event.key_id,
                "key_name": event.key_name,
                "generation": event.generation,
                "why": event.why,
            }
            head = chained(head, entry)
            connection.execute(sa.insert(_history).values(**entry, hash=head))
            if event.notify:
                for sink in self.notify:
                    connection.execute(
                        sa.insert(_notices).values(sink=sink, at=_text(now), event=_EVENT.dump_json(event).decode())
                    )

    def history(self, policy: str | None = None) -> list[Entry]:
        """The entries, oldest first; those of one policy if it is named."""
        query = sa.select(_history).order_by(_history.c.seq)
        if policy is not None:
            query = query.where(_history.c.policy == policy)
        with self._transaction(writing=False) as connection:
            return [_entry(row._asdict()) for row in connection.execute(query)]

    def head(self) -> str:
        """The hash of the newest entry."""
        with self._transaction(writing=False) as connection:
            return _head(connection)[1]

    def broken_at(self) -> int | None:
        """The first entry that does not follow from the one before, or None if the chain is whole."""
        head, expected = GENESIS, 1
        with self._transaction(writing=False) as connection:
            for row in connection.execute(sa.select(_history).order_by(_history.c.seq)):
                fields_of_row = row._asdict()
                stored = fields_of_row.pop("hash")
                head = chained(head, fields_of_row)
                if row.seq != expected or stored != head:
                    return expected
                expected += 1
        return None

    def newest_time(self) -> datetime | None:
        """The newest time in the history, on Neon's clock."""
        with self._transaction(writing=False) as connection:
            at = connection.execute(sa.select(_history.c.at).order_by(_history.c.seq.desc()).limit(1)).scalar()
        return _time(at) if at else None

    # Orders

    def add_order(self, order: Order) -> int:
        """Take an operator's order down; its number. `order.id` is not used."""
        with self._transaction(writing=True) as connection:
            done = connection.execute(
                sa.insert(_orders).values(
                    policy=order.policy,
                    kind=order.kind.value,
                    at=_text(order.at),
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
            return list(_open_orders(connection))

    def close_order(self, order_id: int, events: Sequence[Event], now: datetime) -> None:
        """End an order that belongs to no policy, with what came of it."""
        with self._transaction(writing=True) as connection:
            connection.execute(sa.update(_orders).where(_orders.c.id == order_id).values(closed_at=_text(now)))
            self._tell(connection, events, now)

    # Notifications

    def notices(self, sink: str) -> list[Notice]:
        """The events that this sink has not confirmed, oldest first."""
        query = sa.select(_notices).where(_notices.c.sink == sink).order_by(_notices.c.id)
        with self._transaction(writing=False) as connection:
            return [
                Notice(row.id, row.sink, _time(row.at), _EVENT.validate_json(row.event))
                for row in connection.execute(query)
            ]

    def confirm_notice(self, notice_id: int) -> None:
        """The sink has taken the event."""
        with self._transaction(writing=True) as connection:
            connection.execute(sa.delete(_notices).where(_notices.c.id == notice_id))

    # What other processes read

    def set_outlooks(self, outlooks: Mapping[str, Mapping[str, Any]]) -> None:
        """Remember, by policy, what comes next and why, for `status`."""
        with self._transaction(writing=True) as connection:
            for policy, outlook in outlooks.items():
                connection.execute(sa.delete(_outlooks).where(_outlooks.c.policy == policy))
                connection.execute(sa.insert(_outlooks).values(policy=policy, document=json.dumps(outlook)))

    def outlooks(self) -> dict[str, dict[str, Any]]:
        """What `set_outlooks` was last given, by policy."""
        with self._transaction(writing=False) as connection:
            return {row.policy: json.loads(row.document) for row in connection.execute(sa.select(_outlooks))}

    def set_meta(self, name: str, value: str) -> None:
        """Remember a word about the state as a whole."""
        with self._transaction(writing=True) as connection:
            connection.execute(sa.delete(_meta).where(_meta.c.name == name))
            connection.execute(sa.insert(_meta).values(name=name, value=value))

    def meta(self, name: str) -> str | None:
        """What `set_meta` was last given under this name."""
        with self._transaction(writing=False) as connection:
            return connection.execute(sa.select(_meta.c.value).where(_meta.c.name == name)).scalar()

    def flags(self) -> dict[int, datetime]:
        """The keys that are flagged as unused, each with since when."""
        with self._transaction(writing=False) as connection:
            return {row.key_id: _time(row.since) for row in connection.execute(sa.select(_flags))}

    def set_flags(self, add: Sequence[int], drop: Sequence[int], events: Sequence[Event], now: datetime) -> None:
        """Flag keys as unused, clear others, and tell."""
        with self._transaction(writing=True) as connection:
            for key_id in [*add, *drop]:
                connection.execute(sa.delete(_flags).where(_flags.c.key_id == key_id))
            for key_id in add:
                connection.execute(sa.insert(_flags).values(key_id=key_id, since=_text(now)))
            self._tell(connection, events, now)


_EVENT = TypeAdapter(Event)


def chained(head: str, entry: Mapping[str, Any]) -> str:
    """The hash of an entry (all its columns but `hash`) that follows one with the hash `head`."""
    text = json.dumps(dict(entry), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(f"{head}\n{text}".encode()).hexdigest()


def _head(connection: sa.Connection) -> tuple[int, str]:
    row = connection.execute(
        sa.select(_history.c.seq, _history.c.hash).order_by(_history.c.seq.desc()).limit(1)
    ).first()
    return (row.seq, row.hash) if row else (0, GENESIS)


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(**{**row, "at": _time(row["at"])})


def _open_orders(connection: sa.Connection, policy: str | None = None) -> Iterator[Order]:
    query = sa.select(_orders).where(_orders.c.closed_at.is_(None)).order_by(_orders.c.id)
    if policy is not None:
        query = query.where(_orders.c.policy == policy)
    for row in connection.execute(query):
        yield Order(
            id=row.id,
            kind=OrderKind(row.kind),
            at=_time(row.at),
            policy=row.policy,
            key_id=row.key_id,
            leaked=row.leaked,
            now=row.now,
            unmanaged=row.unmanaged,
        )


def _parse(policy: str, document: str) -> Record:
    try:
        record = _RECORD.validate_json(document)
    except ValidationError:
        raise NeedsPerson(
            f"the state's record of policy {policy} cannot be read",
            "restore the state from a backup, or run the version of rotator that wrote it",
        ) from None
    if record.document > DOCUMENT_VERSION:
        raise NeedsPerson(
            f"the state's record of policy {policy} was written by a newer rotator (format {record.document}, this one "
            f"reads up to {DOCUMENT_VERSION})",
            "run that version again",
        )
    return record


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _path_of(url: str) -> Path:
    prefix = "sqlite:///"
    if not url.startswith(prefix):
        raise NeedsPerson(
            f"the state {url.partition(':')[0]}: is not supported by this version", "use sqlite:///PATH for now"
        )
    return Path(url[len(prefix) :])


def _prepare_file(path: Path, create: bool) -> None:
    try:
        if not path.exists():
            if not create:
                raise NeedsPerson(f"there is no state at {path} yet", "start the service first: rotator run")
            path.touch(mode=0o600, exist_ok=True)
        elif create and path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise NeedsPerson(
            f"the state {path} cannot be opened: {error.strerror}",
            f"make the folder {path.parent} writable for the user that rotator runs as, or change state",
        ) from None


def _check_schema(connection: sa.Connection, path: Path, create: bool) -> None:
    found = connection.execute(sa.select(_meta.c.value).where(_meta.c.name == "schema")).scalar()
    if found is None and create:
        connection.execute(sa.insert(_meta).values(name="schema", value=str(SCHEMA_VERSION)))
    elif found is not None and int(found) > SCHEMA_VERSION:
        raise NeedsPerson(
            f"the state {path} was written by a newer rotator (schema {found}, this one reads up to {SCHEMA_VERSION})",
            "run that version again, or restore a state that it has not touched",
        )


def _roll_back(connection: sa.Connection) -> None:
    try:
        connection.exec_driver_sql("ROLLBACK")
    except (sa.exc.DatabaseError, sqlite3.Error):
        connection.invalidate()  # the transaction is already gone, and so must the connection be


def _unavailable(path: Path, error: Exception) -> StateUnavailable | NeedsPerson:
    cause = str(getattr(error, "orig", None) or error)
    if "not a database" in cause or "malformed" in cause:
        return NeedsPerson(f"the state {path} is damaged: {cause}", "restore it from a backup, or move it away")
    return StateUnavailable(
        f"the state {path} cannot be used: {cause}", "check the disk's free space and the file's permissions"
    )
