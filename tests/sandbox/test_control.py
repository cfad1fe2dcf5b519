"""Looking at the sandbox and acting on it beside Neon's API: the observer, the log, the control API."""

from __future__ import annotations

import socket
import threading

import pytest
import requests

from rotator.sandbox import Event, Refused, Sandbox
from rotator.sandbox.wire import _is_loopback

from .client import Api, Clock, address_of

ORG, PROJECT = "org-sandbox", "sandbox-project"


# Watching


def test_an_observer_is_called_right_before_and_right_after_the_effect() -> None:
    seen: list[tuple[Event, int]] = []
    watched = Sandbox(observer=lambda event: seen.append((event, len(watched.keys()))))
    with watched as neon, Api(neon, neon.management_key) as api:
        api.create("key")
        neon.fault("locked")
        api.create("another")
    assert seen == [(Event("before", "POST", "/api_keys"), 1), (Event("after", "POST", "/api_keys"), 2)]


def test_the_client_may_be_gone_before_the_answer() -> None:
    done = threading.Event()
    client: list[socket.socket] = []

    def leave(event: Event) -> None:
        if event.moment == "after":
            client[0].close()
            done.set()

    with Sandbox(observer=leave) as neon:
        client.append(socket.create_connection(address_of(neon), timeout=20))
        body = b'{"key_name": "nobody knows"}'
        head = f"POST /api/v2/api_keys HTTP/1.1\r\nAuthorization: Bearer {neon.management_key}\r\n"
        client[0].sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert done.wait(20)
        assert neon.keys()[0].name == "nobody knows"


def test_requests_are_logged_with_route_and_status_and_counted(neon: Sandbox, api: Api) -> None:
    created = api.create("key").json()
    api.revoke(created["id"])
    neon.fault("lost_answer", on="auth")
    with pytest.raises(requests.ConnectionError):
        api.call("GET", "/auth")
    with Api(neon, "napi_wrong") as stranger:
        stranger.list()
    api.call("GET", "/nothing")

    assert [record[1:] for record in neon.requests] == [
        ("POST", "/api_keys", 200),
        ("DELETE", f"/api_keys/{created['id']}", 200),
        ("GET", "/auth", None),
        ("GET", "/api_keys", 401),
        ("GET", "/nothing", 404),
    ]
    times = [record.at for record in neon.requests]
    assert times == sorted(times)
    assert (
        api.control("GET", "stats").json()
        == neon.stats()
        == {
            "total": 5,
            "unauthorized": 1,
            "unanswered": 1,
            "routes": {
                "POST /api_keys": {"200": 1},
                "DELETE /api_keys/{key_id}": {"200": 1},
                "GET /auth": {"none": 1},
                "GET /api_keys": {"401": 1},
                "unknown route": {"404": 1},
            },
        }
    )


# Acting by hand


def test_keys_are_made_shown_and_revoked_by_hand_over_the_control_api(neon: Sandbox, api: Api) -> None:
    made = api.control("POST", "keys", {"name": "by hand", "organization": ORG, "project": PROJECT}).json()
    assert (made["scope"], neon.secret_of(made["id"])) == ("project", made.pop("key"))
    shown = api.control("GET", "keys")
    assert shown.json()[0] == made
    assert neon.management_key not in shown.text
    assert api.control("DELETE", f"keys/{made['id']}").json()["revoked_at"] is not None
    assert api.control("DELETE", f"keys/{made['id']}").status_code == 404
    assert neon.keys()[0].id == neon.management_key_id


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "keys", {}, 400),
        ("POST", "keys", {"name": 7}, 400),
        ("POST", "keys", {"name": "x", "color": "red"}, 400),
        ("POST", "keys", {"name": "management"}, 409),
        ("POST", "keys", {"name": "x", "organization": "org-none"}, 404),
        ("POST", "faults", None, 400),
        ("POST", "clock", {"offset": 1, "zone": 2}, 400),
        ("DELETE", "keys/x", None, 404),
        ("PUT", "keys", None, 404),
        ("GET", "nothing", None, 404),
    ],
)
def test_mistakes_with_the_control_api_are_refused_with_a_sentence(
    api: Api, method: str, path: str, body: object, status: int
) -> None:
    answer = api.control(method, path, body)
    assert answer.status_code == status
    assert " " in answer.json()["message"]


def test_the_control_api_is_not_part_of_neons(neon: Sandbox, api: Api) -> None:
    api.control("GET", "keys")
    neon.fault("unavailable", times=None)
    assert api.control("GET", "stats").status_code == 200
    assert neon.requests == []
    assert neon.keys()[0].uses == 0


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("203.0.113.7", False),
        ("2001:db8::1", False),
        ("::ffff:203.0.113.7", False),
        ("0.0.0.0", False),
    ],
)
def test_only_loopback_may_control(address: str, near: bool) -> None:
    assert _is_loopback(address) is near


def test_somebody_else_in_the_console_meets_the_same_rules(neon: Sandbox) -> None:
    with pytest.raises(Refused, match="choose another unique name"):
        neon.create_key("management")
    with pytest.raises(Refused, match="API key not found"):
        neon.revoke_key(1)


def test_the_clock_can_be_shifted(api: Api, neon: Sandbox, clock: Clock) -> None:
    assert api.control("POST", "clock", {"offset": 86_400}).json() == {"now": "2026-11-24T04:05:00Z"}
    answer = api.create("tomorrow")
    assert answer.headers["Date"] == "Tue, 24 Nov 2026 04:05:00 GMT"
    assert answer.json()["created_at"] == "2026-11-24T04:05:00Z"
    neon.set_clock(-60)
    assert api.list().headers["Date"] == "Mon, 23 Nov 2026 04:04:00 GMT"


@pytest.mark.parametrize("offset", [None, "1", True, 1e300, float("inf"), float("nan")])
def test_a_clock_offset_must_make_sense(neon: Sandbox, offset: object) -> None:
    # Sent by hand, since a client would refuse to write infinity.
    body = f'{{"offset": {offset!r}}}'.replace("None", "null").replace("True", "true").replace("'", '"')
    body = body.replace("inf", "Infinity").replace("nan", "NaN")
    url = neon.url.removesuffix("/api/v2") + "/_sandbox/clock"
    assert requests.post(url, data=body, timeout=20).status_code == 400
