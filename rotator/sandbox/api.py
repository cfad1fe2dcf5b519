"""The routes of Neon's API that the sandbox has, and the shapes of their answers.

A route is a row of `ROUTES`: method, path, the kind of call that faults know it by, and the function that
does it. The function gets a `Call`, whose key is authenticated already and counted as used, and returns the
JSON of a success (always 200) or raises `Refused`. Sockets, faults and rate limits are elsewhere.

Two differences between answers that look alike are Neon's own: `created_by` is an object in a list and a
UUID in the answers to creating and revoking, and `project_id` is only there for a key scoped to a project.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rotator.sandbox.account import Accounts, Key, KeyView, Refused, check_name, rfc3339
from rotator.sandbox.faults import View

BASE_PATH = "/api/v2"
IDENTIFIER = re.compile(r"[a-z0-9-]{1,60}")


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str  # without a query
    secret: str | None = field(repr=False)
    address: str
    body: bytes = field(repr=False)

    @property
    def shown(self) -> str:
        """The path as routes have it: below the base path."""
        return self.path.removeprefix(BASE_PATH)


@dataclass(frozen=True)
class Answer:
    """An answer to be sent: JSON, or `raw` bytes that are not."""

    status: int
    body: object = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None


@dataclass(frozen=True)
class Call:
    """An authenticated request, taken apart."""

    accounts: Accounts
    caller: Key
    now: datetime
    parameters: Mapping[str, str]
    body: bytes
    view: View


@dataclass(frozen=True)
class Route:
    """One row of `ROUTES`."""

    method: str
    path: str
    call: str  # create | revoke | list | auth | other
    act: Callable[[Call], object]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def parameters(self, method: str, path: str) -> dict[str, str] | None:
        """The path's variable parts if this route serves the request, else None."""
        ours, theirs = self.path.split("/"), path.split("/")
        if method != self.method or len(ours) != len(theirs):
            return None
        pairs = list(zip(ours, theirs, strict=True))
        if any(our != their for our, their in pairs if not our.startswith("{")):
            return None
        return {our[1:-1]: their for our, their in pairs if our.startswith("{")}


def list_keys(call: Call) -> object:
    organization = _account(call)
    view = call.view
    keys = list(call.accounts.alive(organization, view.as_of))
    kept = keys[: int(len(keys) * view.keep)]
    return [_listed(call.accounts, key.view(view.usage_as_of)) for key in kept if key.id not in view.omit]


def create_key(call: Call) -> object:
    organization = _account(call, to_create=True)
    wanted = _json_object(call.body)
    name, project = wanted.get("key_name"), _project_wanted(wanted, organization)
    check_name(name)
    key = call.accounts.create(str(name), call.now, organization=organization, project=project)
    view = key.view()
    return {
        "id": view.id,
        "key": key.secret,
        "name": view.name,
        "created_at": rfc3339(view.created_at),
        "created_by": view.created_by,
        **_project_of(view),
    }


def revoke_key(call: Call) -> object:
    organization = _account(call)
    text = call.parameters["key_id"]
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise Refused(400, "key_id must be an integer")
    view = call.accounts.revoke(int(text), call.now, organization=organization).view()
    return {
        "id": view.id,
        "name": view.name,
        "created_at": rfc3339(view.created_at),
        "created_by": view.created_by,
        **_usage_of(view),
        "revoked": True,
        **_project_of(view),
    }


def show_auth(call: Call) -> object:
    organization = call.caller.organization
    if organization is None:
        return {"account_id": call.accounts.user.id, "auth_method": "api_key_user"}
    return {"account_id": organization, "auth_method": "api_key_org"}


def show_project(call: Call) -> object:
    project = call.parameters["project_id"]
    call.accounts.permit_project(call.caller, project)
    organization = call.accounts.organization_of(project)
    if organization is None or call.caller.organization not in (None, organization):
        raise Refused(404, "project not found")
    opened = call.accounts.opened
    return {
        "project": {
            "id": project,
            "name": project,
            "org_id": organization,
            "owner_id": organization,
            "platform_id": "aws",
            "region_id": "aws-eu-central-1",
            "provisioner": "k8s-neonvm",
            "proxy_host": "eu-central-1.aws.example.com",
            "pg_version": 17,
            "store_passwords": True,
            "creation_source": "console",
            "history_retention_seconds": 86_400,
            "created_at": rfc3339(opened),
            "updated_at": rfc3339(opened),
            "consumption_period_start": rfc3339(opened),
            "consumption_period_end": rfc3339(opened + timedelta(days=30)),
            "branch_logical_size_limit": 0,
            "branch_logical_size_limit_bytes": 0,
            "active_time_seconds": 0,
            "compute_time_seconds": 0,
            "cpu_used_sec": 0,
            "data_storage_bytes_hour": 0,
            "data_transfer_bytes": 0,
            "written_data_bytes": 0,
        }
    }


