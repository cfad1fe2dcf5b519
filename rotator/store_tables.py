"""The tables of the state, and what stands in their columns.

Times are ISO 8601 in UTC. A record is a JSON document: fields that have their default are left out, so a
default is part of the format, and `document`, the format's version, is always there. A document that
this version does not understand in full is refused: what it does not know it would forget with the next
write, and the forgotten might be what kept a key from being revoked.

Whatever is read is looked over first: SQLite keeps any value in any column, and a file can be damaged. What is
not what this program writes raises StateUnavailable, which says what it was, and stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator

from rotator.errors import NeedsPerson, StateUnavailable
from rotator.model import DOCUMENT_VERSION, YEARS, Do, Event, Order, Record
from rotator.rhythm import Sample
from rotator.store_file import no_state

SCHEMA_VERSION = 1
_RESTORE = "restore the state from a backup"
_FIRST, _LAST = (datetime(year, 1, 1, tzinfo=UTC) for year in (YEARS.start, YEARS.stop))
# What values of these types may be, so that nothing can be reckoned out of the calendar or out of a column.
_BOUNDS: dict[str, dict[str, Any]] = {
    "datetime": {"tz_constraint": "aware", "ge": _FIRST, "lt": _LAST},
    "timedelta": {"ge": timedelta(0), "lt": _LAST - _FIRST},
    "int": {"ge": 0, "le": 2**63 - 1},
}


def reader(kind: type) -> SchemaValidator:
    """Reads values of this type, within the bounds."""
    return SchemaValidator(_bounded(TypeAdapter(kind).core_schema))


def _bounded(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_bounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _bounded(item) for key, item in schema.items()}
    return inner | _BOUNDS.get(str(schema.get("type")), {})


_RECORD = TypeAdapter(Record)
_RECORD_READER = reader(Record)
_EVENT = TypeAdapter(Event)
_EVENT_READER = reader(Event)
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
class Notice:
    """An event that a sink of `notify` has not confirmed yet."""

    id: int
    sink: str
    at: datetime
    event: Event


@dataclass(frozen=True)
class _Outlook:
    """What is relied on in a decision that was written down."""

    do: Do
    why: str
    decided_at: datetime
    coming: Do | None = None
    until: datetime | None = None


_ORDER_READER = reader(Order)
_OUTLOOK_READER = reader(_Outlook)
_ADDRESSES_READER = SchemaValidator(TypeAdapter(tuple[str, ...]).core_schema)


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
    if not isinstance(found, str) or not (found.isascii() and found.isdecimal() and len(found) < 10):
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
    """A time as it was written down. Raises StateUnavailable."""
    try:
        moment = datetime.fromisoformat(text)
        if _FIRST <= moment < _LAST:
            return moment
    except (TypeError, ValueError):  # TypeError also where a time of no zone is compared
        pass
    raise StateUnavailable("a time in the state is damaged", _RESTORE)


# Records


def document_of(record: Record) -> str:
    """A record as it is written down. Its orders are kept beside it."""
    document = _RECORD.dump_python(record, mode="json", include=_PERSISTED, exclude_defaults=True)
    return json.dumps({"document": DOCUMENT_VERSION, **document}, separators=(",", ":"), ensure_ascii=False)


def parse_record(policy: str, document: str) -> Record:
    """A record as it was written down. Raises StateUnavailable for one that is not understood in full."""
    try:
        record: Record = _RECORD_READER.validate_json(document, strict=True, extra="forbid")
        if record.policy == policy and 1 <= record.document <= DOCUMENT_VERSION:
            return record
        newer = record.document > DOCUMENT_VERSION
    except TypeError:  # no text at all
        newer = False
    except ValidationError as error:
        faults = {fault["type"] for fault in error.errors(include_input=False, include_url=False)}
        newer = _UNKNOWN_FIELD in faults or _version_of(document) > DOCUMENT_VERSION
    if newer:
        raise StateUnavailable(
            f"the state's record of policy {policy} was written by a newer rotator, and this one would forget what it "
            "does not know of it",
            "run that version again",
        )
    raise _damaged(policy)


def version_of(policy: str, version: object) -> int:
    """How often a record was written. Raises StateUnavailable."""
    if not isinstance(version, int):
        raise _damaged(policy)
    return version


def _damaged(policy: str) -> StateUnavailable:
    return StateUnavailable(
        f"the state's record of policy {policy} is damaged",
        "restore the state from a backup, or run the version of rotator that wrote it",
    )


def _version_of(document: str) -> int:
    try:
        version = json.loads(document)["document"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return DOCUMENT_VERSION
    return version if isinstance(version, int) else DOCUMENT_VERSION


# Orders and notices


def open_orders(connection: sa.Connection, policy: str | None = None) -> Iterator[Order]:
    """The orders that are not closed, of one policy if it is named, oldest first."""
    query = sa.select(orders).where(orders.c.closed_at.is_(None)).order_by(orders.c.id)
    if policy is not None:
        query = query.where(orders.c.policy == policy)
    try:
        for row in connection.execute(query):
            yield _ORDER_READER.validate_json(json.dumps(row._asdict()), strict=True)
    except (TypeError, ValueError):  # a ValidationError, or what SQLAlchemy raises for a truth that is none
        raise StateUnavailable(
            "an open order in the state is damaged", f"{_RESTORE}, or delete that row of its table orders"
        ) from None


def trim(connection: sa.Connection, closed_orders: int, waiting: int) -> list[Event]:
    """Drop the oldest closed orders, and of every sink the oldest notices, beyond so many; what is to be told."""
    ids = sa.select(orders.c.id).where(orders.c.closed_at.is_not(None)).order_by(orders.c.id.desc())
    bound = connection.execute(ids.offset(closed_orders).limit(1)).scalar()
    if bound is not None:
        connection.execute(sa.delete(orders).where(orders.c.id <= bound, orders.c.closed_at.is_not(None)))
    told = []
    for sink in connection.execute(sa.select(notices.c.sink).distinct()).scalars().all():
        ids = sa.select(notices.c.id).where(notices.c.sink == sink).order_by(notices.c.id.desc())
        bound = connection.execute(ids.offset(waiting).limit(1)).scalar()
        if bound is not None:
            dropped = connection.execute(sa.delete(notices).where(notices.c.sink == sink, notices.c.id <= bound))
            why = f"sink {sink} has not taken {waiting} events; {dropped.rowcount} older ones are not sent any more"
            told.append(Event("notice.dropped", f"{why}; rotator history has them all"))
    return told


def event_text(event: Event) -> str:
    """An event as it is written down for a notice."""
    return _EVENT.dump_json(event).decode()


def notice_of(row: Any) -> Notice:
    """A notice as it was written down. Raises StateUnavailable for one that cannot be read."""
    try:
        return Notice(row.id, row.sink, time_of(row.at), _EVENT_READER.validate_json(row.event, strict=True))
    except (StateUnavailable, TypeError, ValidationError):
        raise StateUnavailable(f"the state's notice {row.id} for sink {row.sink} is damaged", _RESTORE) from None


# What other processes read, and samples of use


def outlook_of(row: Any) -> dict[str, Any]:
    """A decision as it was written down. Raises StateUnavailable."""
    try:
        _OUTLOOK_READER.validate_json(row.document, strict=True)
    except (TypeError, ValidationError):
        raise StateUnavailable(
            f"what the state says of the last decision about policy {row.policy} is damaged",
            "a service that is started writes it anew",
        ) from None
    outlook: dict[str, Any] = json.loads(row.document)
    return outlook


def sample_of(row: Any) -> Sample:
    """A use of a key as it was written down. Raises StateUnavailable."""
    try:
        return Sample(row.key_id, time_of(row.used_at), _ADDRESSES_READER.validate_json(row.addresses, strict=True))
    except (StateUnavailable, TypeError, ValidationError):
        raise StateUnavailable(f"what the state says of the use of key {row.key_id} is damaged", _RESTORE) from None
