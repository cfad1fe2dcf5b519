"""Commands where the service's secrets are not: in an operator's shell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from world import World

from rotator.errors import ConfigError, NeedsPerson
from rotator.fields import SecretRef

ONE_SINK = """
state: sqlite:///state.db
sinks:
  app: {type: file, path: app.key}
policies:
  ci: {rotate: {every: 30d}, deliver_to: [app]}
"""
HOOK = "  ops: {type: webhook, url: 'https://127.0.0.1:9/', signing_secret: {%s}}\npolicies:\n"
UNSET = "ROTATOR_TEST_SECRET_OF_THE_SERVICE"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """One key is live; then a receiver came to the configuration whose signing secret is not here."""
    small = World(tmp_path, ONE_SINK)
    small.settle()
    yield small
    small.close()


def signed_with(world: World, secret: str) -> None:
    file = world.folder / "config.yaml"
    file.write_text(file.read_text().replace("policies:\n", HOOK % secret))


@pytest.mark.fault(
    "People",
    "A variable that the service's secrets come from is not set in the operator's shell",
    "What reads the state or orders something works; what asks Neon or does the work ends with 2.",
)
def test_what_reads_the_state_or_orders_needs_no_secret(world: World, person_sees: Callable[[str], None]) -> None:
    signed_with(world, f"env: {UNSET}")
    (live,) = world.ours()
    for words in (["status"], ["history"], ["why", "ci"], ["why", str(live)], ["pause"], ["resume", "ci"]):
        assert world.command(*words).return_value == 0, words
    for words in (["check"], ["plan"], ["keys"], ["apply"], ["rotate", "ci"]):
        with pytest.raises(ConfigError) as refused:
            world.command(*words)
        assert "sinks.ops.signing_secret" in str(refused.value)
    assert world.ours() == [live]
    person_sees(str(refused.value))


def test_a_file_that_is_not_there_is_told_by_check_as_an_unset_variable_is(world: World) -> None:
    signed_with(world, "file: nope")
    with pytest.raises(ConfigError) as refused:
        world.command("check")
    (problem,) = refused.value.problems
    assert problem.path == "sinks.ops.signing_secret"
    assert problem.problem.startswith(f"file {world.folder / 'nope'} is not there; create it")
    (world.folder / "nope").write_text("whsec_")
    assert world.command("check").return_value == 0


def test_a_variable_that_is_not_set_when_it_is_needed_is_told_so() -> None:
    with pytest.raises(NeedsPerson, match=f"the environment variable {UNSET} is not set; set it"):
        SecretRef.model_validate({"env": UNSET}, context={"environ": None}).read()
