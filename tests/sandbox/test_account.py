"""The model, without HTTP: time is an argument."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from rotator.sandbox.account import FIRST_ID, LARGEST_STEP_BETWEEN_IDS, Accounts, Key, Refused, new_secret

T0 = datetime(2026, 11, 23, 4, 5, 50, 700_000, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ORG = "org-a"
PROJECT = "project-a"


@pytest.fixture
def accounts() -> Accounts:
    return Accounts({ORG: [PROJECT], "org-b": ["project-b"]}, T0)


def ids(accounts: Accounts, organization: str | None = None, as_of: datetime | None = None) -> list[int]:
    return [key.id for key in accounts.alive(organization, as_of)]


def refusal(error: pytest.ExceptionInfo[Refused]) -> tuple[int, str]:
    return error.value.status, error.value.message


def test_a_secret_looks_like_neons() -> None:
    assert re.fullmatch(r"napi_[a-z0-9]{64}", new_secret())
    assert new_secret() != new_secret()


def test_ids_grow_by_small_steps_from_where_neons_are(accounts: Accounts) -> None:
    made = [accounts.create(f"key-{number}", T0).id for number in range(50)]
    steps = [after - before for before, after in zip([FIRST_ID, *made], made, strict=False)]
    assert all(1 <= step <= LARGEST_STEP_BETWEEN_IDS for step in steps)


def test_the_newest_key_is_listed_first_and_other_accounts_keys_are_not_listed(accounts: Accounts) -> None:
    old, new = accounts.create("old", T0), accounts.create("new", T0)
    scoped = accounts.create("scoped", T0, organization=ORG, project=PROJECT)
    assert ids(accounts) == [new.id, old.id]
    assert ids(accounts, ORG) == [scoped.id]
    assert ids(accounts, "org-b") == []


def test_times_leave_in_whole_seconds_of_utc(accounts: Accounts) -> None:
    berlin = timezone(timedelta(hours=1))
    key = accounts.create("key", T0.astimezone(berlin))
    key.used(T0 + SECOND, "203.0.113.7")
    view = key.view()
    assert view.as_json()["created_at"] == "2026-11-23T04:05:50Z"
    assert view.as_json()["last_used_at"] == "2026-11-23T04:05:51Z"


def test_no_view_or_repr_of_a_key_shows_its_secret(accounts: Accounts) -> None:
    key = accounts.create("key", T0)
    assert key.secret not in repr(key) + repr(key.view()) + repr(key.view().as_json())


def test_a_revoked_key_leaves_the_list_and_no_longer_authenticates(accounts: Accounts) -> None:
    key = accounts.create("key", T0)
    assert accounts.authenticate(key.secret, "203.0.113.7", T0) is key
    accounts.revoke(key.id, T0, organization=None)
    assert ids(accounts) == []
    with pytest.raises(Refused) as error:
        accounts.authenticate(key.secret, "203.0.113.7", T0)
    assert refusal(error) == (401, "supplied credentials do not pass authentication")
    assert key.uses == 1


@pytest.mark.parametrize("secret", [None, "", "napi_wrong"], ids=["missing", "empty", "wrong"])
def test_what_is_no_key_is_refused(accounts: Accounts, secret: str | None) -> None:
    with pytest.raises(Refused) as error:
        accounts.authenticate(secret, "203.0.113.7", T0)
    assert error.value.status == 401


def test_revoking_twice_is_not_found(accounts: Accounts) -> None:
    key = accounts.create("key", T0)
    accounts.revoke(key.id, T0, organization=None)
    with pytest.raises(Refused) as error:
        accounts.revoke(key.id, T0, organization=None)
    assert refusal(error) == (404, "API key not found")


def test_a_key_is_not_found_in_another_account(accounts: Accounts) -> None:
    key = accounts.create("key", T0)
    with pytest.raises(Refused) as error:
        accounts.revoke(key.id, T0, organization=ORG)
    assert refusal(error) == (404, "API key not found")
    assert key.alive()


def test_a_name_is_unique_in_its_account_while_the_key_lives(accounts: Accounts) -> None:
    key = accounts.create("same", T0)
    accounts.create("same", T0, organization=ORG)
    with pytest.raises(Refused) as error:
        accounts.create("same", T0)
    assert refusal(error) == (409, "choose another unique name for api key")
    with pytest.raises(Refused):
        accounts.create("same", T0, organization=ORG, project=PROJECT)
    accounts.revoke(key.id, T0, organization=None)
    assert accounts.create("same", T0).id > key.id


@pytest.mark.parametrize(("name", "fits"), [("", False), ("x", True), ("ä" * 64, True), ("x" * 65, False)])
def test_a_name_has_1_to_64_characters(accounts: Accounts, name: str, fits: bool) -> None:
    if fits:
        assert accounts.create(name, T0).name == name
        return
    with pytest.raises(Refused) as error:
        accounts.create(name, T0)
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("organization", "project"),
    [("org-none", None), (ORG, "project-b"), (None, PROJECT)],
    ids=["unknown organization", "another organization's project", "a project without its organization"],
)
def test_a_key_needs_an_owner_that_exists(accounts: Accounts, organization: str | None, project: str | None) -> None:
    with pytest.raises(Refused) as error:
        accounts.create("key", T0, organization=organization, project=project)
    assert error.value.status == 404


def test_every_use_counts_and_the_last_is_remembered(accounts: Accounts) -> None:
    key = accounts.create("key", T0)
    assert (key.view().last_used_at, key.view().last_used_from_addr) == (None, "")
    for moment, address in [
        (T0, "203.0.113.7"),
        (T0, "203.0.113.7"),
        (T0 + SECOND, "198.51.100.1,192.0.2.2"),
    ]:
        accounts.authenticate(key.secret, address, moment)
    view = key.view()
    assert view.uses == 3
    assert view.last_used_at == (T0 + SECOND).replace(microsecond=0)
    assert view.last_used_from_addr == "198.51.100.1,192.0.2.2"


def test_an_earlier_moment_can_be_told(accounts: Accounts) -> None:
    key = accounts.create("first", T0)
    key.used(T0 + 1 * SECOND, "203.0.113.7")
    second = accounts.create("second", T0 + 2 * SECOND)
    key.used(T0 + 3 * SECOND, "203.0.113.8")
    accounts.revoke(key.id, T0 + 4 * SECOND, organization=None)

    assert ids(accounts, as_of=T0 - SECOND) == []
    assert ids(accounts, as_of=T0 + 1 * SECOND) == [key.id]
    assert ids(accounts, as_of=T0 + 3 * SECOND) == [second.id, key.id]
    assert ids(accounts, as_of=T0 + 4 * SECOND) == [second.id]
    assert key.view(usage_as_of=T0).last_used_at is None
    assert key.view(usage_as_of=T0 + 2 * SECOND).last_used_from_addr == "203.0.113.7"
    assert key.view(usage_as_of=T0 + 3 * SECOND).last_used_from_addr == "203.0.113.8"


def a_caller(accounts: Accounts, scope: str) -> Key:
    organization = None if scope == "personal" else ORG
    project = PROJECT if scope == "project" else None
    return accounts.create("caller", T0, organization=organization, project=project)


ALLOWED = "allowed"
NOT_ALLOWED = "404 not allowed for organization API keys"
OUTSIDE = (
    f'404 not allowed to perform actions outside the project this key is scoped to; subject_project_id:"{PROJECT}"'
)
UNKNOWN = "404 organization not found"


@pytest.mark.parametrize(
    ("scope", "personal", "own", "own_to_create", "other"),
    [
        ("personal", ALLOWED, ALLOWED, ALLOWED, ALLOWED),
        ("organization", NOT_ALLOWED, ALLOWED, NOT_ALLOWED, UNKNOWN),
        ("project", NOT_ALLOWED, OUTSIDE, OUTSIDE, OUTSIDE),
    ],
)
def test_who_may_do_what(
    accounts: Accounts, scope: str, personal: str, own: str, own_to_create: str, other: str
) -> None:
    caller = a_caller(accounts, scope)

    def outcome(organization: str | None, to_create: bool = False) -> str:
        try:
            if organization is None:
                accounts.permit_personal(caller)
            else:
                accounts.permit_organization(caller, organization, to_create=to_create)
        except Refused as error:
            return f"{error.status} {error.message}"
        return ALLOWED

    assert [outcome(None), outcome(ORG), outcome(ORG, True), outcome("org-b")] == [
        personal,
        own,
        own_to_create,
        other,
    ]
    if scope == "personal":
        assert outcome("org-none") == UNKNOWN


def test_two_keys_cannot_have_the_same_secret(accounts: Accounts) -> None:
    secret = new_secret()
    accounts.create("one", T0, secret=secret)
    with pytest.raises(ValueError, match="every key needs its own") as error:
        accounts.create("two", T0, secret=secret)
    assert secret not in str(error.value)
