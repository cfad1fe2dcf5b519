"""The sandbox's answers against Neon's OpenAPI document and answers recorded from the real API.

Both are Neon's and not part of this repository: the environment variable ROTATOR_NEON_REFERENCE names the
folder that holds them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests

from rotator.sandbox import Sandbox

from .client import Api

FOLDER = os.environ.get("ROTATOR_NEON_REFERENCE")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="ROTATOR_NEON_REFERENCE does not name a folder with Neon's OpenAPI document"
)

FORMATS = jsonschema.FormatChecker(["uuid", "email"])


@FORMATS.checks("date-time", raises=ValueError)
def is_time(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ"))


def load(name: str) -> Any:
    return json.loads((Path(FOLDER or "") / name).read_text())


@pytest.fixture(scope="module")
def document() -> Any:
    return nullable_to_json_schema(load("openapi-api-keys.json"))


@pytest.fixture(scope="module")
def recorded() -> Any:
    return load("recorded-responses.json")


def nullable_to_json_schema(node: Any) -> Any:
    """OpenAPI 3.0 says `nullable` where JSON Schema has a list of types."""
    if isinstance(node, list):
        return [nullable_to_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: nullable_to_json_schema(value) for key, value in node.items()}
    if node.pop("nullable", False) is True and isinstance(node.get("type"), str):
        node["type"] = [node["type"], "null"]
    return node


def validate(document: Any, path: str, method: str, answer: requests.Response) -> None:
    answers = document["paths"][path][method]["responses"]
    described = answers.get(str(answer.status_code), answers["default"])
    if "$ref" in described:
        described = document["components"]["responses"][described["$ref"].rpartition("/")[2]]
    schema = {
        "allOf": [described["content"]["application/json"]["schema"]],
        "components": document["components"],
    }
    jsonschema.Draft4Validator(schema, format_checker=FORMATS).validate(answer.json())


ORG = "org-sandbox"
PERSONAL, PERSONAL_KEY = "/api_keys", "/api_keys/{key_id}"
OF_ORG, ORG_KEY = "/organizations/{org_id}/api_keys", "/organizations/{org_id}/api_keys/{key_id}"
CALLS: dict[str, tuple[str, str, int, Callable[[Api, int, int], requests.Response]]] = {
    "list": (PERSONAL, "get", 200, lambda api, mine, theirs: api.list()),
    "create": (PERSONAL, "post", 200, lambda api, mine, theirs: api.create("new")),
    "create a taken name": (PERSONAL, "post", 409, lambda api, mine, theirs: api.create("mine")),
    "create without a name": (PERSONAL, "post", 400, lambda api, mine, theirs: api.create(None)),
    "revoke": (PERSONAL_KEY, "delete", 200, lambda api, mine, theirs: api.revoke(mine)),
    "revoke what is not there": (PERSONAL_KEY, "delete", 404, lambda api, mine, theirs: api.revoke(1)),
    "list of an organization": (OF_ORG, "get", 200, lambda api, mine, theirs: api.list(ORG)),
    "create for an organization": (OF_ORG, "post", 200, lambda api, mine, theirs: api.create("new", ORG)),
    "create for a project": (
        OF_ORG,
        "post",
        200,
        lambda api, mine, theirs: api.create("new", ORG, project_id="sandbox-project"),
    ),
    "revoke of an organization": (ORG_KEY, "delete", 200, lambda api, mine, theirs: api.revoke(theirs, ORG)),
    "auth": ("/auth", "get", 200, lambda api, mine, theirs: api.call("GET", "/auth")),
    "user": ("/users/me", "get", 200, lambda api, mine, theirs: api.call("GET", "/users/me")),
    "organizations": (
        "/users/me/organizations",
        "get",
        200,
        lambda api, mine, theirs: api.call("GET", "/users/me/organizations"),
    ),
    "project": (
        "/projects/{project_id}",
        "get",
        200,
        lambda api, mine, theirs: api.call("GET", "/projects/sandbox-project"),
    ),
    "project that is not there": (
        "/projects/{project_id}",
        "get",
        404,
        lambda api, mine, theirs: api.call("GET", "/projects/none"),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_answer_is_valid_by_neons_openapi_document(neon: Sandbox, api: Api, document: Any, name: str) -> None:
    path, method, status, call = CALLS[name]
    mine = neon.create_key("mine").id
    theirs = neon.create_key("theirs", ORG, "sandbox-project").id
    answer = call(api, mine, theirs)
    assert answer.status_code == status
    validate(document, path, method, answer)


def test_answers_to_organization_keys_are_valid_too(neon: Sandbox, document: Any) -> None:
    for project in (None, "sandbox-project"):
        key = neon.create_key(f"for {project}", ORG, project)
        with Api(neon, neon.secret_of(key.id)) as api:
            for path in ("/auth", "/users/me", "/users/me/organizations"):
                validate(document, path, "get", api.call("GET", path))
            validate(document, OF_ORG, "get", api.list(ORG))


def test_what_faults_and_limits_answer_has_neons_shape_of_errors(neon: Sandbox, api: Api, document: Any) -> None:
    for name in ("error_before", "error_after", "locked", "rate_limited", "unavailable", "refused"):
        neon.fault(name)
        answer = api.list()
        assert answer.status_code != 200
        validate(document, PERSONAL, "get", answer)


def test_the_validation_finds_a_wrong_answer(neon: Sandbox, api: Api, document: Any) -> None:
    for name in ("list", "create", "revoke", "auth"):
        path, method, _, call = CALLS[name]
        mine = neon.create_key(f"for {name}").id
        neon.fault("wrong_type")
        with pytest.raises(jsonschema.ValidationError):
            validate(document, path, method, call(api, mine, mine))


def shape(value: Any) -> Any:
    """Fields and types; null keeps to itself."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return type(value).__name__


def newest(recorded: Any, method: str) -> Any:
    """The newest recording: the older ones lack `created_by`."""
    return next(each for each in recorded if each["request"]["method"] == method)


def test_a_life_of_a_key_looks_as_it_was_recorded(neon: Sandbox, api: Api, recorded: Any) -> None:
    created = api.create("pytest-8050")
    listed = api.list()
    revoked = api.revoke(created.json()["id"])
    for method, ours in (("POST", created), ("DELETE", revoked)):
        assert shape(ours.json()) == shape(newest(recorded, method)["body"])
    theirs = newest(recorded, "GET")["body"]
    fresh, management = listed.json()
    assert shape(fresh) == shape(next(item for item in theirs if item["last_used_at"] is None))
    assert shape(management) == shape(next(item for item in theirs if item["last_used_at"] is not None))
    assert [item["id"] for item in theirs] == sorted((item["id"] for item in theirs), reverse=True)
    assert fresh["id"] > management["id"]


def test_the_headers_that_matter_are_there_as_recorded(api: Api, recorded: Any) -> None:
    ours, theirs = api.list().headers, newest(recorded, "GET")["headers"]
    for name in ("Content-Type", "Date", "x-neon-ret-request-id"):
        assert re.sub(r"\w", "x", ours[name]) == re.sub(r"\w", "x", theirs[name]), name
