"""The schema for editors, and the example: that they are whole, and agree with each other and with `load`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from config_builders import EXAMPLE

from rotator.config import json_schema
from rotator.sinks import BUILT_IN

SCHEMA = json_schema()


def _keys(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key that a schema names, with what it says of it. Names that a user chooses are `*`."""
    if "$ref" in schema:
        schema = {**SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], **schema}
    for key, inner in schema.get("properties", {}).items():
        yield f"{path}.{key}", inner
        yield from _keys(inner, f"{path}.{key}")
    for inner in (schema.get("additionalProperties"), schema.get("items")):
        if isinstance(inner, dict):
            yield from _keys(inner, f"{path}.*")
    for branch in (*schema.get("anyOf", []), *schema.get("oneOf", [])):
        yield from _keys(branch, path)


def _used(value: object, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            for name in (key, "*"):
                yield f"{path}.{name}"
                yield from _used(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _used(inner, f"{path}.*")


def test_the_example_shows_every_key() -> None:
    used = {path.replace(".signing_secret.*", ".signing_secret") for path in _used(yaml.safe_load(EXAMPLE.read_text()))}
    keys = {path.replace(".signing_secret.*", ".signing_secret") for path, _ in _keys(SCHEMA)}
    ways_to_refer_to_a_secret = {path for path in keys if path.rpartition(".")[2] in ("env", "file", "credential")}
    assert len(keys) > 50
    assert keys - ways_to_refer_to_a_secret <= used
    assert {path.rpartition(".")[2] for path in ways_to_refer_to_a_secret & used} == {"env", "file", "credential"}


def test_every_key_is_described_in_a_sentence() -> None:
    for path, schema in _keys(SCHEMA):
        target = SCHEMA["$defs"].get(schema.get("$ref", "").rpartition("/")[2], {})
        description = schema.get("description", target.get("description", ""))
        assert description.endswith("."), path
        assert "\n" not in description, path


def test_every_line_of_the_example_that_sets_something_optional_says_why() -> None:
    text = EXAMPLE.read_text()
    assert text.startswith("# yaml-language-server: $schema=./rotator.schema.json\n")
    for word in ("default", "optional"):
        assert text.count(word) > 5


def test_the_schema_is_one_and_takes_the_example(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    (tmp_path / "rotator.schema.json").write_text(json.dumps(SCHEMA))
    subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--schemafile", tmp_path / "rotator.schema.json", EXAMPLE],
        check=True,
        capture_output=True,
    )


def test_the_schema_names_the_types_of_sinks_that_there_are() -> None:
    mapping = SCHEMA["properties"]["sinks"]["additionalProperties"]["discriminator"]["mapping"]
    assert set(mapping) >= set(BUILT_IN)


def test_the_schema_shows_defaults_as_they_would_be_written() -> None:
    found = {path: schema["default"] for path, schema in _keys(SCHEMA) if "default" in schema}
    assert found[".policies.*.grace_period"] == "1d"
    assert found[".policies.*.hold.while_old_key_used_within"] == "auto"
    assert found[".neon.poll_every"] == "5m"
    assert "PT" not in json.dumps(SCHEMA)


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "blue"},
        {"neon": {"api_key": {"file": "k"}, "colour": "blue"}},
        {"neon": {"api_key": "napi_x"}},
        {"neon": {"api_key": {}}},
        {"neon": {"api_key": {"file": "k", "env": "K"}}},
        {"sinks": {"x": {"type": "file", "path": "p", "colour": "blue"}}},
        {"sinks": {"x": {"path": "p"}}},
        {"sinks": {"x": {"type": "paper"}}},
        {"sinks": {"x_y": {"type": "file", "path": "p"}}},
        {"policies": {"x": {"rotate": {"every": "30d"}, "deliver_to": ["a"], "colour": "blue"}}},
        {"policies": {"x": {"rotate": {"every": 30}, "deliver_to": ["a"]}}},
        {"policies": {"x": {"rotate": {"every": "1d", "cron": "0 3 * * 1"}, "deliver_to": ["a"]}}},
        {"policies": {"X": {"rotate": {"every": "30d"}, "deliver_to": ["a"]}}},
        {"policies": {"x": {"deliver_to": ["a"]}}},
        {"listen": 9464},
        {"state": "mysql://host"},
    ],
    ids=json.dumps,
)
def test_the_schema_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(EXAMPLE.read_text()), **change}, SCHEMA)
