"""What the API answers over HTTP: the life of a key, and everything that is refused."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.utils import parsedate_to_datetime

import pytest
import requests

from rotator.sandbox import Sandbox

from .client import Api, Bearer, Clock, address_of

ORG, PROJECT = "org-sandbox", "sandbox-project"
UNAUTHENTICATED = (401, "supplied credentials do not pass authentication")


def error_of(answer: requests.Response) -> tuple[int, str]:
    body = answer.json()
    assert body["code"] == ""
    assert body["request_id"] == answer.headers["x-neon-ret-request-id"]
    return answer.status_code, body["message"]


def using(neon: Sandbox, key_id: int) -> Api:
    return Api(neon, neon.secret_of(key_id))


# The life of a key


@pytest.mark.parametrize("organization", [None, ORG], ids=["personal", "organization"])
def test_a_key_is_created_listed_used_and_revoked(neon: Sandbox, api: Api, organization: str | None) -> None:
    created = api.create("mine", organization).json()
    assert re.fullmatch(r"napi_[a-z0-9]{64}", created["key"])
    assert neon.secret_of(created["id"]) == created["key"]

    listed = {item["id"]: item for item in api.list(organization).json()}[created["id"]]
    assert (listed["last_used_at"], listed["last_used_from_addr"]) == (None, "")
    assert listed["created_by"]["id"] == created["created_by"]
    assert "key" not in listed

    with Api(neon, created["key"], "198.51.100.7, 192.0.2.1") as other:
        assert other.call("GET", "/auth").status_code == 200
        revoked = api.revoke(created["id"], organization).json()
        assert (revoked["revoked"], revoked["last_used_from_addr"]) == (True, "198.51.100.7,192.0.2.1")
        assert revoked["created_by"] == created["created_by"]
        assert error_of(other.call("GET", "/auth")) == (
            401,
            "supplied credentials do not pass authentication",
        )

    assert "mine" not in api.listed_names(organization)
    assert error_of(api.revoke(created["id"], organization)) == (404, "API key not found")
    assert [key.name for key in neon.revoked()] == ["mine"]


def test_a_project_id_is_shown_only_of_keys_that_are_scoped_to_one(neon: Sandbox, api: Api) -> None:
    plain = api.create("plain", ORG).json()
    scoped = api.create("scoped", ORG, project_id=PROJECT).json()
    assert ("project_id" in plain, scoped["project_id"]) == (False, PROJECT)
    shown = {item["name"]: item for item in api.list(ORG).json()}
    assert ("project_id" in shown["plain"], shown["scoped"]["project_id"]) == (False, PROJECT)
    living = neon.keys()
    assert [key.scope for key in living] == ["project", "organization", "personal"]
    assert api.revoke(scoped["id"], ORG).json()["project_id"] == PROJECT


def test_any_call_with_a_key_is_a_use_of_it_also_one_that_fails(neon: Sandbox, api: Api, clock: Clock) -> None:
    for count, path in enumerate(["/auth", "/api_keys", "/projects/none", "/organizations/org-none/api_keys"], start=1):
        clock.advance(10)
        api.call("GET", path)
        key = neon.keys()[0]
        assert (key.uses, key.last_used_at, key.last_used_from_addr) == (count, clock(), "127.0.0.1")


def test_a_use_without_http_counts_as_much(neon: Sandbox, clock: Clock) -> None:
    key = neon.create_key("key")
    secret = neon.secret_of(key.id)
    assert neon.use(secret, "2001:db8::7")
    assert neon.keys()[0].last_used_from_addr == "2001:db8::7"
    neon.revoke_key(key.id)
    assert not neon.use(secret)
    assert neon.requests == []


# What is refused


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "key_name is required"),
        ({"key_name": ""}, "key_name is required"),
        ({"key_name": 7}, "key_name is required"),
        ({"key_name": "x" * 65}, "at most 64 characters"),
        ([], "must be a JSON object"),
        ({"key_name": "x", "project_id": PROJECT}, "project_id must be"),
    ],
)
def test_a_bad_body_is_refused(neon: Sandbox, api: Api, body: object, message: str) -> None:
    status, text = error_of(api.call("POST", "/api_keys", body))
    assert status == 400
    assert message in text
    assert len(neon.keys()) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000], ids=["empty", "cut", "not text", "too deep"])
def test_a_body_that_is_no_json_is_refused(api: Api, body: bytes) -> None:
    answer = api.call("POST", "/api_keys", data=body)
    assert error_of(answer) == (400, "the request body is not valid JSON")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nothing"),
        ("GET", "/api_keys/"),
        ("GET", "/api_keys/1"),
        ("PUT", "/api_keys"),
        ("GET", "/../../api_keys"),
        ("PATCH", "/api_keys/1"),
        ("TRACE", "/api_keys"),
    ],
)
def test_an_unknown_route_is_not_found(api: Api, method: str, path: str) -> None:
    assert error_of(api.call(method, path))[0] == 404


def test_a_route_outside_the_base_path_is_not_found(neon: Sandbox) -> None:
    root = neon.url.removesuffix("/api/v2")
    answer = requests.get(f"{root}/api_keys", auth=Bearer(neon.management_key), timeout=20)
    assert error_of(answer)[0] == 404


@pytest.mark.parametrize("key_id", ["abc", "-1", "1" * 30])
def test_an_id_that_is_no_number_is_refused(api: Api, key_id: str) -> None:
    assert error_of(api.revoke(key_id)) == (400, "key_id must be an integer")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer napi_wrong", "Basic {key}", "{key}"])
def test_without_a_valid_key_nothing_is_told(neon: Sandbox, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.format(key=neon.management_key)}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"{neon.url}/api_keys", headers=headers, timeout=20)
    assert error_of(answer) == UNAUTHENTICATED


def test_a_taken_name_is_refused(api: Api) -> None:
    assert api.create("same").status_code == 200
    assert error_of(api.create("same")) == (409, "choose another unique name for api key")
    assert api.create("same", ORG).status_code == 200


def test_an_organization_key_manages_its_organizations_keys_but_makes_none(neon: Sandbox) -> None:
    own, other = neon.create_key("own", ORG), neon.create_key("other", ORG)
    not_allowed = (404, "not allowed for organization API keys")
    with using(neon, own.id) as api:
        assert api.call("GET", "/auth").json() == {"account_id": ORG, "auth_method": "api_key_org"}
        assert api.listed_names(ORG) == ["other", "own"]
        assert api.revoke(other.id, ORG).status_code == 200
        assert error_of(api.create("new", ORG)) == not_allowed
        assert error_of(api.list()) == not_allowed
        assert error_of(api.create("new")) == not_allowed
        assert error_of(api.revoke(neon.management_key_id)) == not_allowed
        assert error_of(api.call("GET", "/users/me")) == not_allowed
        assert error_of(api.list("org-other"))[0] == 404
        assert api.call("GET", f"/projects/{PROJECT}").json()["project"]["org_id"] == ORG
        assert error_of(api.call("GET", "/projects/other-project"))[0] == 404
        organizations = api.call("GET", "/users/me/organizations").json()["organizations"]
        assert [organization["id"] for organization in organizations] == [ORG]


def test_a_key_scoped_to_a_project_gets_no_further_than_the_project(neon: Sandbox) -> None:
    scoped = neon.create_key("scoped", ORG, PROJECT)
    outside = "outside the project this key is scoped to"
    with using(neon, scoped.id) as api:
        assert api.call("GET", "/auth").json()["auth_method"] == "api_key_org"
        assert api.call("GET", f"/projects/{PROJECT}").status_code == 200
        for answer in (
            api.list(ORG),
            api.create("new", ORG),
            api.revoke(scoped.id, ORG),
            api.call("GET", "/projects/other-project"),
        ):
            status, message = error_of(answer)
            assert status == 404
            assert outside in message
        assert error_of(api.list()) == (404, "not allowed for organization API keys")
    assert neon.keys()[0].id == scoped.id


def test_the_person_administers_every_organization(api: Api) -> None:
    assert api.call("GET", "/auth").json()["auth_method"] == "api_key_user"
    organizations = api.call("GET", "/users/me/organizations").json()["organizations"]
    assert [organization["id"] for organization in organizations] == [ORG, "org-other"]
    assert api.create("scoped", "org-other", project_id="other-project").status_code == 200
    assert error_of(api.create("scoped", "org-other", project_id=PROJECT)) == (404, "project not found")
    assert error_of(api.list("org-none")) == (404, "organization not found")


def test_no_error_repeats_a_secret(neon: Sandbox, api: Api) -> None:
    secret = neon.management_key
    for answer in (
        api.call("GET", f"/{secret}"),
        api.revoke(secret),
        api.create(secret * 2),
        api.call("POST", "/api_keys", data=secret.encode()),
        api.call("GET", f"/projects/{secret}"),
        api.control("POST", "faults", {"fault": secret}),
        api.control("POST", "faults", {"fault": "locked", secret: 1}),
        api.control("GET", secret),
    ):
        assert answer.status_code >= 400
        assert secret not in answer.text + str(answer.headers)


# Headers, connections, limits


def test_every_answer_carries_neons_date_and_a_request_id(api: Api, neon: Sandbox, clock: Clock) -> None:
    answers = [api.list(), api.revoke(1), api.call("GET", "/nothing"), api.create("")]
    assert {parsedate_to_datetime(answer.headers["Date"]) for answer in answers} == {clock()}
    assert len({answer.headers["x-neon-ret-request-id"] for answer in answers}) == len(answers)


def test_a_connection_is_kept_over_successes_and_errors(neon: Sandbox) -> None:
    with closing(socket.create_connection(address_of(neon), timeout=20)) as connection:
        for path, status in [("api_keys", 200), ("projects/none", 404), ("nothing", 404), ("auth", 200)]:
            lines = [
                f"GET /api/v2/{path} HTTP/1.1",
                "Host: x",
                f"Authorization: Bearer {neon.management_key}",
            ]
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            assert read_answer(connection).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    "request_line",
    [
        b"napi_secret\r\n\r\n",
        b"POST /api/v2/api_keys HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST /api/v2/api_keys HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /api/v2/api_keys HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
    ],
    ids=["no http", "no length", "chunked", "too long"],
)
def test_a_request_that_cannot_be_read_is_refused_and_the_connection_closed(neon: Sandbox, request_line: bytes) -> None:
    with closing(socket.create_connection(address_of(neon), timeout=20)) as connection:
        connection.sendall(request_line)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert b'"code": ""' in answer
    assert b"napi_secret" not in answer


def test_the_limits_apply_only_when_asked_for(api: Api, clock: Clock) -> None:
    assert {api.list().status_code for _ in range(50)} == {200}
    with Sandbox(rate_limits=True, now=clock) as neon, Api(neon, neon.management_key) as limited:
        assert [limited.list().status_code for _ in range(50)] == [200] * 40 + [429] * 10
        assert error_of(limited.list()) == (429, "too many requests")
        assert limited.call("GET", "/auth").status_code == 200
        clock.advance(1)
        assert [limited.create(f"key-{n}", ORG).status_code for n in range(12)] == [200] * 10 + [429] * 2
        own = neon.keys()[0]
        with using(neon, own.id) as another_account:
            assert another_account.list(ORG).status_code == 200


def test_of_many_creations_at_once_every_one_gets_a_key_of_its_own(neon: Sandbox, api: Api) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: api.create(f"key-{number}").json(), range(64)))
        rivals = list(pool.map(lambda _: api.create("one name").status_code, range(16)))
    assert len({answer["id"] for answer in answers}) == len({answer["key"] for answer in answers}) == 64
    assert sorted(rivals) == [200] + [409] * 15


def read_answer(connection: socket.socket) -> bytes:
    """One answer with a stated length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(re.search(rb"Content-Length: (\d+)", head).group(1))  # type: ignore[union-attr]
    while len(body) < length:
        body += connection.recv(65_536)
    return data
