"""What may stand in the configuration: its keys, their types, their defaults, in one place.

These models check one mapping each, make the JSON Schema for editors, and know how their part becomes
what the rest of the program works with. What speaks of two places at once is in
`contradictions.py`. The first example of a required key has two more uses: a message about the
missing key shows it, and it stands in for a faulty one, so that the rest of the mapping is still checked.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import time, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema, WrapValidator

from rotator import cadence, model
from rotator.fields import Duration, SecretRef, Settings, base_of, parse_duration
from rotator.model import OnMissing, Policy, Scope, SinkRef, Then

NAME_PATTERN = "^[a-z0-9-]{1,40}$"
NAME_EXPECTED = "expected a name of 1 to 40 of a-z, 0-9 and -"
LISTEN_EXPECTED = "expected HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464"
STATE_EXPECTED = "expected sqlite:///FILE, with four slashes if FILE is absolute"
SCOPE_EXPECTED = "expected personal, {organization: org-…} or {organization: org-…, project: …}"
ROTATE_EXPECTED = 'expected {every: 30d} or {cron: "0 3 * * 1", timezone: Europe/Berlin}'
TIME_EXPECTED = 'expected a time of day in quotes, such as "09:00"'
URL_EXPECTED = "expected an https URL such as https://console.neon.tech/api/v2"


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("no time at all; expected a duration longer than 0s")
    return value


def _api_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(URL_EXPECTED) from None
    if not re.fullmatch(r"[\x21-\x7e]+", value) or parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError(URL_EXPECTED)
    if "@" in parts.netloc or "?" in value or "#" in value:
        raise ValueError("expected a URL without a user, a query or a fragment")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError(
            "http to another machine shows the key to the network; expected https (http only for loopback)"
        )
    return value.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _state(value: str, info: ValidationInfo) -> str:
    """The URL, made absolute. No message repeats it: people put passwords there."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError(STATE_EXPECTED) from None
    if not value.isprintable() or any(character.isspace() for character in parts.netloc):
        raise ValueError(STATE_EXPECTED)
    if parts.scheme == "sqlite" and value.startswith("sqlite:///"):
        file = value.removeprefix("sqlite:///")
        if ":memory:" in file:
            raise ValueError(f"a state in memory is forgotten with the process; {STATE_EXPECTED}")
        if not file or file.endswith("/") or "?" in file or file.startswith("file:"):
            raise ValueError(STATE_EXPECTED)
        return f"sqlite:///{base_of(info).absolute() / file}"
    if parts.scheme.startswith("postgres"):
        raise ValueError(f"this version keeps its state in SQLite only; {STATE_EXPECTED}")
    raise ValueError(STATE_EXPECTED)


def sqlite_file(state: str) -> str:
    """The file of a state."""
    return state.removeprefix("sqlite:///")


def _listen(value: object) -> tuple[str, int] | None:
    if value is None:
        return None
    found = (
        re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", value)
        if isinstance(value, str)
        else None
    )
    if not found or int(found[3]) > 65535:
        raise ValueError(LISTEN_EXPECTED)
    if found[1]:
        try:
            ipaddress.IPv6Address(found[1])
        except ValueError:
            raise ValueError(LISTEN_EXPECTED) from None
    return found[1] or found[2], int(found[3])


def _time(value: object) -> time:
    found = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})", value) if isinstance(value, str) else None
    if not found or int(found[1]) > 23 or int(found[2]) > 59:
        raise ValueError(TIME_EXPECTED)
    return time(int(found[1]), int(found[2]))


def _auto(value: object) -> timedelta | None:
    if value == "auto":
        return None
    if isinstance(value, str):
        return parse_duration(value)
    raise ValueError("expected auto or a duration such as 24h")


def _zone(name: str) -> str:
    cadence.find_zone(name)
    return name


def _cron(value: str) -> str:
    expression = " ".join(value.split())
    if wrong := cadence.check_cron(expression):
        raise ValueError(wrong)
    return expression


def _name(value: str) -> str:
    if not re.fullmatch(NAME_PATTERN, value):
        raise ValueError(NAME_EXPECTED)
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Zone = Annotated[str, AfterValidator(_zone), Field(examples=["UTC", "Europe/Berlin"])]
Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]
Names = Annotated[tuple[Name, ...], Field(strict=False)]
KeyId = Annotated[int, Field(ge=1, le=2**63 - 1)]
TimeOfDay = Annotated[
    time, BeforeValidator(_time), WithJsonSchema({"type": "string", "pattern": "^([01]?[0-9]|2[0-3]):[0-5][0-9]$"})
]
Days = Annotated[
    frozenset[int],
    BeforeValidator(lambda value: cadence.parse_days(value if isinstance(value, str) else "")),
    WithJsonSchema({"type": "string", "examples": ["mon", "tue-fri", "mon,wed"]}),
]


