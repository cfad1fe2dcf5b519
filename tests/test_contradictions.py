"""Schedules that cannot be, and keys that are right alone but not together."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_builders import Row, a_config, assert_told, faults, loaded

SCHEDULES = [
    *(
        Row(f"cron {cron}", a_config(rotate=f'rotate: {{cron: ▶"{cron}"}}'), "policies.a.rotate.cron", says)
        for cron, says in (
            ("* * * * * *", ("6 fields", "expected five")),
            ("0 3 * *", ("4 fields", "expected five")),
            ("", ("0 fields",)),
            ("@daily", ('write "0 0 * * *"',)),
            ("@weekly", ('write "0 0 * * 0"',)),
            ("@reboot", ("every: 30d",)),
            ("60 3 * * 1", ("the minute is not understood", "expected five")),
            ("0 3 * * 9", ("the weekday is not understood",)),
            ("0 x * * 1", ("the hour is not understood",)),
            ("0 3 32 * *", ("the day is not understood",)),
            ("0 3 30 2 *", ("never fires",)),
            ("0 3 31 4,6,9,11 *", ("never fires",)),
        )
    ),
    Row("neither every nor cron", a_config(rotate="rotate: ▶{}"), "policies.a.rotate", ("{every: 30d}", "cron")),
    Row(
        "every and cron", a_config(rotate='rotate: ▶{every: 9d, cron: "0 3 * * 1"}'), "policies.a.rotate", ("not both",)
    ),
    Row(
        "every with a zone",
        a_config(rotate="rotate: ▶{every: 9d, timezone: UTC}"),
        "policies.a.rotate",
        ("no times of day",),
    ),
    Row("rotate as a word", a_config(rotate="rotate: ▶30d"), "policies.a.rotate", ("{every: 30d}",)),
    *(
        Row(
            f"zone {zone}",
            a_config(rotate=f'rotate: {{cron: "0 3 * * 1", timezone: ▶"{zone}"}}'),
            path,
            ("not known", "Berlin"),
        )
        for zone in ("Europe/Berln", "Europe", "../etc/passwd", "/etc/passwd", "")
        for path in ["policies.a.rotate.timezone"]
    ),
    Row(
        "zone of a window",
        a_config(policy='window: {from: "1:00", to: "2:00", timezone: ▶Mars}'),
        "policies.a.window.timezone",
        ("not known",),
    ),
    *(
        Row(
            f"days {days}",
            a_config(policy=f'window: {{days: ▶{days}, from: "1:00", to: "2:00"}}'),
            "policies.a.window.days",
            (says,),
        )
        for days, says in (
            ("monday", "such as mon"),
            ("mon-", "such as mon"),
            ('"mon,"', "such as mon"),
            ('""', "such as mon"),
            ("[mon]", "a list"),
            ("1-5", "such as mon"),
        )
    ),
    *(
        Row(
            f"time {time}",
            a_config(policy=f'window: {{from: ▶"{time}", to: "2:00"}}'),
            "policies.a.window.from",
            ("time of day",),
        )
        for time in ("24:00", "9", "09:60", "09:00:00", "9am", "")
    ),
    *(
        Row(f"scope {scope}", a_config(policy=f"scope: ▶{scope}"), "policies.a.scope", (says,))
        for scope, says in (
            ("organization", "expected personal"),
            ("{}", "expected personal"),
            ("[personal]", "expected personal"),
            ("{project: p}", "without its organization"),
        )
    ),
]

GRACE = "policies.a.grace_period"
TWO = """
one: {{rotate: {{every: 30d}}, deliver_to: [{}]}}
two: {{rotate: {{every: 30d}}, deliver_to: [{}]}}
"""

CONTRADICTIONS = [
    Row("no sink", a_config(deliver_to="deliver_to: ▶[]"), "policies.a.deliver_to", ("no sink", "at least one")),
    Row(
        "unknown sink",
        a_config(deliver_to="deliver_to: [app, ▶hok]"),
        "policies.a.deliver_to[1]",
        ("did you mean hook?",),
    ),
    Row(
        "sink named twice", a_config(deliver_to="deliver_to: [app, run, ▶app]"), "policies.a.deliver_to[2]", ("twice",)
    ),
    Row("events for a file", a_config(more="notify: [hook, ▶app]"), "notify[1]", ("takes no events", "webhook")),
    Row("events for nobody", a_config(more="notify: [▶hoook]"), "notify[0]", ("no sink", "did you mean hook?")),
    Row("events twice", a_config(more="notify: [hook, ▶hook]"), "notify[1]", ("twice",)),
    Row(
        "one file for two",
        a_config(policies=TWO.format("app", "▶app")),
        "policies.two.deliver_to[0]",
        ("policy one writes too",),
    ),
    Row(
        "one file for two sinks of two policies",
        a_config(
            sinks="x: {type: file, path: ./app.env, format: dotenv, variable: KEY}",
            policies=TWO.format("env", "run, ▶x"),
        ),
        "policies.two.deliver_to[1]",
        ("the entry KEY", "policy one writes too"),
    ),
    Row(
        "raw file in a dotenv file",
        a_config(sinks="x: {type: file, path: ▶app.env}", deliver_to="deliver_to: [env, x]"),
        "sinks.x.path",
        ("raw file holds one key", "sink env"),
    ),
    Row(
        "dotenv file in a raw file",
        a_config(
            sinks="x: {type: file, path: ▶app.key, format: dotenv, variable: KEY}", deliver_to="deliver_to: [app, x]"
        ),
        "sinks.x.path",
        ("raw file holds one key", "sink app"),
    ),
    Row(
        "two raw sinks on one file",
        a_config(sinks="x: {type: file, path: ▶app.key}", deliver_to="deliver_to: [app, x]"),
        "sinks.x.path",
        ("raw file holds one key",),
    ),
    Row(
        "two formats in one file",
        a_config(
            sinks="x: {type: file, path: app.env, format: ▶json, variable: OTHER}", deliver_to="deliver_to: [env, x]"
        ),
        "sinks.x.format",
        ("as dotenv", "one format"),
    ),
    Row(
        "over this file", a_config(sinks="x: {type: file, path: ▶config.yaml}"), "sinks.x.path", ("this configuration",)
    ),
    Row(
        "over the state", a_config(sinks="x: {type: file, path: ▶rotator.db}"), "sinks.x.path", ("rotator's own state",)
    ),
    Row(
        "over another state",
        a_config(sinks="x: {type: file, path: ▶/s/state.db}", more="state: sqlite:////s/state.db"),
        "sinks.x.path",
        ("rotator's own state",),
    ),
    Row(
        "over the management key",
        a_config(sinks="x: {type: file, path: admin.key}", deliver_to="deliver_to: [run, ▶x]"),
        "policies.a.deliver_to[1]",
        ("overwrite the management key", "management_key: true"),
    ),
    Row(
        "one key adopted twice",
        a_config(
            policies="""
            one: {rotate: {every: 30d}, deliver_to: [app], adopt: 7}
            two: {rotate: {every: 30d}, deliver_to: [run], adopt: ▶7}
            """
        ),
        "policies.two.adopt",
        ("policy one adopts", "one policy"),
    ),
    Row(
        "the management key adopted",
        a_config(neon="api_key: {file: k}\napi_key_id: 7", policy="adopt: ▶7"),
        "policies.a.adopt",
        ("the management key", "management_key: true"),
    ),
    Row(
        "default grace as long as the interval",
        a_config(rotate="rotate: {every: 24h}").replace("  a:", "  ▶a:"),
        GRACE,
        ("1d of grace, the default,", "after 1d", "expected a shorter grace_period"),
    ),
    Row(
        "grace longer than the interval",
        a_config(rotate="rotate: {every: 30s}", policy="grace_period: ▶1m"),
        GRACE,
        ("1m of grace are", "after 30s", "shorter grace_period"),
    ),
    Row(
        "grace as long as the gap of a cron",
        a_config(rotate='rotate: {cron: "0 3 * * *"}', policy="grace_period: ▶24h"),
        GRACE,
        ("1d of grace", "after 1d"),
    ),
    Row(
        "grace as long as the shortest gap of a cron",
        a_config(rotate='rotate: {cron: "0 3,9 * * 1"}', policy="grace_period: ▶6h"),
        GRACE,
        ("after 6h",),
    ),
    Row(
        "grace as long as the night when the clocks go forward",
        a_config(rotate='rotate: {cron: "0 3 * * *", timezone: Europe/Berlin}', policy="grace_period: ▶23h"),
        GRACE,
        ("after 23h",),
    ),
    Row(
        "jitter as long as the interval",
        a_config(rotate="rotate: {every: 2d}", policy="jitter: ▶2d"),
        "policies.a.jitter",
        ("2d",),
    ),
    Row(
        "jitter with a cron",
        a_config(rotate='rotate: {cron: "0 3 * * 1"}', policy="jitter: ▶1h"),
        "policies.a.jitter",
        ("cron",),
    ),
    Row(
        "window that never opens",
        a_config(policy='window: {from: "09:00", to: ▶"9:00"}'),
        "policies.a.window.to",
        ("closes when it opens",),
    ),
    Row(
        "window that opens less often than the interval",
        a_config(rotate="rotate: {every: 2d}", policy='window: ▶{days: sun, from: "9:00", to: "16:00"}'),
        "policies.a.window",
        ("at least 6d 17h", "never opens within the 2d"),
    ),
    Row(
        "window that opens less often than a cron fires",
        a_config(
            rotate='rotate: {cron: "0 3 * * *"}',
            policy='grace_period: 1h\nwindow: ▶{days: sun, from: "9:00", to: "16:00"}',
        ),
        "policies.a.window",
        ("at least 6d 17h", "never opens within the 1d"),
    ),
    Row(
        "renamed from one that is there",
        a_config(policy="renamed_from: ▶a"),
        "policies.a.renamed_from",
        ("still configured",),
    ),
    Row(
        "renamed from one by two",
        a_config(
            policies="""
            one: {rotate: {every: 30d}, deliver_to: [app], renamed_from: old}
            two: {rotate: {every: 30d}, deliver_to: [run], renamed_from: ▶old}
            """
        ),
        "policies.two.renamed_from",
        ("policy one takes over",),
    ),
]

KEY = "key: {type: file, path: ./admin.key}"
MANAGEMENT = [
    Row(
        "management key of an organization",
        a_config(
            sinks=KEY, deliver_to="deliver_to: [key]", policy="management_key: true\nscope: ▶{organization: org-1}"
        ),
        "policies.a.scope",
        ("personal",),
    ),
    Row(
        "management key from a variable",
        a_config(neon="api_key: {env: HOOK}", policy="management_key: ▶true"),
        "policies.a.management_key",
        ("not a file", "{file: PATH}"),
    ),
    *(
        Row(
            f"management key into {where}",
            a_config(sinks=f"{KEY}\n{sink}", deliver_to=f"deliver_to: ▶[{where}]", policy="management_key: true"),
            "policies.a.deliver_to",
            ("expected one sink, a raw file",),
        )
        for where, sink in (
            ("app", ""),
            ("run", ""),
            ("key, run", ""),
            ("entry", "entry: {type: file, path: admin.key, format: json, variable: KEY}"),
        )
    ),
]


@pytest.mark.parametrize("row", SCHEDULES, ids=lambda row: row.id)
def test_a_schedule_that_cannot_be_is_refused(row: Row, tmp_path: Path) -> None:
    assert_told(row, tmp_path)


@pytest.mark.parametrize("row", [*CONTRADICTIONS, *MANAGEMENT], ids=lambda row: row.id)
def test_a_contradiction_is_refused(row: Row, tmp_path: Path) -> None:
    assert_told(row, tmp_path)


def test_only_one_policy_may_rotate_the_management_key(tmp_path: Path) -> None:
    managed = "{rotate: {every: 30d}, management_key: true, deliver_to: [key]}"
    problems = faults(tmp_path, a_config(sinks=KEY, policies=f"one: {managed}\ntwo: {managed}"))
    assert {problem.path for problem in problems} == {"policies.two.management_key", "policies.two.deliver_to[0]"}


@pytest.mark.parametrize(
    "path", ["real/app.key", "link/app.key", "link/../real/app.key", "./real/./app.key"], ids=lambda path: path
)
def test_one_file_under_two_names_is_one_file(path: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    sinks = f"x: {{type: file, path: real/app.key}}\ny: {{type: file, path: {path}}}"
    problems = faults(tmp_path, a_config(sinks=sinks, policies=TWO.format("x", "y")))
    assert [problem.path for problem in problems] == ["sinks.y.path", "policies.two.deliver_to[0]"]


def test_a_file_that_is_a_link_to_another_is_that_file(tmp_path: Path) -> None:
    for name, target in (("admin-link", "admin.key"), ("env-link", "app.env")):
        (tmp_path / name).symlink_to(target)
    sinks = """
    x: {type: file, path: admin-link}
    y: {type: file, path: env-link, format: dotenv, variable: KEY}
    """
    problems = faults(tmp_path, a_config(sinks=sinks, policies=TWO.format("x, env", "y")))
    assert [problem.path for problem in problems] == ["policies.one.deliver_to[0]", "policies.two.deliver_to[0]"]
    assert "overwrite the management key" in problems[0].problem


def test_links_that_lead_back_to_themselves_are_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    problems = faults(tmp_path, a_config(sinks="x: {type: file, path: a/app.key}"))
    assert [problem.path for problem in problems] == ["sinks.x.path"]


FINE = {
    "two entries of one file": a_config(
        sinks="x: {type: file, path: app.env, format: dotenv, variable: OTHER}", policies=TWO.format("env", "x")
    ),
    "one entry by two sinks of one policy": a_config(
        sinks="x: {type: file, path: app.env, format: dotenv, variable: KEY}", deliver_to="deliver_to: [env, x]"
    ),
    "a sink on a shared file that nobody uses": a_config(
        sinks="x: {type: file, path: app.key, format: json, variable: K}"
    ),
    "one webhook for two policies": a_config(policies=TWO.format("hook", "hook")),
    "the management key into its file": a_config(
        sinks=KEY,
        deliver_to="deliver_to: [key]",
        policy="management_key: true\nadopt: 7",
        neon="api_key: {file: admin.key}\napi_key_id: 7",
    ),
    "grace just shorter than the interval": a_config(rotate="rotate: {every: 10s}", policy="grace_period: 9s"),
    "grace shorter than the shortest night": a_config(
        rotate='rotate: {cron: "0 3 * * *", timezone: Europe/Berlin}', policy="grace_period: 22h59m"
    ),
    "hourly, and the clocks go forward": a_config(
        rotate='rotate: {cron: "0 * * * *", timezone: Europe/Berlin}', policy="grace_period: 59m"
    ),
    "no jitter with a cron": a_config(rotate='rotate: {cron: "0 3 * * 1"}', policy="jitter: 0s"),
    "daily on working days": a_config(
        rotate="rotate: {every: 24h}", policy='grace_period: 1h\nwindow: {days: mon-fri, from: "9:00", to: "17:00"}'
    ),
    "twice a day by night": a_config(
        rotate="rotate: {every: 12h}", policy='grace_period: 1h\nwindow: {from: "18:00", to: "8:00"}'
    ),
    "weekly on one day": a_config(rotate="rotate: {every: 7d}", policy='window: {days: sun, from: "9:00", to: "9:01"}'),
    "on a leap day": a_config(rotate='rotate: {cron: "0 3 29 2 *"}'),
    "in a year that has a fifth Monday in February": a_config(rotate='rotate: {cron: "0 3 * 2 MON#5"}'),
    "once a year": a_config(rotate='rotate: {cron: "0 3 1 1 *"}', policy="grace_period: 300d"),
}


@pytest.mark.parametrize("text", FINE.values(), ids=FINE.keys())
def test_what_only_looks_like_a_contradiction_is_accepted(text: str, tmp_path: Path) -> None:
    loaded(tmp_path, text)


def test_a_faulty_key_causes_no_further_fault(tmp_path: Path) -> None:
    text = a_config(rotate="rotate: {every: 12h}", policy="grace_period: ten hours", deliver_to="deliver_to: [app, 5]")
    assert [problem.path for problem in faults(tmp_path, text)] == [
        "policies.a.deliver_to[1]",
        "policies.a.grace_period",
    ]


def test_nothing_is_needed_that_a_sink_will_need(tmp_path: Path) -> None:
    sinks = (
        "x: {type: file, path: /nowhere/at/all/key, owner: nobody-here, group: nobody-here, after_write: [/no/program]}"
    )
    loaded(tmp_path, a_config(sinks=sinks, deliver_to="deliver_to: [x]"))
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]
