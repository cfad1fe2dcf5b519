"""A bare HTTP client for these tests, and a clock that stands still until it is told to move."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import requests
from requests.auth import AuthBase

from rotator.sandbox import Sandbox


class Bearer(AuthBase):
    """Through `auth`, so that no netrc file of the machine can replace it."""

    def __init__(self, secret: str | None) -> None:
        self.secret = secret

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.secret is not None:
            request.headers["Authorization"] = f"Bearer {self.secret}"
        return request


class Api:
    """Calls a sandbox with one key, from one address."""

    def __init__(self, neon: Sandbox, secret: str | None, address: str | None = None) -> None:
        self.url = neon.url
        self.session = requests.Session()
        self.session.auth = Bearer(secret)
        if address is not None:
            self.session.headers["X-Forwarded-For"] = address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def call(self, method: str, path: str, body: object = None, **more: Any) -> requests.Response:
        return self.session.request(method, self.url + path, json=body, timeout=20, **more)

    def list(self, organization: str | None = None) -> requests.Response:
        return self.call("GET", keys_of(organization))

    def create(self, name: object, organization: str | None = None, **more: object) -> requests.Response:
        return self.call("POST", keys_of(organization), {"key_name": name, **more})

    def revoke(self, key_id: object, organization: str | None = None) -> requests.Response:
        return self.call("DELETE", f"{keys_of(organization)}/{key_id}")

    def control(self, method: str, path: str, body: object = None) -> requests.Response:
        url = self.url.removesuffix("/api/v2") + f"/_sandbox/{path}"
        return self.session.request(method, url, json=body, timeout=20)

    def listed_names(self, organization: str | None = None) -> Sequence[str]:
        return [item["name"] for item in self.list(organization).json()]


def keys_of(organization: str | None) -> str:
    return "/api_keys" if organization is None else f"/organizations/{organization}/api_keys"


class Clock:
    """Stands at the start of a minute, and moves only when told to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 23, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def address_of(neon: Sandbox) -> tuple[str, int]:
    """Where a sandbox listens, as its `listen` takes it."""
    host, _, port = neon.url.removeprefix("http://").removesuffix("/api/v2").rpartition(":")
    return host, int(port)
