"""Faults on request: how Neon, the network, or a proxy between them misbehaves.

A fault is a value, written as JSON (`{"fault": "lost_answer", "on": "create", "times": 2}`) or as text
(`lost_answer:on=create,times=2`). It waits until a request that it is meant for comes by: `on` names the
kind of call, `skip` lets that many of them pass first, `times` says how many it strikes before it is used
up (null: until cleared). There are four kinds:

- *delays* hold a request up before anything happens;
- *before* the effect: the request fails and nothing was done, not even a use of the key counted;
- *after* the effect: it was done, and the caller does not learn so;
- *views* bend what a list shows; what is in the account stays as it is.

Of the second and third kind together, a request takes one, the oldest that matches: a list of faults is
thereby a script, played one after the other. Delays and views are taken besides, all that match.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from enum import Enum

LONGEST_SECONDS = 100 * 365 * 86_400
CALLS = ("create", "revoke", "list", "auth", "any")


class FaultError(ValueError):
    """A fault that is not one; the text says what is wrong and what exists."""


class Kind(Enum):
    DELAY = "delay"
    BEFORE = "before"
    AFTER = "after"
    VIEW = "view"


@dataclass(frozen=True)
class Form:
    """What a fault of some name is, and which fields it has besides the common ones."""

    kind: Kind
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    status: int | None = None


FORMS: Mapping[str, Form] = {
    "lost_answer": Form(Kind.AFTER),
    "lost_request": Form(Kind.BEFORE),
    "error_before": Form(Kind.BEFORE, takes=("status",), status=500),
    "error_after": Form(Kind.AFTER, takes=("status",), status=500),
    "locked": Form(Kind.BEFORE, status=423),
    "rate_limited": Form(Kind.BEFORE, takes=("retry_after",), status=429),
    "unavailable": Form(Kind.BEFORE, takes=("retry_after",), status=503),
    "slow": Form(Kind.DELAY, needs=("seconds",)),
    "malformed": Form(Kind.AFTER, status=200),
    "wrong_type": Form(Kind.AFTER, status=200),
    "stale_list": Form(Kind.VIEW, needs=("seconds",)),
    "partial_list": Form(Kind.VIEW, takes=("omit", "keep")),
    "empty_list": Form(Kind.VIEW),
    "usage_lag": Form(Kind.VIEW, needs=("seconds",)),
    "usage_frozen": Form(Kind.VIEW),
    "refused": Form(Kind.BEFORE, status=401),
}
COMMON_FIELDS = ("fault", "on", "times", "skip")


@dataclass(frozen=True)
class Fault:
    """One fault; see `FORMS` for which fields belong to which name. Made by `parse` and `parse_text`."""

    fault: str
    on: str
    times: int | None = 1
    skip: int = 0
    status: int | None = None
    retry_after: float | str | None = None
    seconds: float | None = None
    omit: tuple[int, ...] | None = None
    keep: float | None = None

    @property
    def kind(self) -> Kind:
        return FORMS[self.fault].kind

    def as_json(self) -> dict[str, object]:
        """The form that `parse` reads: the common fields, and those of its own that have a value."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        own = FORMS[self.fault].needs + FORMS[self.fault].takes
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name in COMMON_FIELDS or (name in own and value is not None)
        }


@dataclass(frozen=True)
class View:
    """How a list is bent: times are moments to look back to, None is the present."""

    as_of: datetime | None = None
    usage_as_of: datetime | None = None
    omit: frozenset[int] = frozenset()
    keep: float = 1.0


@dataclass(frozen=True)
class Strike:
    """The faults that one request meets."""

    delay: float = 0.0
    outcome: Fault | None = None
    views: tuple[tuple[Fault, datetime], ...] = ()

    def before(self) -> Fault | None:
        return self.outcome if self.outcome and self.outcome.kind is Kind.BEFORE else None

    def after(self) -> Fault | None:
        return self.outcome if self.outcome and self.outcome.kind is Kind.AFTER else None

    def view(self, now: datetime) -> View:
        """All views together: the oldest moment, every omission, the smallest share."""
        view = View()
        for fault, armed in self.views:
            back = now - timedelta(seconds=fault.seconds or 0)
            if fault.fault == "stale_list":
                view = replace(view, as_of=_older(view.as_of, back))
            if fault.fault in ("stale_list", "usage_lag"):
                view = replace(view, usage_as_of=_older(view.usage_as_of, back))
            elif fault.fault == "usage_frozen":
                view = replace(view, usage_as_of=_older(view.usage_as_of, armed))
            elif fault.fault == "empty_list":
                view = replace(view, keep=0.0)
            else:
                share = 1.0 if fault.keep is None else fault.keep
                view = replace(view, omit=view.omit | set(fault.omit or ()), keep=min(view.keep, share))
        return view