class NeonSettings(Settings):
    """How to reach Neon."""

    api_key: SecretRef = Field(
        description="Where the management key is, the key that rotator authenticates with.",
        examples=[{"file": "/run/secrets/neon-admin-key"}],
    )
    api_key_id: KeyId | None = Field(
        default=None,
        description="The id of the management key, so that it is never taken for another.",
        examples=[2291500],
    )
    api_url: Annotated[str, AfterValidator(_api_url)] = Field(
        default="https://console.neon.tech/api/v2", description="Where Neon's API is; http is only for a loopback host."
    )
    requests_per_minute: int = Field(
        default=600, ge=1, le=700, description="How many requests a minute at most; Neon allows 700."
    )
    poll_every: PositiveDuration = Field(
        default=timedelta(minutes=5), description="How often the list of keys is read for their usage."
    )


class EverySettings(Settings):
    """A rotation this long after the live key was created."""

    every: PositiveDuration = Field(description="How long after its creation a key is replaced.", examples=["30d"])

    def schedule(self) -> model.Every:
        return model.Every(self.every)


class CronSettings(Settings):
    """A rotation at the first time after the live key was created that a cron expression names."""

    cron: Annotated[str, AfterValidator(_cron)] = Field(
        description="Five fields as in cron(8), in quotes; at these times a key is replaced.", examples=["0 3 * * 1"]
    )
    timezone: Zone = Field(default="UTC", description="The time zone in which the cron expression is read.")

    def schedule(self) -> model.Cron:
        return model.Cron(self.cron, self.timezone)


def _rotate(value: object, _: object, info: ValidationInfo) -> EverySettings | CronSettings:
    if not isinstance(value, dict) or not value:
        raise ValueError(ROTATE_EXPECTED)
    if "every" in value and {"cron", "timezone"} & set(value):
        raise ValueError(f"`every` has no times of day; {ROTATE_EXPECTED}, not both")
    if {"cron", "timezone"} & set(value):
        return CronSettings.model_validate(value, context=info.context)
    return EverySettings.model_validate(value, context=info.context)


class WindowSettings(Settings):
    """When keys may be created, first offered and revoked."""

    days: Days = Field(
        default_factory=lambda: frozenset(range(7)),
        description="On which weekdays the window opens; every day if left out.",
    )
    start: TimeOfDay = Field(alias="from", description="When the window opens.", examples=["09:00"])
    end: TimeOfDay = Field(
        alias="to", description="When the window closes, on the next day if before `from`.", examples=["16:00"]
    )
    timezone: Zone = Field(default="UTC", description="The time zone of `from` and `to`.")

    def window(self) -> model.Window:
        return model.Window(self.days, self.start, self.end, self.timezone)


class ScopeSettings(Settings):
    """Keys of an organization, or of one project of it."""

    organization: str = Field(
        description="The id of the organization whose keys these are.", min_length=1, examples=["org-calm-sun-12345678"]
    )
    project: str | None = Field(
        default=None,
        description="The id of the only project that the keys open.",
        min_length=1,
        examples=["still-river-87654321"],
    )


def _scope(value: object, _: object, info: ValidationInfo) -> Literal["personal"] | ScopeSettings:
    if value == model.PERSONAL:
        return "personal"
    if not isinstance(value, dict) or not value:
        raise ValueError(SCOPE_EXPECTED)
    if set(value) == {"project"}:
        raise ValueError(f"a project without its organization; {SCOPE_EXPECTED}")
    return ScopeSettings.model_validate(value, context=info.context)


class HoldSettings(Settings):
    """When an old key is kept past its grace period."""

    while_old_key_used_within: Annotated[
        timedelta | None,
        BeforeValidator(_auto),
        WithJsonSchema({"type": "string", "pattern": "^(auto|([0-9]+[smhdw])+)$", "examples": ["auto", "24h", "0s"]}),
    ] = Field(
        default=None,
        description="Keep the old key while its last use is not this long ago; 0s for never.",
        json_schema_extra={"default": "auto"},
    )
    until_new_key_used: bool = Field(default=False, description="Keep the old key until somebody has used the new one.")
    at_most: Duration = Field(
        default=timedelta(days=7), description="How long after its grace period at most a key is held."
    )
    then: Literal["keep", "revoke"] = Field(
        default="keep",
        description="What happens to a key that is held for the longest: keep it and alert, or revoke it.",
    )

    def hold(self) -> model.Hold:
        return model.Hold(self.while_old_key_used_within, self.until_new_key_used, self.at_most, Then(self.then))


