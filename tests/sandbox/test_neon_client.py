"""Neon's own Python client works against the sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from neon_api import NeonAPI
from neon_api.exceptions import NeonAPIError

from rotator.sandbox import Sandbox


@pytest.fixture
def client(neon: Sandbox) -> Iterator[NeonAPI]:
    client = NeonAPI(neon.management_key, base_url=f"{neon.url}/")
    yield client
    client._session.close()


def test_neons_client_creates_lists_and_revokes_a_key(neon: Sandbox, client: NeonAPI) -> None:
    created = client.api_key_create(key_name="made-by-neons-client")
    assert created.name == "made-by-neons-client"
    assert neon.secret_of(created.id) == created.key

    newest, management = client.api_keys()
    assert (newest.id, newest.last_used_at, newest.last_used_from_addr) == (created.id, None, "")
    assert (management.id, management.last_used_from_addr) == (neon.management_key_id, "127.0.0.1")

    revoked = client.api_key_revoke(str(created.id))
    assert (revoked.id, revoked.revoked) == (created.id, True)
    assert [key.id for key in client.api_keys()] == [neon.management_key_id]
    assert not neon.use(created.key)


def test_neons_client_reads_the_user_and_a_project(client: NeonAPI) -> None:
    assert "@" in client.me().email
    assert client.project("sandbox-project").project.org_id == "org-sandbox"


def test_neons_client_reports_a_refused_key(neon: Sandbox) -> None:
    stranger = NeonAPI("napi_nobody", base_url=f"{neon.url}/")
    try:
        with pytest.raises(NeonAPIError, match="supplied credentials do not pass authentication"):
            stranger.api_keys()
    finally:
        stranger._session.close()
