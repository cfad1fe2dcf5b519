"""Configurations for tests, with the place of a fault marked by ▶ in the text itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent, indent
from typing import NamedTuple

import pytest

from rotator.config import Config, load
from rotator.errors import ConfigError, ConfigProblem

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"
EXAMPLE_ENVIRON = {"CI_HOOK_SECRET": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}
ENVIRON = {"HOOK": "whsec_c2VjcmV0"}
SINKS = """
    app: {type: file, path: app.key}
    env: {type: file, path: app.env, format: dotenv, variable: KEY}
    hook: {type: webhook, url: "https://ci.example.com/x", signing_secret: {env: HOOK}}
    run: {type: command, run: [vault, put]}
"""


class Row(NamedTuple):
    """A situation: a text with the fault's place marked, the path it is reported at, words that are said."""

    id: str
    text: str
    path: str
    says: tuple[str, ...]


def a_config(
    *,
    neon: str = "api_key: {file: admin.key}",
    sinks: str = "",
    policies: str | None = None,
    policy: str = "",
    rotate: str = "rotate: {every: 30d}",
    deliver_to: str = "deliver_to: [app]",
    more: str = "",
) -> str:
    """The text of a configuration that is right but for what is given.

    `sinks` come after those that are there already; `policy` are keys of the one policy, `a`.
    """
    if policies is None:
        body = "\n".join(filter(None, (rotate, deliver_to, _plain(policy))))
        policies = "a:\n" + indent(body, "  ")
    parts = {"neon": _plain(neon), "sinks": _plain(_plain(SINKS) + "\n" + _plain(sinks)), "policies": _plain(policies)}
    return "".join(f"{key}:\n{indent(part, '  ')}\n" for key, part in parts.items()) + _plain(more) + "\n"


def _plain(text: str) -> str:
    return dedent(text).strip("\n")


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.replace("▶", "").encode())
    return file


def loaded(folder: Path, text: str, environ: Mapping[str, str] = ENVIRON) -> Config:
    return load(write(folder, text), environ)


def faults(folder: Path, text: str | bytes, environ: Mapping[str, str] = ENVIRON) -> tuple[ConfigProblem, ...]:
    """The faults of a configuration that has some."""
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), environ)
    return caught.value.problems


def marked(text: str) -> list[tuple[int, int]]:
    """The places that are marked, 1-based, in the order of the text."""
    return [
        (number, column - earlier + 1)
        for number, line in enumerate(text.split("\n"), start=1)
        for earlier, column in enumerate(position for position, character in enumerate(line) if character == "▶")
    ]


def assert_told(row: Row, folder: Path) -> None:
    """The row's fault is reported: alone, at its place, in these words, and without any secret."""
    (problem,) = faults(folder, row.text)
    assert problem.path == row.path
    assert [(problem.line, problem.column)] == marked(row.text)
    for words in row.says:
        assert words in problem.problem
    assert ";" in problem.problem or "did you mean" in problem.problem
    assert "hunter2" not in str(problem)
