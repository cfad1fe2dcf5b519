"""Accounts, organizations, projects and their keys: what Neon remembers, without HTTP and without a clock.

One person owns a personal account and administers every organization here, so the initial keys can do
everything. A key belongs to exactly one account (the person's own or an organization's); a key of an
organization may be confined to one project of it. Who may do what:

    caller                  own keys               an organization's keys     making an organization's keys
    personal                yes                    yes                        yes
    organization            404, not allowed       its own: list and revoke   404, not allowed
    scoped to a project     404, not allowed       404, outside the project   404, outside the project

Nothing is ever deleted. A key keeps the moments of its creation and revocation and the trail of its uses,
so that the list of an earlier moment, or usage as it stood earlier, can be told at any time: that is how
the faults about stale lists and lagging usage work. Moments are exact inside; what leaves this module
through a `KeyView` has whole seconds, as Neon's answers do.

All methods take the time from the caller. None is safe to call from two threads at once: `Sandbox` locks.
"""

from __future__ import annotations

import random
import secrets
import string
import uuid
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

FIRST_ID = 2_291_500
LARGEST_STEP_BETWEEN_IDS = 9
LONGEST_NAME = 64
LONGEST_TRAIL = 10_000  # distinct uses that a key remembers; only lagging usage ever looks back

NO_SUCH_KEY = "API key not found"
NOT_AUTHENTICATED = "supplied credentials do not pass authentication"
NOT_FOR_ORGANIZATION_KEYS = "not allowed for organization API keys"
OUTSIDE_PROJECT = "not allowed to perform actions outside the project this key is scoped to"
NAME_TAKEN = "choose another unique name for api key"