class Faults:
    """The faults that wait, oldest first. Not safe to call from two threads at once: `Sandbox` locks."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Fault, datetime]] = []

    def arm(self, fault: Fault, now: datetime) -> None:
        self._waiting.append((fault, now))

    def clear(self) -> int:
        """Disarm all; how many there were."""
        count = len(self._waiting)
        self._waiting.clear()
        return count

    def waiting(self) -> list[Fault]:
        """What is still armed, with what remains of `times` and `skip`."""
        return [fault for fault, _ in self._waiting]

    def strike(self, call: str) -> Strike:
        """The faults that a request of this kind meets, used up by it as far as they are."""
        delay = 0.0
        outcome: Fault | None = None
        views: list[tuple[Fault, datetime]] = []
        left: list[tuple[Fault, datetime]] = []
        for fault, armed in self._waiting:
            decides = fault.kind in (Kind.BEFORE, Kind.AFTER)
            if fault.on not in (call, "any"):
                left.append((fault, armed))
            elif fault.skip:
                left.append((replace(fault, skip=fault.skip - 1), armed))
            elif decides and outcome is not None:
                left.append((fault, armed))
            else:
                if decides:
                    outcome = fault
                elif fault.kind is Kind.DELAY:
                    delay += fault.seconds or 0
                else:
                    views.append((fault, armed))
                left.extend(_remainder(fault, armed))
        self._waiting = left
        return Strike(delay, outcome, tuple(views))


def parse(spec: object) -> Fault:
    """A fault from its JSON form. Raises `FaultError`."""
    if not isinstance(spec, Mapping):
        raise FaultError('a fault is an object such as {"fault": "lost_answer", "on": "create"}')
    name = spec.get("fault")
    if not isinstance(name, str) or name not in FORMS:
        raise FaultError(f"{_shown(name)} is not a fault; there are: {', '.join(FORMS)}")
    form = FORMS[name]
    allowed = COMMON_FIELDS + form.needs + form.takes
    for unknown in sorted(str(key) for key in spec if key not in allowed):
        raise FaultError(f"{name} has no field {_shown(unknown)}; it has: {', '.join(allowed)}")
    for needed in form.needs:
        if needed not in spec:
            raise FaultError(f"{name} needs {needed}: {CHECKS[needed][1]}")
    values = {key: _checked(name, key, value) for key, value in spec.items() if key != "fault"}
    if name == "partial_list" and ("omit" in values) == ("keep" in values):
        raise FaultError("partial_list needs either omit (a list of key ids) or keep (a share from 0 to 1)")
    if form.kind is Kind.VIEW and values.setdefault("on", "list") != "list":
        raise FaultError(f"{name} bends what a list shows; its `on` can only be list")
    values.setdefault("on", "any")
    if form.status is not None:
        values.setdefault("status", form.status)
    return Fault(fault=name, **values)  # type: ignore[arg-type]  # each value went through its check


def parse_text(text: str) -> Fault:
    """A fault from its text form, `NAME` or `NAME:FIELD=VALUE,…`; ids in `omit` are joined by `+`.

    Raises `FaultError`.
    """
    name, _, rest = text.partition(":")
    spec: dict[str, object] = {"fault": name.strip()}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        field, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not field or field in spec:
            raise FaultError(
                f"{_shown(part)} in {_shown(text)} is not understood; expected NAME:FIELD=VALUE,…, each once"
            )
        spec[field] = [_plain(item) for item in value.split("+")] if field == "omit" else _plain(value)
    return parse(spec)


def _plain(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _shown(value: object) -> str:
    """A value as far as it helps to recognize it; a secret put in the wrong place is not repeated whole."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:20] + "…"


def _checked(name: str, field: str, value: object) -> object:
    check, expected = CHECKS[field]
    try:
        return check(value)
    except (TypeError, ValueError, OverflowError):
        raise FaultError(f"{field} of {name} is {_shown(value)}; expected {expected}") from None


def _call(value: object) -> str:
    if value not in CALLS:
        raise ValueError
    return str(value)


def _number(value: object, least: float, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if not least <= value <= most or math.isinf(value):
        raise ValueError
    return value


def _whole(value: object, least: int, most: float = math.inf) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError
    return value


def _retry_after(value: object) -> float | str:
    if not isinstance(value, str):
        return _number(value, 0)
    if not value or not value.isascii() or not value.isprintable():
        raise ValueError
    return value


def _ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError
    return tuple(_whole(item, 0) for item in value)


CHECKS: Mapping[str, tuple[Callable[[object], object], str]] = {
    "on": (_call, f"one of {', '.join(CALLS)}"),
    "times": (lambda value: None if value is None else _whole(value, 1), "a whole number from 1 on, or null"),
    "skip": (lambda value: _whole(value, 0), "a whole number from 0 on"),
    "status": (lambda value: _whole(value, 400, 599), "an HTTP status from 400 to 599"),
    "retry_after": (_retry_after, "seconds, or the text of an HTTP date"),
    "seconds": (lambda value: _number(value, 0, LONGEST_SECONDS), "a number of seconds from 0 on"),
    "omit": (_ids, "a list of key ids"),
    "keep": (lambda value: _number(value, 0, 1), "a share from 0 to 1"),
}


def _older(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else min(one, other)


def _remainder(fault: Fault, armed: datetime) -> list[tuple[Fault, datetime]]:
    """What is left of a fault that has just struck."""
    if fault.times is None:
        return [(fault, armed)]
    return [(replace(fault, times=fault.times - 1), armed)] if fault.times > 1 else []
