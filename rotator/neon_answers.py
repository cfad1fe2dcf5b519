"""What Neon's answers say: from bytes to keys, or to a sentence about why not. Pure.

Read leniently where nothing hangs on it (unknown fields, a missing `created_by`, which is an object in a list and
a text elsewhere) and strictly where a mistake would cost something: a list with one entry that cannot
be read is no list, because what is absent from it might have been that entry, and a `last_used_at` that cannot
be read must not pass for "never used". A sentence names the place, never what stood there: it may
be a secret.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn, TypeVar

from rotator.model import YEARS, Key
from rotator.secret import Secret

T = TypeVar("T")

LARGEST_ID = 2**63 - 1
LONGEST_PAUSE = timedelta(hours=1)

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,18})?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_SECRET = re.compile(r"[\x21-\x7e]{1,1024}")
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)


class Unreadable(Exception):
    """An answer that cannot be read; the text says where it is wrong, without repeating it."""


@dataclass(frozen=True)
class Flaw:
    """Why an answer cannot be read, as a value: an exception would carry the answer along in its frames."""

    why: str


@dataclass(frozen=True)
class Account:
    """Whose key it is that Neon was asked with. `auth_method` is `api_key_user`, `api_key_org`, …"""

    account_id: str
    auth_method: str


def read(body: bytes, parse: Callable[[object], T]) -> T | Flaw:
    """The body as JSON through `parse`."""
    try:
        return parse(json.loads(body.decode("utf-8"), parse_constant=_no_number))
    except Unreadable as error:
        return Flaw(str(error))
    except (ValueError, RecursionError):
        return Flaw("it is not JSON")


def message_of(body: bytes) -> str:
    """What an error says, in lower case, to be searched for known phrases and never to be repeated."""
    said = read(body, lambda data: data.get("message") if isinstance(data, dict) else None)
    return (said if isinstance(said, str) else body.decode("utf-8", "replace")).lower()


def parse_list(data: object) -> dict[int, Key]:
    """The keys of a list by id. Raises Unreadable."""
    if not isinstance(data, list):
        raise Unreadable("it is not a list")
    keys: dict[int, Key] = {}
    for number, entry in enumerate(data, start=1):
        key = _key(_object(entry, f"entry {number}"), f"entry {number}")
        if key.id in keys:
            raise Unreadable(f"entry {number} repeats an id")
        keys[key.id] = key
    return keys


def parse_created(data: object) -> tuple[Key, Secret]:
    """A new key and its secret, which is shown this once. Raises Unreadable.

    The secret's form is not checked beyond what a header and a line of a file can carry: older keys
    look different, and so may later ones.
    """
    answer = _object(data, "it")
    secret = answer.get("key")
    if not isinstance(secret, str) or not _SECRET.fullmatch(secret):
        raise Unreadable("it has no key that can be used")
    return _key(answer, "it"), Secret(secret)


def parse_revoked(data: object) -> int:
    """The id of the key that is now revoked. Raises Unreadable."""
    answer = _object(data, "it")
    if answer.get("revoked") is not True:
        raise Unreadable("it does not say that the key is revoked")
    return _id(answer, "it")


def parse_account(data: object) -> Account:
    """Whose key it was. Raises Unreadable."""
    answer = _object(data, "it")
    account, method = answer.get("account_id"), answer.get("auth_method")
    if not isinstance(account, str) or not account:
        raise Unreadable("it has no account_id")
    return Account(_text(account), _text(method) if isinstance(method, str) else "")


def parse_time(value: object) -> datetime | None:
    """An RFC 3339 time as aware UTC; one without an offset is taken for UTC. None for anything else."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return None
    try:
        moment = datetime.fromisoformat(value.upper())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_date(text: str | None) -> datetime | None:
    """A `Date` header as aware UTC, or None; also for a year that no clock is in."""
    try:
        moment = email.utils.parsedate_to_datetime(text or "")
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.year in YEARS else None


def parse_retry_after(text: str | None, date: datetime | None) -> timedelta | None:
    """How long a `Retry-After` asks to wait, at most an hour; as an HTTP date it is counted from `date`."""
    if text is None:
        return None
    if _SECONDS.fullmatch(text.strip()):
        return min(timedelta(seconds=float(text)), LONGEST_PAUSE)
    until = parse_date(text)
    return None if until is None or date is None else max(timedelta(0), min(until - date, LONGEST_PAUSE))


def _no_number(_: str) -> NoReturn:
    raise Unreadable("it is not JSON")  # NaN and Infinity, which Python's parser would let through


def _key(entry: dict[object, object], where: str) -> Key:
    name, project = entry.get("name"), entry.get("project_id")
    created_at = parse_time(entry.get("created_at"))
    if not isinstance(name, str):
        raise Unreadable(f"{where} has no name")
    if created_at is None or created_at.year not in YEARS:
        raise Unreadable(f"{where} has no created_at that is a time")
    if project is not None and not isinstance(project, str):
        raise Unreadable(f"{where} has a project_id that is not text")
    creator = entry.get("created_by")
    if isinstance(creator, dict):
        creator = creator.get("id")
    return Key(
        id=_id(entry, where),
        name=_text(name),
        created_at=created_at,
        created_by=_text(creator) if isinstance(creator, str) and creator else None,
        last_used_at=_last_use(entry.get("last_used_at"), where),
        last_used_from=_addresses(entry.get("last_used_from_addr"), where),
        project=_text(project) if project else None,
    )


def _id(entry: dict[object, object], where: str) -> int:
    value = entry.get("id")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST_ID:
        raise Unreadable(f"{where} has no id")
    return value


def _last_use(value: object, where: str) -> datetime | None:
    if value is None or value == "":
        return None
    moment = parse_time(value)
    if moment is not None and moment.year == 1:
        return None  # how Go writes "no time"
    if moment is None or moment.year not in YEARS:
        raise Unreadable(f"{where} has a last_used_at that is not a time")
    return moment


def _addresses(value: object, where: str) -> tuple[str, ...]:
    """An address, or `client,proxy`: for people to read, so not checked for being addresses."""
    if value is None:
        return ()
    if not isinstance(value, str):
        raise Unreadable(f"{where} has a last_used_from_addr that is not text")
    return tuple(address for part in _text(value).split(",") if (address := part.strip()))


def _object(value: object, where: str) -> dict[object, object]:
    if not isinstance(value, dict):
        raise Unreadable(f"{where} is not an object")
    return value


def _text(value: str) -> str:
    """Without half surrogate pairs, which JSON can spell and nothing can write."""
    return value.encode("utf-8", "replace").decode("utf-8")
