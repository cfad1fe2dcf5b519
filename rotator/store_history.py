"""The history: entries chained by hash, of which the oldest go when there are too many.

Each entry carries the SHA-256 of the entry before it and of all its own columns, so a changed or missing
entry shows; the newest hash, kept elsewhere, also shows a cut end.

Entries are removed from the oldest end alone, a portion at a time, in one transaction with an entry
`history.pruned`, which names the last one removed and its hash: the *anchor*, that the first entry left must
follow from. That entry is a link of the chain like any other, so the anchor cannot be changed unseen, and it is
always there: what is kept is longer than what is removed at once. A portion is recomputed before it goes. One that
does not fit stays, and everything after it, or pruning would remove the traces of whoever changed it.

The rule is a number and no age, because a clock that is wrong must not be able to remove the history.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic_core import ValidationError

from rotator.errors import StateUnavailable
from rotator.model import Event
from rotator.secret import blank
from rotator.store_tables import history, reader, text_of

PRUNED = "history.pruned"
BROKEN = "history.broken"
_ANCHOR = re.compile(r"entries \d+ to (\d+) are removed, .* entry \1 had the hash (sha256:[0-9a-f]{64})")


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


_ENTRY_READER = reader(Entry)


@dataclass(frozen=True)
class Link:
    """What the next entry must follow from: the number and the hash of the one before."""

    seq: int
    hash: str


GENESIS = "sha256:" + "0" * 64
_BEGINNING = Link(0, GENESIS)


@dataclass(frozen=True)
class Verdict:
    """What recomputing the chain came to.

    `broken_at` is the first entry that does not follow from the one before, or None; `pruned_to` the last one
    that was removed by the rule, 0 if none was; `entries` how many are there, `head` the newest hash.
    """

    entries: int
    head: str
    pruned_to: int
    broken_at: int | None


def chained(head: str, entry: Mapping[str, Any]) -> str:
    """The hash of an entry (all its columns but `hash`) that follows one with the hash `head`."""
    text = json.dumps(dict(entry), sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=repr)
    return "sha256:" + hashlib.sha256(f"{head}\n{text}".encode()).hexdigest()


def head_of(connection: sa.Connection) -> Link:
    """The newest entry."""
    row = connection.execute(sa.select(history.c.seq, history.c.hash).order_by(history.c.seq.desc()).limit(1)).first()
    return Link(row.seq, str(row.hash)) if row else _BEGINNING


def append(connection: sa.Connection, events: Sequence[Event], now: datetime) -> None:
    """Add an entry for each event."""
    head = head_of(connection)
    for event in events:
        entry = {
            "seq": head.seq + 1,
            "at": text_of(now),
            "policy": event.policy,
            "event": event.name,
            "key_id": event.key_id,
            "key_name": event.key_name,
            "generation": event.generation,
            "why": blank(event.why),
        }
        head = Link(head.seq + 1, chained(head.hash, entry))
        connection.execute(sa.insert(history).values(**entry, hash=head.hash))


def entry_of(row: Mapping[str, Any]) -> Entry:
    """An entry as it was written down. Raises StateUnavailable for one that cannot be read."""
    try:
        entry: Entry = _ENTRY_READER.validate_json(json.dumps(dict(row)), strict=True)
        return entry
    except (TypeError, ValidationError):
        raise StateUnavailable(
            f"entry {row['seq']} of the state's history is damaged", "see: rotator history --verify"
        ) from None


def verify(connection: sa.Connection) -> Verdict:
    """Recompute the whole chain."""
    first: sa.Row[Any] | None = None
    anchor, link, entries, broken = _BEGINNING, _BEGINNING, 0, None
    for row in connection.execute(sa.select(history).order_by(history.c.seq)):
        entries += 1
        if entries == 1 and row.seq > 1:
            first = row  # what it must follow from is told by a later entry, which must itself be sound
        elif broken is None and not _follows(link, row):
            broken = link.seq + 1
        if row.event == PRUNED:
            anchor = _anchor_in(row.why) or anchor
        link = Link(row.seq, row.hash)
    if broken is None and entries:
        begins = first.seq if first is not None else 1
        if begins != anchor.seq + 1 or (first is not None and not _follows(anchor, first)):
            broken = min(begins, anchor.seq + 1)
    return Verdict(entries, link.hash, anchor.seq, broken)


def prune(connection: sa.Connection, kept: int, portion: int, now: datetime) -> Event | None:
    """Remove the oldest portion if there are so many more entries than are kept; what was done, or why not."""
    low = connection.execute(sa.select(sa.func.min(history.c.seq))).scalar()  # alone, or SQLite reads every row
    if low is None or head_of(connection).seq - low + 1 < kept + portion:
        return None
    last = low + portion - 1
    link = _anchor_of(connection)
    for row in connection.execute(sa.select(history).where(history.c.seq <= last).order_by(history.c.seq)):
        if not _follows(link, row):
            break
        link = Link(row.seq, row.hash)
    if link.seq != last:
        return Event(
            BROKEN,
            f"the history breaks at entry {link.seq + 1}: it was changed or removed after it was written; nothing of "
            "the history is removed any more, so that the traces stay; see: rotator history --verify",
        )
    connection.execute(sa.delete(history).where(history.c.seq <= last))
    event = Event(
        PRUNED,
        f"entries {low} to {last} are removed, as the newest {kept} are kept; entry {last} had the hash {link.hash}",
    )
    append(connection, [event], now)
    return event


def _follows(link: Link, row: sa.Row[Any]) -> bool:
    columns = row._asdict()
    stored = columns.pop("hash")
    return bool(row.seq == link.seq + 1 and stored == chained(link.hash, columns))


def _anchor_of(connection: sa.Connection) -> Link:
    newest = sa.select(history.c.why).where(history.c.event == PRUNED).order_by(history.c.seq.desc()).limit(1)
    return _anchor_in(connection.execute(newest).scalar()) or _BEGINNING


def _anchor_in(why: object) -> Link | None:
    found = _ANCHOR.fullmatch(why) if isinstance(why, str) else None
    return Link(int(found[1]), found[2]) if found else None
