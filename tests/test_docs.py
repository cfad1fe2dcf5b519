"""What the documentation says is true."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import requests

from rotator.cli import COMMANDS, cli
from rotator.config import json_schema, load
from rotator.sandbox import Sandbox
from rotator.sandbox.faults import FORMS
from rotator.status import PolicyState

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r"(?m)^ {3}", "", block) if block.startswith("   ") else block for block in found]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    assert f"`rotator {name}" in README


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_of_a_command_how_its_own_help_begins(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert " ".join((command.help or "").split()).startswith(COMMANDS[name][1].rstrip("."))


def test_the_help_that_is_shown_is_the_real_one() -> None:
    shown = README.split("$ rotator --help\n")[1].split("```")[0]
    real = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'rotator'; from rotator.cli import main; main()", "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown == real.stdout


def keys_of(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    for name, value in schema.get("properties", {}).items():
        yield name
        yield from keys_of(value, definitions)
    for value in definitions.values():
        yield from keys_of({"properties": value.get("properties", {})}, {})


def test_every_key_of_the_configuration_is_in_its_reference_and_in_the_example() -> None:
    schema = json_schema()
    reference = (ROOT / "docs" / "configuration.md").read_text()
    example = (ROOT / "config.example.yaml").read_text()
    for key in set(keys_of(schema, schema["$defs"])):
        assert re.search(rf"[`.{{ ]{key}[`:.]|## {key}|, {key}\\b", reference), key
        assert re.search(rf"\b{key}:", example), key


def test_the_configuration_in_the_readme_is_sound(tmp_path: Path) -> None:
    (text,) = blocks(README, "yaml")
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert list(load(file).policies) == ["myapp"]


def test_the_policy_of_the_management_key_is_sound(tmp_path: Path) -> None:
    (text,) = blocks((ROOT / "docs" / "operating.md").read_text(), "yaml")
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert load(file).policies["management"].management_key


@pytest.fixture
def rehearsal() -> Iterator[Sandbox]:
    with Sandbox(keys=("napi_rehearsal",)) as neon:
        yield neon


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_the_rehearsal_works_as_it_is_shown_from_top_to_bottom(
    rehearsal: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    base = rehearsal.url.removesuffix("/api/v2")
    section = README.split("## Rehearse\n")[1].split("\n## ")[0]
    shown = re.findall(r"^```(sh|python)\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    assert [language for language, _ in shown] == ["sh", "python", "sh"]
    for language, text in shown:
        here = text.replace("http://127.0.0.1:8788", base)
        if language == "python":
            exec(compile(here, "README.md", "exec"), {})
            continue
        for command in here.splitlines():
            if command.startswith("rotator sandbox "):  # the one that is here has the same key
                assert command.endswith("--key napi_rehearsal &")
            else:
                assert command.startswith("curl ")
                quiet = command.replace("curl", "curl --silent --fail", 1)
                subprocess.run(["sh", "-c", quiet], check=True, capture_output=True)
    assert capsys.readouterr().out == "by hand\n"
    assert requests.get(f"{base}/_sandbox/faults", timeout=10).json()[0]["fault"] == "lost_answer"


def test_the_two_commands_of_the_readme_are_what_all_checks_run() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for mark, word in (("demo", "rotator demo"), ("tests", "pytest")):
        block = README.split(f"<!-- {mark} -->\n")[1].split("```\n")[0]
        (command,) = block.removeprefix("```sh\n").splitlines()
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")
        assert word in command
        assert f"<!-- {mark} -->" in script


def test_every_fault_of_the_sandbox_is_described() -> None:
    page = (ROOT / "docs" / "sandbox.md").read_text()
    for name in FORMS:
        assert f"`{name}`" in page, name


def test_every_state_of_a_policy_is_explained() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    table = page.split("| state | what it means |\n")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == [state.value for state in PolicyState]


def metrics(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names of the metrics that are made there, as they are read, with their labels."""
    known = {"policy": ("policy",)}
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not ast.unparse(call.func).endswith("MetricFamily"):
            continue
        labels = next((word.value for word in call.keywords if word.arg == "labels"), ast.List([]))
        named = known[labels.id] if isinstance(labels, ast.Name) else tuple(ast.literal_eval(labels))
        yield ast.literal_eval(call.args[0]) + "_total" * ("Counter" in ast.unparse(call.func)), named


def test_the_metrics_that_are_described_are_those_that_there_are() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    table = page.split("| metric | labels | says |\n")[1].split("\n\n")[0]
    described = re.findall(r"^\| `(\w+)` \| (.*?) \|", table, flags=re.MULTILINE)
    made = list(metrics(ast.parse((ROOT / "rotator" / "web.py").read_text())))
    assert len(made) > 8
    assert sorted(described) == sorted((name, ", ".join(f"`{label}`" for label in labels)) for name, labels in made)


def told_to_notify(tree: ast.AST) -> Iterator[str]:
    """The names of events in calls that say `notify=True`."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and any(
            word.arg == "notify" and ast.unparse(word.value) != "False" for word in call.keywords
        ):
            for node in ast.walk(call):
                if isinstance(node, ast.Constant) and re.fullmatch(r"[a-z_]+\.[a-z_]+", str(node.value)):
                    yield str(node.value)


def test_the_events_that_are_described_are_those_that_are_sent() -> None:
    page = (ROOT / "docs" / "sinks.md").read_text()
    described = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", page.split("Their types are")[1].split("They are kept")[0]))
    sources = {path: path.read_text() for path in (ROOT / "rotator").rglob("*.py") if "sandbox" not in path.parts}
    sent = {name for text in sources.values() for name in told_to_notify(ast.parse(text))}
    assert sent <= described
    assert all(any(f'"{name}"' in text for text in sources.values()) for name in described)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