class PolicySettings(Settings):
    """What to rotate, how often, and where to hand it."""

    scope: Annotated[Literal["personal"] | ScopeSettings, WrapValidator(_scope)] = Field(
        default="personal", description="Whose keys these are: personal, an organization's, or one project's."
    )
    adopt: KeyId | None = Field(default=None, description="The id of an existing key to take over.", examples=[2291506])
    rotate: Annotated[EverySettings | CronSettings, WrapValidator(_rotate)] = Field(
        description="When to rotate: every so long, or at the times of a cron expression.", examples=[{"every": "30d"}]
    )
    jitter: Duration = Field(
        default=timedelta(0), description="Up to how much later a rotation comes, always the same for one policy."
    )
    window: WindowSettings | None = Field(
        default=None, description="When keys may be created, first offered and revoked."
    )
    grace_period: Duration = Field(
        default=timedelta(hours=24), description="How long an old key stays valid after its successor went live."
    )
    deliver_to: Names = Field(description="The sinks that receive the key, in this order.", examples=[["app"]])
    hold: HoldSettings = Field(
        default_factory=HoldSettings, description="When an old key is kept past its grace period."
    )
    on_missing: Literal["alert", "replace"] = Field(
        default="alert", description="What to do when the live key is gone from Neon: alert, or replace it."
    )
    management_key: bool = Field(default=False, description="Whether this policy rotates the management key itself.")
    paused: bool = Field(default=False, description="Whether nothing is created and nothing revoked for now.")
    renamed_from: Name | None = Field(default=None, description="The policy's former name, whose record it takes over.")

    def key_scope(self) -> Scope:
        """The scope as the rest of the program knows it."""
        return Scope() if isinstance(self.scope, str) else Scope(self.scope.organization, self.scope.project)

    def policy(self, name: str, sinks: Mapping[str, SinkRef]) -> Policy:
        """The policy as the rest of the program knows it."""
        return Policy(
            name=name,
            rotate=self.rotate.schedule(),
            deliver_to=tuple(sinks[sink] for sink in self.deliver_to),
            scope=self.key_scope(),
            adopt=self.adopt,
            jitter=self.jitter,
            window=self.window.window() if self.window else None,
            grace_period=self.grace_period,
            hold=self.hold.hold(),
            on_missing=OnMissing(self.on_missing),
            management_key=self.management_key,
            paused=self.paused,
            renamed_from=self.renamed_from,
        )


class UnusedKeys(Settings):
    """Which keys are reported as unused."""

    after: PositiveDuration = Field(
        default=timedelta(days=90), description="How long after its last use a key counts as unused."
    )
    ignore: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = Field(
        default=(),
        description="Names of keys, with * for anything, that are never reported.",
        examples=[["terraform-*"]],
    )


class Document(Settings):
    """The whole configuration of rotator."""

    neon: dict[str, Any] = Field(description="How to reach Neon.", examples=[{"api_key": {"file": "/run/secrets/key"}}])
    state: Annotated[str, AfterValidator(_state)] = Field(
        default="sqlite:///rotator.db",
        validate_default=True,
        json_schema_extra={"pattern": "^sqlite:///"},
        description="Where rotator keeps its state: a file of SQLite, beside this file if relative.",
    )
    listen: Annotated[
        tuple[str, int] | None,
        BeforeValidator(_listen),
        WithJsonSchema({"type": ["string", "null"], "pattern": "^.+:[0-9]{1,5}$"}),
    ] = Field(default=None, description="HOST:PORT of health, metrics and status page; off if left out.")
    sinks: dict[str, Any] = Field(
        description="The places that receive keys, by name.",
        examples=[{"app": {"type": "file", "path": "/etc/myapp/neon.key"}}],
    )
    policies: dict[str, Any] = Field(
        description="What to rotate, how often, and where to hand it, by name.",
        examples=[{"app": {"rotate": {"every": "30d"}, "deliver_to": ["app"]}}],
    )
    unused_keys: UnusedKeys = Field(default_factory=UnusedKeys, description="Which keys are reported as unused.")
    notify: Names = Field(
        default=(), description="The webhook sinks that get events, without secrets.", examples=[["ops"]]
    )
