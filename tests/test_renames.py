"""A policy is renamed, and the service has not loaded that yet: the commands use the record that it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World

from rotator import renames, transitions
from rotator.model import Record
from rotator.ports import Transition

BEFORE = """
state: sqlite:///state.db
sinks:
  app: {type: file, path: app.key}
policies:
  ci: {rotate: {every: 30d}, deliver_to: [app]}
"""
AFTER = BEFORE.replace("  ci: {", "  other: {renamed_from: ci, ")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """One key is live, and the file has the new name, which the service has not loaded."""
    small = World(tmp_path, BEFORE)
    small.settle()
    small.text = AFTER
    small.load()
    yield small
    small.close()


def load_again(world: World) -> None:
    world.configure(AFTER)
    world.settle()


def test_plan_says_what_the_service_will_do(world: World) -> None:
    planned = json.loads(world.command("plan", "--json", "--until", "40d").stdout)
    assert (planned[0]["policy"], planned[0]["step"]) == ("other", "mint")
    assert "is due at 2026-12-23" in planned[0]["why"]


def test_status_and_why_tell_of_the_key_that_it_has(world: World) -> None:
    (live,) = world.ours()
    document = json.loads(world.command("status", "--json").stdout)
    (policy,) = document["policies"]
    assert (policy["policy"], policy["state"], policy["live"]["id"]) == ("other", "ok", live)
    assert policy["next"]["step"] == "mint"
    for what in ("other", str(live)):
        assert f"(id {live}, generation 1)" in world.command("why", what).stdout
    (key,) = [key for key in json.loads(world.command("keys", "--json").stdout) if key["id"] == live]
    assert (key["policy"], key["role"]) == ("other", "live")


@pytest.mark.parametrize("loaded", [False, True], ids=["not loaded yet", "loaded, before its turn"])
def test_a_pause_and_its_end_hold_over_the_rename(world: World, loaded: bool) -> None:
    if loaded:
        world.configure(AFTER)
    assert world.command("pause", "other").stdout == "paused: other\n"
    assert world.record("ci").paused
    assert world.command("resume", "other").return_value == 0
    assert not world.record("ci").paused
    load_again(world)
    assert not world.record("other").paused

    assert world.command("pause", "other").return_value == 0
    world.push(days=40)
    world.settle()
    assert world.status("other")["state"] == "paused"
    assert len(world.ours()) == 1


def test_a_pause_that_the_new_name_was_given_before_ends_too(world: World) -> None:
    world.store.change("other", world.clock.now(), lambda record: transitions.pause(record, True))
    world.command("resume", "other")
    load_again(world)
    assert not world.record("other").paused


def test_a_pause_meets_a_rename_that_comes_between_look_and_change(world: World) -> None:
    former = renames.Former(other=("ci",))
    changes: dict[str, Transition] = renames.changing(
        "other", former, world.store.records(), lambda record: transitions.pause(record, True)
    )
    load_again(world)
    world.store.change_many(world.clock.now(), changes)
    assert world.record("other").paused
    assert "ci" not in world.store.records()


def test_a_policy_that_has_had_keys_of_its_own_takes_over_no_other(world: World) -> None:
    ci = world.record("ci")
    other = Record(policy="other", next_generation=2)
    former, records = renames.Former(other=("ci",)), {"ci": ci, "other": other}
    assert renames.pending(former, records) == {}
    assert list(renames.changing("other", former, records, lambda record: None)) == ["other"]
