"""Faults: how they are written, whom they strike, and what a client sees of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from rotator.sandbox import FaultError, Sandbox
from rotator.sandbox.faults import FORMS, Faults, View, parse, parse_text

from .client import Api, Clock

T0 = datetime(2026, 11, 23, 4, 5, tzinfo=UTC)
NEEDS: dict[str, dict[str, object]] = {
    "slow": {"seconds": 0},
    "stale_list": {"seconds": 5},
    "usage_lag": {"seconds": 5},
    "partial_list": {"keep": 0.5},
}


# How they are written


@pytest.mark.parametrize("name", FORMS)
def test_every_fault_can_be_read_again_as_it_is_shown(name: str) -> None:
    shown = parse({"fault": name, **NEEDS.get(name, {})}).as_json()
    assert parse(shown).as_json() == shown


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("empty_list", {"fault": "empty_list"}),
        ("lost_answer:on=create,times=2", {"fault": "lost_answer", "on": "create", "times": 2}),
        ("locked:times=null, skip=3", {"fault": "locked", "times": None, "skip": 3}),
        ("error_after:status=502,on=revoke", {"fault": "error_after", "status": 502, "on": "revoke"}),
        ("slow:seconds=0.5", {"fault": "slow", "seconds": 0.5}),
        ("rate_limited:retry_after=30", {"fault": "rate_limited", "retry_after": 30}),
        ("partial_list:omit=7+8", {"fault": "partial_list", "omit": [7, 8]}),
        ("partial_list:keep=0.9", {"fault": "partial_list", "keep": 0.9}),
    ],
)
def test_text_and_json_say_the_same(text: str, spec: dict[str, object]) -> None:
    assert parse_text(text) == parse(spec)


def test_a_fault_strikes_once_and_anywhere_unless_told_otherwise() -> None:
    assert parse({"fault": "locked"}).as_json() == {"fault": "locked", "on": "any", "times": 1, "skip": 0}
    assert parse({"fault": "empty_list"}).on == "list"


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"fault": "earthquake"}, r'"earthquake" is not a fault; there are: lost_answer, .*, refused'),
        ({}, "null is not a fault; there are: lost_answer"),
        ("locked", "a fault is an object such as"),
        ({"fault": "locked", "color": 1}, 'locked has no field "color"; it has: fault, on, times, skip'),
        ({"fault": "locked", "status": 500}, 'locked has no field "status"'),
        ({"fault": "slow"}, "slow needs seconds: a number of seconds from 0 on"),
        ({"fault": "slow", "seconds": -1}, "seconds of slow is -1; expected a number of seconds from 0 on"),
        ({"fault": "slow", "seconds": float("nan")}, "seconds of slow is NaN"),
        ({"fault": "slow", "seconds": 1e300}, "seconds of slow is"),
        ({"fault": "slow", "seconds": "5"}, 'seconds of slow is "5"'),
        (
            {"fault": "locked", "on": "delete"},
            'on of locked is "delete"; expected one of create',
        ),
        ({"fault": "locked", "on": ["create"]}, "on of locked is"),
        ({"fault": "locked", "times": 0}, "times of locked is 0; expected a whole number from 1 on, or null"),
        ({"fault": "locked", "times": True}, "times of locked is true"),
        ({"fault": "locked", "skip": 1.5}, "skip of locked is 1.5"),
        (
            {"fault": "error_before", "status": 200},
            "status of error_before is 200; expected an HTTP status",
        ),
        ({"fault": "unavailable", "retry_after": "a\r\nb"}, "retry_after of unavailable is"),
        ({"fault": "partial_list"}, "partial_list needs either omit .* or keep"),
        ({"fault": "partial_list", "omit": [], "keep": 1}, "partial_list needs either omit .* or keep"),
        ({"fault": "partial_list", "omit": "7"}, "omit of partial_list is"),
        ({"fault": "partial_list", "keep": 1.5}, "keep of partial_list is 1.5; expected a share from 0 to 1"),
        ({"fault": "usage_frozen", "on": "create"}, "usage_frozen bends what a list shows"),
    ],
)
def test_what_is_no_fault_is_refused_with_a_sentence(spec: object, complaint: str) -> None:
    with pytest.raises(FaultError, match=complaint):
        parse(spec)


@pytest.mark.parametrize("text", ["locked:on", "locked:=3", "locked:on=list,on=auth", "", "locked:times=many"])
def test_text_that_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(FaultError):
        parse_text(text)


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    secret = "napi_" + "x7" * 32
    with pytest.raises(FaultError) as error:
        parse({"fault": secret})
    assert secret not in str(error.value)


# Whom they strike


def outcomes(faults: Faults, *calls: str) -> list[str | None]:
    strikes = [faults.strike(call).outcome for call in calls]
    return [strike.fault if strike else None for strike in strikes]


def armed(*texts: str) -> Faults:
    faults = Faults()
    for text in texts:
        faults.arm(parse_text(text), T0)
    return faults


@pytest.mark.parametrize(
    ("texts", "calls", "expected"),
    [
        (["locked"], ["list", "list"], ["locked", None]),
        (["locked:times=2"], ["list", "auth", "list"], ["locked", "locked", None]),
        (["locked:times=null"], ["list"] * 5, ["locked"] * 5),
        (["locked:on=create"], ["list", "create", "create"], [None, "locked", None]),
        (["locked:skip=2"], ["list"] * 4, [None, None, "locked", None]),
        (["locked:on=create,skip=1"], ["create", "list", "create"], [None, None, "locked"]),
        (["locked", "refused"], ["list"] * 3, ["locked", "refused", None]),
        (["locked", "refused:skip=2"], ["list"] * 3, ["locked", None, "refused"]),
        (["locked"], ["other"], ["locked"]),
        (["locked:on=auth"], ["other"], [None]),
    ],
    ids=[
        "once",
        "twice",
        "always",
        "one kind",
        "later",
        "later of one kind",
        "a script",
        "a gap",
        "any",
        "not others",
    ],
)
def test_faults_strike_whom_they_are_meant_for(texts: list[str], calls: list[str], expected: list[str | None]) -> None:
    assert outcomes(armed(*texts), *calls) == expected


def test_delays_and_views_come_besides_what_decides_the_outcome() -> None:
    faults = armed("slow:seconds=1", "lost_answer", "locked", "slow:seconds=2", "usage_frozen", "partial_list:omit=7")
    strike = faults.strike("list")
    assert strike.delay == 3
    assert (strike.before(), strike.after()) == (None, parse({"fault": "lost_answer"}))
    view = strike.view(T0)
    assert view == View(usage_as_of=T0, omit=frozenset({7}))
    assert [fault.fault for fault in faults.waiting()] == ["locked"]


def test_what_waits_is_shown_with_what_remains_of_it() -> None:
    faults = armed("locked:times=3,skip=1", "refused:on=auth")
    faults.strike("list")
    faults.strike("list")
    assert [(fault.times, fault.skip) for fault in faults.waiting()] == [(2, 0), (1, 0)]
    assert faults.clear() == 2
    assert faults.waiting() == []


# What a client sees


def lost(act: Callable[[], requests.Response]) -> None:
    with pytest.raises(requests.ConnectionError):
        act()


def names(neon: Sandbox) -> list[str]:
    living = neon.keys()
    return [key.name for key in living]


def test_a_lost_answer_to_a_creation_leaves_a_key(neon: Sandbox, api: Api) -> None:
    neon.fault("lost_answer", on="create")
    lost(lambda: api.create("orphan"))
    assert names(neon) == ["orphan", "management"]
    assert neon.requests[-1].status is None
    assert api.create("orphan").status_code == 409


def test_a_lost_answer_to_a_revocation_leaves_none(neon: Sandbox, api: Api) -> None:
    key = neon.create_key("doomed")
    neon.fault(fault="lost_answer", on="revoke")
    lost(lambda: api.revoke(key.id))
    assert names(neon) == ["management"]


def test_a_lost_request_does_nothing_at_all(neon: Sandbox, api: Api) -> None:
    neon.fault("lost_request")
    lost(lambda: api.create("never"))
    assert names(neon) == ["management"]
    assert neon.keys()[0].uses == 0


@pytest.mark.parametrize(
    ("fields", "status", "made"),
    [
        ({"fault": "error_before"}, 500, False),
        ({"fault": "error_before", "status": 502}, 502, False),
        ({"fault": "error_after"}, 500, True),
        ({"fault": "error_after", "status": 504}, 504, True),
        ({"fault": "locked"}, 423, False),
        ({"fault": "rate_limited"}, 429, False),
        ({"fault": "unavailable"}, 503, False),
        ({"fault": "refused"}, 401, False),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_an_error_comes_before_or_after_the_effect(
    neon: Sandbox, api: Api, fields: dict[str, Any], status: int, made: bool
) -> None:
    neon.fault(**fields)
    answer = api.create("key")
    assert answer.status_code == status
    assert answer.json().keys() == {"message", "code", "request_id"}
    assert "Retry-After" not in answer.headers
    assert ("key" in names(neon)) is made


@pytest.mark.parametrize("after", [30, "Mon, 23 Nov 2026 04:06:00 GMT"], ids=["seconds", "a date"])
@pytest.mark.parametrize("name", ["rate_limited", "unavailable"])
def test_retry_after_is_sent_as_told(neon: Sandbox, api: Api, name: str, after: object) -> None:
    neon.fault(name, retry_after=after)
    assert api.list().headers["Retry-After"] == str(after)


def test_a_slow_request_takes_its_time_and_then_works(neon: Sandbox, api: Api) -> None:
    neon.fault("slow", seconds=0.05)
    began = time.monotonic()
    assert api.create("key").status_code == 200
    assert time.monotonic() - began >= 0.05


def test_a_slow_request_does_nothing_when_neon_goes_down_meanwhile(neon: Sandbox, api: Api) -> None:
    neon.fault("slow", seconds=3600)
    caught: list[BaseException] = []

    def create() -> None:
        try:
            api.create("never")
        except requests.ConnectionError as error:
            caught.append(error)

    caller = threading.Thread(target=create)
    caller.start()
    deadline = time.monotonic() + 20
    while neon.faults() and time.monotonic() < deadline:  # gone from there when the request has met it
        threading.Event().wait(0.001)
    neon.stop()
    caller.join(20)
    assert len(caught) == 1
    assert names(neon) == ["management"]


def test_a_malformed_answer_is_a_success_that_cannot_be_read(neon: Sandbox, api: Api) -> None:
    neon.fault("malformed")
    answer = api.create("key")
    assert answer.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        answer.json()
    assert "key" in names(neon)


@pytest.mark.parametrize("call", ["list", "create", "revoke", "auth"])
def test_an_answer_of_the_wrong_type_is_json_all_the_same(neon: Sandbox, api: Api, call: str) -> None:
    doomed = neon.create_key("doomed")
    neon.fault("wrong_type", on=call)
    calls: dict[str, Callable[[], requests.Response]] = {
        "list": api.list,
        "create": lambda: api.create("key"),
        "revoke": lambda: api.revoke(doomed.id),
        "auth": lambda: api.call("GET", "/auth"),
    }
    answer = calls[call]()
    assert answer.status_code == 200
    assert isinstance(answer.json(), list) is (call == "auth")
    assert ("key" in names(neon)) is (call == "create")
    assert ("doomed" in names(neon)) is (call != "revoke")


def test_a_stale_list_is_the_list_as_it_was_then(neon: Sandbox, api: Api, clock: Clock) -> None:
    gone = neon.create_key("gone since")
    neon.use(neon.secret_of(gone.id))
    clock.advance(100)
    neon.use(neon.secret_of(gone.id))
    neon.create_key("made since")
    neon.revoke_key(gone.id)
    neon.fault("stale_list", seconds=60)
    then = api.list().json()
    assert [item["name"] for item in then] == ["gone since", "management"]
    assert then[0]["last_used_at"] == "2026-11-23T04:05:00Z"
    assert then[1]["last_used_at"] is None
    assert api.listed_names() == ["made since", "management"]


def test_a_partial_list_lacks_what_it_is_told_to(neon: Sandbox, api: Api) -> None:
    first, _, third = (neon.create_key(name).id for name in ("first", "second", "third"))
    neon.fault("partial_list", omit=[first, third])
    assert api.listed_names() == ["second", "management"]
    neon.fault("partial_list", keep=0.5)
    assert api.listed_names() == ["third", "second"]
    neon.fault("partial_list", keep=0)
    assert api.listed_names() == []
    assert len(api.listed_names()) == 4


def test_an_empty_list_says_nothing_about_the_keys(neon: Sandbox, api: Api) -> None:
    neon.fault("empty_list", times=2)
    assert [api.list().json() for _ in range(3)].count([]) == 2


def test_lagging_usage_is_as_it_was_then_while_the_keys_are_of_now(neon: Sandbox, api: Api, clock: Clock) -> None:
    key = neon.create_key("key")
    neon.use(neon.secret_of(key.id), "198.51.100.1")
    clock.advance(90)
    neon.use(neon.secret_of(key.id), "198.51.100.2")
    neon.create_key("new")
    neon.fault("usage_lag", seconds=60, times=None)
    shown = {item["name"]: item for item in api.list().json()}
    assert shown["key"]["last_used_from_addr"] == "198.51.100.1"
    assert shown["new"]["last_used_at"] is None
    clock.advance(60)
    shown = {item["name"]: item for item in api.list().json()}
    assert shown["key"]["last_used_from_addr"] == "198.51.100.2"
    assert neon.keys()[1].last_used_from_addr == "198.51.100.2"


def test_frozen_usage_stands_still_until_cleared(neon: Sandbox, api: Api, clock: Clock) -> None:
    key = neon.create_key("key")
    neon.fault("usage_frozen", times=None)
    for _ in range(3):
        clock.advance(3600)
        neon.use(neon.secret_of(key.id))
        assert api.list().json()[0]["last_used_at"] is None
    neon.clear_faults()
    assert api.list().json()[0]["last_used_at"] == "2026-11-23T07:05:00Z"


def test_a_fault_for_any_call_strikes_calls_that_have_no_name_of_their_own(neon: Sandbox, api: Api) -> None:
    neon.fault("unavailable")
    assert api.call("GET", "/users/me").status_code == 503


# The control API


def test_faults_are_armed_shown_and_cleared_over_http(neon: Sandbox, api: Api) -> None:
    one = {"fault": "lost_answer", "on": "create", "times": 2, "skip": 0}
    two = {"fault": "slow", "on": "any", "times": None, "skip": 1, "seconds": 5}
    assert api.control("POST", "faults", one).json() == [one]
    assert api.control("POST", "faults", [two]).json() == [one, two]
    assert api.control("GET", "faults").json() == [one, two] == neon.faults()
    assert api.control("DELETE", "faults").json() == {"cleared": 2}
    assert api.control("GET", "faults").json() == []


def test_a_list_of_faults_with_a_mistake_arms_none(neon: Sandbox, api: Api) -> None:
    answer = api.control("POST", "faults", [{"fault": "locked"}, {"fault": "earthquake"}])
    assert answer.status_code == 400
    assert answer.json()["message"].startswith('"earthquake" is not a fault; there are: lost_answer')
    assert neon.faults() == []