class Refused(Exception):
    """The API says no: `status` is the HTTP status, `message` what Neon says. Never holds a secret."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Use(NamedTuple):
    """One authenticated call: when, and from which address (or `client,proxy`)."""

    at: datetime
    address: str


@dataclass(frozen=True)
class User:
    """The person who administers the organizations and creates all keys."""

    id: str
    name: str = "Sam Sandbox"
    email: str = "sam@example.com"
    image: str = "https://example.com/sam.png"


@dataclass(frozen=True)
class KeyView:
    """What may be known of a key without its secret. Times are aware UTC in whole seconds."""

    id: int
    name: str
    scope: str  # personal | organization | project
    organization: str | None
    project: str | None
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    last_used_from_addr: str
    uses: int
    revoked_at: datetime | None

    def as_json(self) -> dict[str, object]:
        """The same with times as RFC 3339 text."""
        return {
            **vars(self),
            "created_at": rfc3339(self.created_at),
            "last_used_at": rfc3339(self.last_used_at) if self.last_used_at else None,
            "revoked_at": rfc3339(self.revoked_at) if self.revoked_at else None,
        }


@dataclass
class Key:
    """A key as Neon holds it."""

    id: int
    name: str
    secret: str = field(repr=False)
    organization: str | None
    project: str | None
    created: datetime
    created_by: str
    revoked: datetime | None = None
    uses: int = 0
    trail: deque[Use] = field(default_factory=lambda: deque(maxlen=LONGEST_TRAIL), repr=False)

    @property
    def scope(self) -> str:
        if self.organization is None:
            return "personal"
        return "organization" if self.project is None else "project"

    def used(self, at: datetime, address: str) -> None:
        """Count a use. A use in the same second from the same address leaves no new mark on the trail."""
        self.uses += 1
        last = self.trail[-1] if self.trail else None
        if last is None or (whole_second(last.at), last.address) != (whole_second(at), address):
            self.trail.append(Use(at, address))

    def last_use(self, as_of: datetime | None = None) -> Use | None:
        """The latest use, or the latest up to `as_of`."""
        for use in reversed(self.trail):
            if as_of is None or use.at <= as_of:
                return use
        return None

    def alive(self, as_of: datetime | None = None) -> bool:
        """Whether the key works now, or existed and worked at `as_of`."""
        if as_of is None:
            return self.revoked is None
        return self.created <= as_of and (self.revoked is None or as_of < self.revoked)

    def view(self, usage_as_of: datetime | None = None) -> KeyView:
        use = self.last_use(usage_as_of)
        return KeyView(
            id=self.id,
            name=self.name,
            scope=self.scope,
            organization=self.organization,
            project=self.project,
            created_at=whole_second(self.created),
            created_by=self.created_by,
            last_used_at=whole_second(use.at) if use else None,
            last_used_from_addr=use.address if use else "",
            uses=self.uses,
            revoked_at=whole_second(self.revoked) if self.revoked else None,
        )


class Accounts:
    """Everything that the sandbox's Neon knows. `organizations` maps an organization's id to its projects."""

    def __init__(self, organizations: Mapping[str, Collection[str]], opened: datetime) -> None:
        self.user = User(id=str(uuid.uuid4()))
        self.opened = opened
        self.organizations = {name: tuple(projects) for name, projects in organizations.items()}
        self._keys: dict[int, Key] = {}
        self._by_secret: dict[str, Key] = {}
        self._last_id = FIRST_ID

    def create(
        self,
        name: str,
        now: datetime,
        *,
        organization: str | None = None,
        project: str | None = None,
        secret: str | None = None,
    ) -> Key:
        """Make a key; its secret is drawn unless given.

        Raises `Refused`: 400 for a bad name, 404 for an unknown organization or project, 409 for a name that
        a living key of the same account has. `ValueError` if a given secret is taken.
        """
        check_name(name)
        self._check_owner(organization, project)
        if any(key.name == name for key in self.alive(organization)):
            raise Refused(409, NAME_TAKEN)
        secret = new_secret() if secret is None else secret
        if secret in self._by_secret:
            raise ValueError("the same secret was given for two keys; every key needs its own")
        self._last_id += random.randint(1, LARGEST_STEP_BETWEEN_IDS)
        key = Key(self._last_id, name, secret, organization, project, now, self.user.id)
        self._keys[key.id] = self._by_secret[secret] = key
        return key

    def revoke(self, key_id: int, now: datetime, *, organization: str | None) -> Key:
        """End a living key of the account given. Raises `Refused` (404) when it has no such key."""
        key = self._keys.get(key_id)
        if key is None or not key.alive() or key.organization != organization:
            raise Refused(404, NO_SUCH_KEY)
        key.revoked = now
        return key

    def alive(self, organization: str | None, as_of: datetime | None = None) -> Iterator[Key]:
        """The living keys of one account, newest first; with `as_of`, those that lived then."""
        for key in self.every_key():
            if key.organization == organization and key.alive(as_of):
                yield key

    def authenticate(self, secret: str | None, address: str, now: datetime) -> Key:
        """The living key with this secret, and a use of it. Raises `Refused` (401)."""
        key = self.key_with(secret)
        if key is None:
            raise Refused(401, NOT_AUTHENTICATED)
        key.used(now, address)
        return key

    def key_with(self, secret: str | None) -> Key | None:
        """The living key with this secret; not a use."""
        key = self._by_secret.get(secret or "")
        return key if key is not None and key.alive() else None

    def every_key(self) -> Iterator[Key]:
        """All keys that ever were, newest first."""
        return reversed(self._keys.values())

    def key(self, key_id: int) -> Key:
        """A key, dead or alive. Raises `KeyError`."""
        return self._keys[key_id]

    def organization_of(self, project: str) -> str | None:
        """The organization that a project belongs to."""
        return next((name for name, projects in self.organizations.items() if project in projects), None)

    def permit_personal(self, caller: Key) -> None:
        """Whether `caller` may act on the person's own account. Raises `Refused`."""
        if caller.organization is not None:
            raise Refused(404, NOT_FOR_ORGANIZATION_KEYS)

    def permit_organization(self, caller: Key, organization: str, *, to_create: bool = False) -> None:
        """Whether `caller` may act on an organization's keys. Raises `Refused`."""
        self.permit_project(caller, None)
        if organization not in self.organizations or caller.organization not in (None, organization):
            raise Refused(404, "organization not found")
        if to_create:
            self.permit_personal(caller)

    def permit_project(self, caller: Key, project: str | None) -> None:
        """A key scoped to a project gets no further than it. Raises `Refused`."""
        if caller.project is not None and caller.project != project:
            raise Refused(404, f'{OUTSIDE_PROJECT}; subject_project_id:"{caller.project}"')

    def _check_owner(self, organization: str | None, project: str | None) -> None:
        if organization is not None and organization not in self.organizations:
            raise Refused(404, "organization not found")
        if project is not None and project not in self.organizations.get(organization or "", ()):
            raise Refused(404, "project not found")


def check_name(name: object) -> None:
    """Refuse (400) what cannot be a key's name: anything but a text of 1 to 64 characters."""
    if not isinstance(name, str) or not name:
        raise Refused(400, "key_name is required and must be a non-empty string")
    if len(name) > LONGEST_NAME:
        raise Refused(400, f"key_name must be at most {LONGEST_NAME} characters long")


def new_secret() -> str:
    """A secret in Neon's present form: `napi_` and 64 of [a-z0-9]."""
    return "napi_" + "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(64))


def whole_second(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def rfc3339(moment: datetime) -> str:
    """`2026-11-23T04:05:50Z`"""
    return whole_second(moment).strftime("%Y-%m-%dT%H:%M:%SZ")
