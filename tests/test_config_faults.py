"""Each class of fault: where it is said to be, what is said about it, and that it is said once."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_builders import SINKS, Row, a_config, assert_told, faults, marked, write

from rotator.config import load
from rotator.errors import ConfigError

SYNTAX = [
    Row("unquoted cron", "cron: ▶* * * * *", "", ("begins with *", "in quotes")),
    Row("unquoted cron with a step", "cron: ▶*/5 * * * *", "", ("begins with *", "in quotes")),
    Row("unquoted @daily", "cron: ▶@daily", "", ("cannot begin with @", "in quotes")),
    Row("tab", "neon:\n▶\tapi_key: x", "", ("tab", "spaces")),
    Row("quote left open", 'a: ▶"x\nb: y', "", ("never closed",)),
    Row("two colons", "a: b▶: c", "", ("in quotes",)),
    Row("indentation", "a:\n  b: 1\n ▶c: 2", "", ("line up", "align")),
    Row("bracket left open", "a: [1\n▶", "", ("not YAML", "correct")),
    Row("bracket left open at the very end", "a: [1▶", "", ("not YAML", "correct")),
    Row("second document", "a: 1\n▶---\nb: 2", "", ("second document", "without ---")),
    Row("control character", "a: ▶\a", "", ("U+0007", "remove")),
    Row("nested too deep", "[" * 32 + "▶" + "[" * 100_000, "", ("32 levels",)),
    Row(
        "a million keys",
        "a:\n" * 99_999 + "a:▶\n" + "a:\n" * 400_000,
        "",
        ("more than 200000 keys", "expected a configuration"),
    ),
    Row("list at the top", "▶- neon", "", ("not a mapping", "neon, sinks and policies")),
    Row("word at the top", "▶neon", "", ("not a mapping",)),
    Row("empty", "▶", "", ("empty", "neon, sinks and policies")),
    Row("only comments", "▶# nothing", "", ("empty",)),
]

YAML = [
    Row(
        "anchor", a_config(policy="grace_period: ▶&grace 24h"), "policies.a.grace_period", ("anchor", "write the value")
    ),
    Row("alias", a_config(policy="adopt: ▶*id"), "policies.a.adopt", ("alias", "write the value")),
    Row("merge", a_config(policy="▶<<: {paused: true}"), "policies.a.<<", ("merge key", "write the keys")),
    Row("merge instead of keys", a_config(policies="a:\n  ▶<<: {paused: true}"), "policies.a.<<", ("merge key",)),
    Row("tag", a_config(policy='adopt: ▶!!python/name:os.system ""'), "policies.a.adopt", ("tag", "plain value")),
    Row("list as a key", a_config(policy="▶[x]: y"), "policies.a", ("key that is not a word",)),
    Row(
        "repeated key",
        a_config(policy="▶deliver_to: [app]"),
        "policies.a.deliver_to",
        ("repeated", "line 11", "keep one"),
    ),
    Row(
        "repeated policy",
        a_config(policies="a: {rotate: {every: 9d}, deliver_to: [app]}\n▶a: {rotate: {every: 1s}}"),
        "policies.a",
        ("repeated", "line 9"),
    ),
    Row(
        "mode without quotes",
        a_config(sinks="x: {type: file, path: x, mode: ▶0640}"),
        "sinks.x.mode",
        ("0640 without quotes is the number 416", "put it in quotes", '"0640"'),
    ),
    Row(
        "time without quotes",
        a_config(policy='window: {from: ▶22:22, to: "23:00"}'),
        "policies.a.window.from",
        ("22:22 without quotes is the number 1342", "put it in quotes"),
    ),
    Row(
        "no",
        a_config(deliver_to="deliver_to: [▶no]"),
        "policies.a.deliver_to[0]",
        ("no without quotes is false", "quotes"),
    ),
    Row(
        "on",
        a_config(policy="hold: {then: ▶on}"),
        "policies.a.hold.then",
        ("on without quotes is true", "'keep' or 'revoke'"),
    ),
    Row(
        "date",
        a_config(policy="renamed_from: ▶2026-01-01"),
        "policies.a.renamed_from",
        ("is a date", "put it in quotes"),
    ),
    Row("octal id", a_config(policy="adopt: ▶0123"), "policies.a.adopt", ("the number 83", "plain number")),
    Row(
        "endless number to the base of 60",
        a_config(policy=f"adopt: ▶1{':1' * 500_000}"),
        "policies.a.adopt",
        ("a number", "plain number"),
    ),
    Row("endless number", a_config(policy=f"adopt: ▶{'9' * 5000}"), "policies.a.adopt", ("a number", "plain number")),
]

KEYS = [
    Row("unknown at the top", a_config(more="▶polices: {}"), "polices", ("unknown key", "did you mean policies?")),
    Row("unknown in a policy", a_config(policy="▶grace: 1h"), "policies.a.grace", ("unknown key", "grace_period")),
    Row(
        "unknown in hold",
        a_config(policy="hold: {▶at_mots: 1h}"),
        "policies.a.hold.at_mots",
        ("did you mean at_most?",),
    ),
    Row("unknown in rotate", a_config(rotate="rotate: {every: 9d, ▶crn: x}"), "policies.a.rotate.crn", ("mean cron?",)),
    Row(
        "unknown in a sink", a_config(sinks="x: {type: file, path: x, ▶pat: y}"), "sinks.x.pat", ("did you mean path?",)
    ),
    Row("unknown and unlike", a_config(more="▶zzz: 1"), "zzz", ("expected one of listen, neon, notify",)),
    Row(
        "days without quotes",
        a_config(policy='window: {days: mon,▶wed, from: "1:00", to: "2:00"}'),
        "policies.a.window.wed",
        ('days: "mon,wed"',),
    ),
    Row("no api_key", a_config(neon="▶{}").replace("neon:\n  ", "neon: "), "neon.api_key", ("missing", "{file: ")),
    Row("no rotate", a_config(policies="▶a:\n  deliver_to: [app]"), "policies.a.rotate", ("missing", "{every: 30d}")),
    Row(
        "no deliver_to", a_config(deliver_to="").replace("  a:", "  ▶a:"), "policies.a.deliver_to", ("missing", "[app]")
    ),
    Row("no type", a_config(sinks="x: ▶{path: x}"), "sinks.x.type", ("missing", "command, file, webhook")),
    Row("no path", a_config(sinks="x: ▶{type: file}"), "sinks.x.path", ("missing", "add path")),
    Row(
        "no policies",
        f"▶neon: {{api_key: {{file: k}}}}\nsinks: {{{SINKS.splitlines()[1].strip()}}}",
        "policies",
        ("missing",),
    ),
]

TYPES = [
    Row(
        "text for a list", a_config(deliver_to="deliver_to: ▶app"), "policies.a.deliver_to", ("text", "expected a list")
    ),
    Row("number for a list", a_config(more="notify: ▶5"), "notify", ("a number", "expected a list")),
    Row("list for a mapping", a_config(more="unused_keys: ▶[]"), "unused_keys", ("a list", "expected a mapping")),
    Row("nothing for a mapping", a_config(policies="a:▶"), "policies.a", ("nothing is given", "expected a mapping")),
    Row("sink that is a word", a_config(sinks="x: ▶y"), "sinks.x", ("not a mapping", "type")),
    Row(
        "quoted boolean",
        a_config(policy='paused: ▶"true"'),
        "policies.a.paused",
        ("text", "true or false, without quotes"),
    ),
    Row("quoted number", a_config(policy='adopt: ▶"12"'), "policies.a.adopt", ("text", "whole number, without quotes")),
    Row(
        "number for text", a_config(policy="scope: {organization: ▶5}"), "policies.a.scope.organization", ("in quotes",)
    ),
    Row("number for a duration", a_config(policy="jitter: ▶5"), "policies.a.jitter", ("a number", "such as 90s")),
    Row("duration in words", a_config(policy="jitter: ▶1 day"), "policies.a.jitter", ("not understood", "such as 90s")),
    Row("negative duration", a_config(policy="hold: {at_most: ▶-1d}"), "policies.a.hold.at_most", ("such as 90s",)),
    Row("no time at all", a_config(rotate="rotate: {every: ▶0s}"), "policies.a.rotate.every", ("longer than 0s",)),
    Row("never polled", a_config(neon="api_key: {file: k}\npoll_every: ▶0s"), "neon.poll_every", ("longer than 0s",)),
    Row("one of three words", a_config(policy="on_missing: ▶wait"), "policies.a.on_missing", ("'alert' or 'replace'",)),
    Row("id below one", a_config(policy="adopt: ▶0"), "policies.a.adopt", ("out of range", "at least 1")),
    Row("id that is no number", a_config(policy="adopt: ▶true"), "policies.a.adopt", ("expected a whole number",)),
    Row(
        "empty name to ignore",
        a_config(more='unused_keys: {ignore: [▶""]}'),
        "unused_keys.ignore[0]",
        ("at least one",),
    ),
    Row("type of sink", a_config(sinks="x: {type: ▶webhok}"), "sinks.x.type", ("no sink is of this type", "webhook?")),
    Row(
        "type that is a list",
        a_config(sinks="x: {type: ▶[]}"),
        "sinks.x.type",
        ("not a word", "command, file, webhook"),
    ),
    Row(
        "name of a policy",
        a_config(policies="▶A_b: {rotate: {every: 9d}, deliver_to: [app]}"),
        "policies.A_b",
        ("a-z, 0-9 and -",),
    ),
    Row("name of a sink", a_config(sinks="▶x_y: {type: file, path: x}"), "sinks.x_y", ("a-z, 0-9 and -",)),
    Row("long name", a_config(sinks=f"▶{'x' * 41}: {{type: file, path: x}}"), "sinks.…", ("1 to 40",)),
]

NEON_AND_STATE = [
    *(
        Row(f"requests {number}", a_config(neon=f"api_key: {{file: k}}\nrequests_per_minute: ▶{number}"), path, says)
        for number, path, says in (
            (0, "neon.requests_per_minute", ("out of range", "at least 1")),
            (701, "neon.requests_per_minute", ("out of range", "at most 700")),
        )
    ),
    *(
        Row(f"api_url {url}", a_config(neon=f'api_key: {{file: k}}\napi_url: ▶"{url}"'), "neon.api_url", (says,))
        for url, says in (
            ("http://console.neon.tech/api/v2", "expected https"),
            ("ftp://console.neon.tech", "expected an https URL"),
            ("https://user:hunter2@console.neon.tech", "without a user"),
            ("https://console.neon.tech/?a=b", "without a user, a query"),
            ("https://console.neon.tech:99999", "expected an https URL"),
            ("https://", "expected an https URL"),
            ("http://[::1", "expected an https URL"),
            ("http://127.0.0.1.example.com", "expected https"),
            ("https://a b", "expected an https URL"),
        )
    ),
    *(
        Row(f"state {url}", a_config(more=f'state: ▶"{url}"'), "state", says)
        for url, says in (
            ("mysql://host/db", ("sqlite:///FILE",)),
            ("sqlite://", ("sqlite:///FILE",)),
            ("sqlite:///", ("sqlite:///FILE",)),
            ("sqlite:///:memory:", ("forgotten",)),
            ("sqlite:rotator.db", ("sqlite:///FILE",)),
            ("postgresql://host/db", ("SQLite only", "sqlite:///FILE")),
            ("postgres://host/db", ("SQLite only",)),
            ("postgresql+psycopg://host/db", ("SQLite only",)),
            ("postgresql://me:hunter2@host/db", ("SQLite only",)),
            ("postgresql://host/db?password=hunter2", ("SQLite only",)),
            ("rotator.db", ("sqlite:///FILE",)),
        )
    ),
    *(
        Row(f"listen {where}", a_config(more=f"listen: ▶{where}"), "listen", ("HOST:PORT", "[::1]:9464"))
        for where in ("9464", '":9464"', '"::1:9464"', "localhost", "localhost:70000", '"[::g]:1"', '"a b:1"', "[]")
    ),
]

SECRETS = [
    Row(
        "secret in the file",
        a_config(neon="api_key: ▶napi_hunter2hunter2"),
        "neon.api_key",
        ("not a reference", "{env: NAME}"),
    ),
    Row("number as secret", a_config(neon="api_key: ▶0777"), "neon.api_key", ("not a reference", "{env: NAME}")),
    Row("secret as a key", a_config(neon="api_key: ▶{napi_hunter2hunter2: }"), "neon.api_key", ("not a reference",)),
    Row(
        "secret as a variable",
        a_config(neon="api_key: ▶{env: napi_hunter2hunter2}"),
        "neon.api_key",
        ("the secret itself",),
    ),
    Row(
        "secret as a path",
        a_config(neon="api_key: ▶{file: napi_hunter2hunter2}"),
        "neon.api_key",
        ("the secret itself",),
    ),
    Row(
        "no variable's name", a_config(neon="api_key: ▶{env: hunter2/+x}"), "neon.api_key", ("name of an environment",)
    ),
    Row("two references", a_config(neon="api_key: ▶{env: HOOK, file: k}"), "neon.api_key", ("not a reference",)),
    Row("reference to nothing", a_config(neon="api_key: ▶{file: }"), "neon.api_key", ("not a reference",)),
    Row("variable not set", a_config(neon="api_key: ▶{env: NOPE}"), "neon.api_key", ("NOPE is not set", "set it")),
    Row(
        "signing secret in the file",
        a_config(sinks='x: {type: webhook, url: "https://a.b/c", signing_secret: ▶whsec_hunter2hunter2}'),
        "sinks.x.signing_secret",
        ("not a reference",),
    ),
    Row(
        "signing secret in a list",
        a_config(
            sinks='x: {type: webhook, url: "https://a.b/c", signing_secret: [{env: HOOK}, ▶whsec_hunter2hunter2]}'
        ),
        "sinks.x.signing_secret[1]",
        ("not a reference",),
    ),
    Row(
        "secret under an unknown key",
        a_config(neon="api_key: {file: k}\n▶key: napi_hunter2hunter2"),
        "neon.key",
        ("unknown key",),
    ),
    Row("secret as an unknown key", a_config(more="▶napi_hunter2hunter2: 1"), "…", ("unknown key",)),
    Row(
        "secret where a word belongs",
        a_config(policy="on_missing: ▶napi_hunter2hunter2"),
        "policies.a.on_missing",
        ("alert",),
    ),
    Row(
        "secret as a sink's name",
        a_config(deliver_to="deliver_to: [▶napi_hunter2hunter2]"),
        "policies.a.deliver_to[0]",
        ("a-z",),
    ),
]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\u2028", "\x85"], ids=ascii)
def test_lines_are_counted_as_yaml_counts_them(end: str, tmp_path: Path) -> None:
    for content in (f"a: 1{end}b: \a".encode(), f"a: 1{end}b: ".encode() + b"\xff", f"a: 1{end}b: *".encode()):
        (problem,) = faults(tmp_path, content)
        assert (problem.line, problem.column) == (2, 4)


@pytest.mark.parametrize("row", SYNTAX, ids=lambda row: row.id)
def test_a_file_that_cannot_be_read_on_has_one_fault_with_its_place(row: Row, tmp_path: Path) -> None:
    assert_told(row, tmp_path)


@pytest.mark.parametrize("row", [*YAML, *KEYS, *TYPES, *NEON_AND_STATE, *SECRETS], ids=lambda row: row.id)
def test_a_fault_is_told_alone_with_its_place_and_what_is_expected(row: Row, tmp_path: Path) -> None:
    assert_told(row, tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"a: 1\n# \xe9", "not UTF-8; save", id="latin-1"),
        pytest.param("neon: {}".encode("utf-16"), "not UTF-8; save", id="utf-16"),
        pytest.param(b"#" * (4 * 1024 * 1024 + 1), "larger than 4 MiB", id="too large"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    (problem,) = faults(tmp_path, content)
    assert problem.line == content.count(b"\n") + 1
    assert says in problem.problem


@pytest.mark.parametrize("name", ["missing.yaml", "missing/config.yaml", ".", "a\0b"])
def test_a_file_that_cannot_be_opened_is_a_fault_that_says_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / name, {})
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{tmp_path / name}:1:1: cannot be read: ")
    assert "--config" in problem.problem


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("&a [*a]", id="a list in itself"),
        pytest.param("policies: &p {x: *p}", id="a mapping in itself"),
        pytest.param(
            "a: &a0 [x, x]\n" + "".join(f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)),
            id="a bomb",
        ),
        pytest.param("- " * 500_000, id="a deep list"),
        pytest.param("? " * 500_000, id="deep keys"),
        pytest.param("{a: " * 500_000, id="a deep mapping"),
        pytest.param("{[a, {b: c}]: d, {}: e, ? : f}", id="keys of any kind"),
        pytest.param('neon: {"a\\nb\\e": 1, "": 2, 😀: 3}', id="keys that would garble a message"),
    ],
)
def test_no_file_is_worse_than_faulty(text: str, tmp_path: Path) -> None:
    for problem in faults(tmp_path, text):
        assert str(problem).isprintable()


def test_all_faults_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
neon:
  api_key: ▶{env: NOPE}
  requests_per_minute: ▶1000
  ▶poll_evry: 5m
state: ▶mysql://host/db
sinks:
  app: {type: file, path: app.key, mode: ▶0640}
  ▶app: {type: file}
  ▶B: {type: command, run: ▶vault}
  hook: {type: ▶webhok}
policies:
  one:
    rotate: {cron: ▶"0 3 * *"}
    jitter: ▶5
    deliver_to: [app, ▶nobody]
  two:
    ▶colour: blue
    rotate: {every: 12h}
    grace_period: ▶13h
    deliver_to: [▶app]
    adopt: ▶*key
notify: [▶app]
"""
    problems = faults(tmp_path, text)
    assert [(problem.line, problem.column) for problem in problems] == marked(text)
    assert [problem.path for problem in problems] == [
        "neon.api_key",
        "neon.requests_per_minute",
        "neon.poll_evry",
        "state",
        "sinks.app.mode",
        "sinks.app",
        "sinks.B",
        "sinks.B.run",
        "sinks.hook.type",
        "policies.one.rotate.cron",
        "policies.one.jitter",
        "policies.one.deliver_to[1]",
        "policies.two.colour",
        "policies.two.grace_period",
        "policies.two.deliver_to[0]",
        "policies.two.adopt",
        "notify[0]",
    ]


def test_a_fault_before_a_fault_of_syntax_is_told_too(tmp_path: Path) -> None:
    problems = faults(tmp_path, "neon: &a {}\nneon: {\n")
    assert [problem.problem.partition(":")[0].partition(";")[0] for problem in problems] == [
        "an anchor (&name) is not taken",
        "repeated key",
        "not YAML",
    ]


def test_the_error_is_one_line_a_fault(tmp_path: Path) -> None:
    file = write(tmp_path, a_config(more="colour: blue\nstate: 5"))
    with pytest.raises(ConfigError) as caught:
        load(file, {"HOOK": "x"})
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [f"{file}:12:1", f"{file}:13:8"]
