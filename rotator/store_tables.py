"""The tables of the state, and what stands in their columns.

Times are ISO 8601 in UTC. A record is a JSON document: fields that have their default are left out, so a
default is part of the format, and `document`, the format's version, is always there. A document that
this version does not understand in full is refused: what it does not know it would forget with the next
write, and the forgotten might be what kept a key from being revoked.

A history entry carries the SHA-256 of the entry before it and of all its own columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError

from rotator.errors import NeedsPerson, StateUnavailable
from rotator.model import DOCUMENT_VERSION, Event, Order, OrderKind, Record
from rotator.store_file import no_state

SCHEMA_VERSION = 1
GENESIS = "sha256:" + "0" * 64
_RECORD = TypeAdapter(Record)
_EVENT = TypeAdapter(Event)
_PERSISTED = {field.name for field in fields(Record)} - {"orders", "document"}
_UNKNOWN_FIELD = "unexpected_keyword_argument"

metadata = sa.MetaData()
meta = sa.Table(
    "meta", metadata, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
records = sa.Table(
    "records",
    metadata,
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
history = sa.Table(
    "history",
    metadata,
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
orders = sa.Table(
    "orders",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("policy", sa.Text),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("key_id", sa.BigInteger),
    sa.Column("leaked", sa.Boolean, nullable=False),
    sa.Column("now", sa.Boolean, nullable=False),
    sa.Column("unmanaged", sa.Boolean, nullable=False),
    sa.Column("closed_at", sa.Text),
    sqlite_autoincrement=True,
)
notices = sa.Table(
    "notices",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sink", sa.Text, nullable=False, index=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sqlite_autoincrement=True,  # a number given twice would make two messages look like one to their receiver
)
outlooks = sa.Table(
    "outlooks",
    metadata,
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)
flags = sa.Table(
    "flags",
    metadata,
    sa.Column("key_id", sa.BigInteger, primary_key=True),
    sa.Column("since", sa.Text, nullable=False),
)


uses = sa.Table(
    "uses",
    metadata,
    sa.Column("key_id", sa.BigInteger, primary_key=True),
    sa.Column("used_at", sa.Text, primary_key=True),
    sa.Column("addresses", sa.Text, nullable=False),
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


def prepare(connection: sa.Connection, path: Path, create: bool) -> None:
    """Make the tables of a new state, and make sure of an old one that this program understands it."""
    there = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
    if not there:
        if not create:
            raise no_state(path)
        metadata.create_all(connection)
        connection.execute(sa.insert(meta).values(name="schema", value=str(SCHEMA_VERSION)))
        return
    query = sa.select(meta.c.value).where(meta.c.name == "schema")
    found = connection.execute(query).scalar() if meta.name in there else None
    if found is None or not found.isdecimal():
        raise NeedsPerson(f"{path} is no state: it is another program's database", "change state")
    if int(found) > SCHEMA_VERSION:
        raise NeedsPerson(
            f"the state {path} was written by a newer rotator (schema {found}, this one reads up to {SCHEMA_VERSION})",
            "run that version again, or restore a state that it has not touched",
        )
    if create:
        metadata.create_all(connection)  # tables that were added since, without a change of the others


def text_of(moment: datetime) -> str:
    """A time as it is written down."""
    return moment.astimezone(UTC).isoformat()


def time_of(text: str) -> datetime:
    """A time as it was written down."""
    return datetime.fromisoformat(text)


# Records


def document_of(record: Record) -> str:
    """A record as it is written down. Its orders are kept beside it."""
    document = _RECORD.dump_python(record, mode="json", include=_PERSISTED, exclude_defaults=True)
    return json.dumps({"document": DOCUMENT_VERSION, **document}, separators=(",", ":"), ensure_ascii=False)


def parse_record(policy: str, document: str) -> Record:
    """A record as it was written down. Raises StateUnavailable for one that is not understood in full."""
    try:
        record = _RECORD.validate_json(document, extra="forbid")
        if record.policy == policy and record.document <= DOCUMENT_VERSION:
            return record
        newer = record.document > DOCUMENT_VERSION
    except ValidationError as error:
        faults = {fault["type"] for fault in error.errors(include_input=False, include_url=False)}
        newer = _UNKNOWN_FIELD in faults or _version_of(document) > DOCUMENT_VERSION
    if newer:
        raise StateUnavailable(
            f"the state's record of policy {policy} was written by a newer rotator, and this one would forget what it "
            "does not know of it",
            "run that version again",
        )
    raise StateUnavailable(
        f"the state's record of policy {policy} is damaged",
        "restore the state from a backup, or run the version of rotator that wrote it",
    )


def _version_of(document: str) -> int:
    try:
        version = json.loads(document)["document"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return DOCUMENT_VERSION
    return version if isinstance(version, int) else DOCUMENT_VERSION


# History


def chained(head: str, entry: Mapping[str, Any]) -> str:
    """The hash of an entry (all its columns but `hash`) that follows one with the hash `head`."""
    text = json.dumps(dict(entry), sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=repr)
    return "sha256:" + hashlib.sha256(f"{head}\n{text}".encode()).hexdigest()


def head_of(connection: sa.Connection) -> tuple[int, str]:
    """The newest entry's number and hash."""
    row = connection.execute(sa.select(history.c.seq, history.c.hash).order_by(history.c.seq.desc()).limit(1)).first()
    return (row.seq, row.hash) if row else (0, GENESIS)


def entry_of(row: Mapping[str, Any]) -> Entry:
    """An entry as it was written down. Raises StateUnavailable for one whose time cannot be read."""
    try:
        return Entry(**{**row, "at": time_of(row["at"])})
    except (TypeError, ValueError):
        raise StateUnavailable(
            f"entry {row['seq']} of the state's history is damaged", "see: rotator history --verify"
        ) from None


# Orders and notices


def open_orders(connection: sa.Connection, policy: str | None = None) -> Iterator[Order]:
    """The orders that are not closed, of one policy if it is named, oldest first."""
    query = sa.select(orders).where(orders.c.closed_at.is_(None)).order_by(orders.c.id)
    if policy is not None:
        query = query.where(orders.c.policy == policy)
    for row in connection.execute(query):
        yield Order(
            id=row.id,
            kind=OrderKind(row.kind),
            at=time_of(row.at),
            policy=row.policy,
            key_id=row.key_id,
            leaked=row.leaked,
            now=row.now,
            unmanaged=row.unmanaged,
        )


def event_text(event: Event) -> str:
    """An event as it is written down for a notice."""
    return _EVENT.dump_json(event).decode()


def notice_of(row: Any) -> Notice:
    """A notice as it was written down. Raises StateUnavailable for one that cannot be read."""
    try:
        return Notice(row.id, row.sink, time_of(row.at), _EVENT.validate_json(row.event))
    except ValueError:  # ValidationError is one
        raise StateUnavailable(
            f"the state's notice {row.id} for sink {row.sink} is damaged", "restore the state from a backup"
        ) from None
