"""Whatever is in the configuration: a Config that can be worked with, or its faults with their places.

`ROTATOR_EXAMPLES` sets how many are tried of each kind: ROTATOR_EXAMPLES=5000 python -m pytest tests/test_bad_config.py
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from datetime import timedelta
from pathlib import Path

import jsonschema
import yaml
from builders import NOW, seen
from config_builders import EXAMPLE, EXAMPLE_ENVIRON, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_json import TEXTS, Raw, editable, mutated, written

from rotator.assembly import assemble
from rotator.config import Config, json_schema, load
from rotator.errors import ConfigError, RotatorError
from rotator.foresee import foresee
from rotator.model import KeyList, Record

EXAMPLES = int(os.environ.get("ROTATOR_EXAMPLES", "100"))
SCHEMA = jsonschema.Draft202012Validator(json_schema())
SECRET = "napi_" + secrets.token_hex(32)  # planted wherever a value or a key may be
SIGNING = "whsec_" + secrets.token_hex(24)
# Everything inside one folder, so that what is loaded can also be put together.
TEXT = re.sub(r"/(etc/myapp|run/secrets|var/lib/rotator)/", "", EXAMPLE.read_text()).replace(
    "sqlite:///", "sqlite:///", 1
)

RAW = [
    *("", "~", "0", "-1", "0640", "22:22", "1:1:1", "no", "2026-01-01", "&a x", "*a", "!!str x", ".inf", ".nan", "1.5"),
    *(
        "[]",
        "{}",
        "[[]]",
        "9" * 25,
        "1e400",
        "0x10",
        "0b1",
        "1_000",
        "!!python/name:os.system ''",
        "|\n  x",
        "- x",
    ),
    *(
        "? x",
        "'",
        '"',
        "\t",
        "@x",
        "%x",
        "\u0663d",
        "[" * 40,
        "{a: 1, a: 2}",
        "{[x]: y}",
        "2026-11-23T04:05:50Z",
        "\x85",
    ),
]
WORDS = [
    *(
        "a/b",
        "neon-admin-key",
        "config.yaml",
        "neon.env",
        "~",
        "..",
        "x" * 300,
        "p/" * 3000,
        "app",
        "ci",
        "vault",
        SECRET,
    ),
    *("-1d", "0s", "1s", "99999d", "10000000000d", "1d12h", "\u0661d", "1.5h", "* * * * *", "0 0 30 2 *", "0 0 29 2 *"),
    *(
        "*/0 * * * *",
        "60 * * * *",
        "0 0 L * *",
        "0 3 * * 1#6",
        "@daily",
        "file",
        "webhook",
        "personal",
        "\0",
        "a\nb",
        SIGNING,
    ),
    *("Europe/Berlin", "Europe", "../../etc/passwd", "mon-sun", "sun-mon", "mon,mon", "fri-", "24:00", "00:00", "9:5"),
    *("https://x", "http://127.0.0.1:1/x", "http://[::1", "https://x:99999", "https://u:p@x", "ftp://x", "0.0.0.0:0"),
    *(
        "[::1]:1",
        ":1",
        "sqlite:///x.db",
        "sqlite://",
        "postgresql://u:p@h/d",
        "postgresql://h/d",
        "0777",
        "0000",
        "0600",
    ),
]
KEYS = [
    *("env", "file", "credential", "every", "cron", "timezone", "type", "path", "format", "variable", "mode", "owner"),
    *(
        "url",
        "signing_secret",
        "receipt",
        "timeout",
        "run",
        "after_write",
        "scope",
        "adopt",
        "rotate",
        "jitter",
        "window",
    ),
    *("grace_period", "deliver_to", "hold", "at_most", "then", "management_key", "paused", "renamed_from", "state"),
    *("listen", "notify", "<<", SECRET, "organization", "project"),
]
values = st.one_of(
    st.sampled_from(RAW).map(Raw),
    st.sampled_from(WORDS),
    st.sampled_from(TEXTS),
    st.sampled_from([None, True, False, 0, 1.0, 10**30]),
    st.text(max_size=9),
    st.integers(),
    st.lists(st.sampled_from(WORDS), max_size=2).map(tuple),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(WORDS), max_size=2).map(lambda found: list(found.items())),
)


def outcome(file: Path) -> Config | ConfigError:
    """The configuration or its faults, each of which says where it is, within the file, and repeats no secret."""
    try:
        return load(file, EXAMPLE_ENVIRON)
    except ConfigError as caught:
        error = caught
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", file.read_bytes().decode("utf-8-sig", "replace"))
    assert error.problems
    places = [(problem.line, problem.column) for problem in error.problems]
    assert places == sorted(places)
    for problem in error.problems:
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert str(problem).isprintable()
        assert str(problem).startswith(f"{file}:{problem.line}:{problem.column}: ")
        assert ";" in problem.problem or problem.problem.endswith("?")  # what is wrong; what to do
        assert len(problem.problem) < 1000
    assert SECRET[5:] not in str(error)
    assert SIGNING[6:] not in str(error)
    return error


def works(config: Config) -> None:
    """What is loaded can be put together, and be planned with."""
    keys = KeyList("personal", NOW, {})
    for policy in config.policies.values():
        account = policy.scope.account
        look = seen(accounts=(account,))
        assert keys.keys == look.lists[account].keys
        foresee(policy, Record(policy=policy.name), look, NOW, NOW + timedelta(days=40))
    try:
        assemble(config, threading.Event(), tell=lambda _: None).close()
    except RotatorError as refused:
        said = str(refused)
    else:
        return
    assert "state" in said


quick = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(data=st.data())
def test_any_change_of_the_example_is_a_configuration_or_its_faults(data: st.DataObject, tmp_path: Path) -> None:
    value = editable(yaml.safe_load(TEXT))
    for _ in range(data.draw(st.integers(1, 3))):
        value = data.draw(mutated(value, values, KEYS))
    text = written(value)
    found = outcome(write(tmp_path, text))
    if isinstance(found, Config):
        works(found)
        # What is loaded, an editor takes.
        assert list(SCHEMA.iter_errors(plain(text))) == []
        return
    assert_the_schema_knows_the_types(text, found)


def assert_the_schema_knows_the_types(text: str, error: ConfigError) -> None:
    """What is refused for its type, or for a key that is unknown or missing, an editor refuses too."""
    told = [problem.problem for problem in error.problems]
    refused = [
        problem
        for problem in told
        if re.match("this is|unknown key|missing;", problem)
        and problem != "this is a number; expected a whole number"  # for JSON 1.0 is one
    ]
    if refused and not any(re.search("not taken|repeated|not a word|in YAML|not YAML", problem) for problem in told):
        assert list(SCHEMA.iter_errors(plain(text))), refused


def plain(text: str) -> object:
    """The data as another reader sees it."""
    return yaml.load(text, Loader=yaml.CSafeLoader)


PIECES = [
    *(
        "\t",
        "\r\n",
        "\r",
        "\n",
        " ",
        "  ",
        "\0",
        "\ufeff",
        "\u2028",
        "\x85",
        "\x1b",
        "\ud800",
        "- ",
        ": ",
        "#",
        "'",
        '"',
    ),
    *(
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "!x ",
        "---\n",
        "...\n",
        "? ",
        "|\n",
        "%YAML 9.9\n",
        "@",
        "`",
        SECRET,
        "ä",
        "\U0001f511",
    ),
]


@quick
@given(data=st.data())
def test_any_damage_to_the_text_is_a_configuration_or_its_faults(data: st.DataObject, tmp_path: Path) -> None:
    text = TEXT
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        lines = text.splitlines(keepends=True) or [""]
        line = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["put", "cut", "drop", "twice", "swap", "indent", "crlf", "cr", "bom", "end"])):
            case "put":
                text = text[:at] + data.draw(st.sampled_from(PIECES) | st.text(max_size=3)) + text[at:]
            case "cut":
                text = text[:at] + text[at + data.draw(st.integers(1, 30)) :]
            case "drop":
                text = "".join([*lines[:line], *lines[line + 1 :]])
            case "twice":
                text = "".join([*lines[:line], lines[line], *lines[line:]])
            case "swap":
                text = "".join([*lines[line:], *lines[:line]])
            case "indent":
                text = "".join([*lines[:line], data.draw(st.sampled_from([" ", "  ", "\t"])), *lines[line:]])
            case "crlf":
                text = text.replace("\n", "\r\n")
            case "cr":
                text = text.replace("\r", "").replace("\n", "\r")
            case "bom":
                text = "\ufeff" + text
            case "end":
                text = text[:at]
    content = text.encode("utf-8", "surrogatepass")
    if data.draw(st.integers(0, 4)) == 0:
        at = data.draw(st.integers(0, len(content)))
        content = content[:at] + data.draw(st.binary(min_size=1, max_size=3)) + content[at:]
    if data.draw(st.integers(0, 20)) == 0:
        content = text.encode(data.draw(st.sampled_from(["utf-16", "utf-32", "utf-7"])), "replace")
    outcome(write(tmp_path, content))