def show_user(call: Call) -> object:
    call.accounts.permit_personal(call.caller)
    user = call.accounts.user
    first, _, last = user.name.partition(" ")
    named = {"name": first, "email": user.email, "login": user.email, "image": user.image}
    return {
        "id": user.id,
        **named,
        "last_name": last,
        "plan": "launch",
        "auth_accounts": [{"provider": "github", **named}],
        "billing_account": {
            "state": "active",
            "payment_source": {"type": ""},
            "subscription_type": "launch",
            "payment_method": "none",
            "quota_reset_at_last": rfc3339(call.accounts.opened),
            "name": user.name,
            "email": user.email,
            **dict.fromkeys(("address_city", "address_country", "address_line1", "address_line2"), ""),
            **dict.fromkeys(("address_postal_code", "address_state"), ""),
        },
        "active_seconds_limit": 0,
        "projects_limit": 100,
        "branches_limit": 10,
        "max_autoscaling_limit": 0.0,
    }


def show_organizations(call: Call) -> object:
    opened = rfc3339(call.accounts.opened)
    return {
        "organizations": [
            {
                "id": organization,
                "name": organization,
                "handle": organization,
                "plan": "launch",
                "created_at": opened,
                "updated_at": opened,
                "managed_by": "console",
            }
            for organization in call.accounts.organizations
            if call.caller.organization in (None, organization)
        ]
    }


ROUTES = (
    Route("GET", "/api_keys", "list", list_keys),
    Route("POST", "/api_keys", "create", create_key),
    Route("DELETE", "/api_keys/{key_id}", "revoke", revoke_key),
    Route("GET", "/organizations/{org_id}/api_keys", "list", list_keys),
    Route("POST", "/organizations/{org_id}/api_keys", "create", create_key),
    Route("DELETE", "/organizations/{org_id}/api_keys/{key_id}", "revoke", revoke_key),
    Route("GET", "/auth", "auth", show_auth),
    Route("GET", "/projects/{project_id}", "other", show_project),
    Route("GET", "/users/me", "other", show_user),
    Route("GET", "/users/me/organizations", "other", show_organizations),
)


def find_route(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The route that serves a request, with the variable parts of its path."""
    if not path.startswith(f"{BASE_PATH}/"):
        return None
    for route in ROUTES:
        parameters = route.parameters(method, path.removeprefix(BASE_PATH))
        if parameters is not None:
            return route, parameters
    return None


def error(status: int, message: str, request_id: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An error in Neon's shape: `code` is empty in every real one that was seen."""
    return Answer(status, {"request_id": request_id, "code": "", "message": message}, headers or {})


def wrong_shape(call: str) -> object:
    """JSON that is well formed and has the wrong types for this kind of call."""
    if call == "list":
        return {"api_keys": "unavailable"}
    if call in ("create", "revoke"):
        return {"id": "unknown", "key": None, "name": ["unknown"], "created_at": 0, "revoked": "maybe"}
    return ["unavailable"]


def _account(call: Call, *, to_create: bool = False) -> str | None:
    """The account that a call about keys is for, None being the person's own; refused if not permitted."""
    organization = call.parameters.get("org_id")
    if organization is None:
        call.accounts.permit_personal(call.caller)
    else:
        call.accounts.permit_organization(call.caller, organization, to_create=to_create)
    return organization


def _listed(accounts: Accounts, view: KeyView) -> dict[str, object]:
    user = accounts.user
    return {
        "id": view.id,
        "name": view.name,
        "created_at": rfc3339(view.created_at),
        "created_by": {"id": user.id, "name": user.name, "image": user.image},
        **_usage_of(view),
        **_project_of(view),
    }


def _usage_of(view: KeyView) -> dict[str, object]:
    return {
        "last_used_at": rfc3339(view.last_used_at) if view.last_used_at else None,
        "last_used_from_addr": view.last_used_from_addr,
    }


def _project_of(view: KeyView) -> dict[str, object]:
    return {} if view.project is None else {"project_id": view.project}


def _project_wanted(wanted: Mapping[str, object], organization: str | None) -> str | None:
    """The project that a new key shall be confined to.

    How Neon takes one for a personal key is not known. Refusing shows a mistake that would otherwise make a
    key that can do more than was asked for.
    """
    project = wanted.get("project_id")
    if project is None:
        return None
    if organization is None or not isinstance(project, str) or not IDENTIFIER.fullmatch(project):
        raise Refused(400, "project_id must be the id of a project of the organization")
    return project


def _json_object(body: bytes) -> dict[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the request body is not valid JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "the request body must be a JSON object")
    return value
