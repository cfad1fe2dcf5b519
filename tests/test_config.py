"""What a configuration means once it is loaded, and that nothing in a file is worse than a fault."""

from __future__ import annotations

import subprocess
import sys
from datetime import time, timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml
from config_builders import EXAMPLE, EXAMPLE_ENVIRON, a_config, faults, loaded, write
from packages import install

from rotator.config import Config, UnusedKeys, json_schema, load
from rotator.model import Cron, Every, Hold, OnMissing, Policy, Scope, Then, Window

BUCKET = """
from typing import Any
from rotator import fields
from rotator.errors import NeedsPerson
from rotator.model import SinkRef
class BucketSink:
    class Settings(fields.Settings):
        bucket: str
        tags: dict[str, Any] = {}
    def __init__(self, name, settings):
        if settings.bucket == 'taken':
            raise NeedsPerson('the bucket is taken', 'name another')
        self.ref = SinkRef(name, 'bucket:' + settings.bucket)
"""


@pytest.fixture(scope="module")
def example() -> Config:
    return load(EXAMPLE, EXAMPLE_ENVIRON)


# What is loaded


def test_the_example_means_what_it_says(example: Config) -> None:
    assert example.file == EXAMPLE.absolute()
    assert example.neon.api_key.path == Path("/run/secrets/neon-admin-key")
    assert example.neon.api_key_id == 2291500
    assert example.neon.api_url == "https://console.neon.tech/api/v2"
    assert (example.neon.requests_per_minute, example.neon.poll_every) == (600, timedelta(minutes=5))
    assert example.state == "sqlite:////var/lib/rotator/state.db"
    assert example.listen == ("127.0.0.1", 9464)
    assert list(example.sinks) == ["app", "ci", "ops", "vault"]
    assert example.unused_keys == UnusedKeys(after=timedelta(days=45), ignore=("terraform-*",))
    assert example.notify == ("ops",)
    assert example.policies == {
        "ci-pipeline": Policy(
            name="ci-pipeline",
            rotate=Every(timedelta(days=30)),
            deliver_to=(example.sinks["app"].ref, example.sinks["ci"].ref),
            adopt=2291506,
            jitter=timedelta(hours=1),
            window=Window(frozenset({0, 1, 2, 3}), time(9), time(16), "UTC"),
            grace_period=timedelta(hours=24),
            hold=Hold(None, False, timedelta(days=7), Then.KEEP),
            on_missing=OnMissing.ALERT,
            renamed_from="ci",
        ),
        "reports": Policy(
            name="reports",
            rotate=Cron("0 3 * * 1", "Europe/Berlin"),
            deliver_to=(example.sinks["vault"].ref,),
            scope=Scope("org-calm-sun-12345678", "still-river-87654321"),
        ),
    }


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    config = loaded(tmp_path, a_config())
    assert config.neon.api_key.path == tmp_path / "admin.key"
    assert config.neon.api_key_id is None
    assert config.neon.api_url == "https://console.neon.tech/api/v2"
    assert (config.neon.requests_per_minute, config.neon.poll_every) == (600, timedelta(minutes=5))
    assert config.state == f"sqlite:///{tmp_path}/rotator.db"
    assert config.listen is None
    assert config.unused_keys == UnusedKeys(after=timedelta(days=90), ignore=())
    assert config.notify == ()
    assert config.policies["a"] == Policy("a", Every(timedelta(days=30)), (config.sinks["app"].ref,))


def test_a_configuration_may_have_no_policies_yet(tmp_path: Path) -> None:
    assert loaded(tmp_path, "{neon: {api_key: {file: k}}, sinks: {}, policies: {}}").policies == {}


def test_sinks_are_handed_to_in_the_order_of_the_policy(tmp_path: Path) -> None:
    policy = loaded(tmp_path, a_config(deliver_to="deliver_to: [run, hook, app]")).policies["a"]
    assert [sink.name for sink in policy.deliver_to] == ["run", "hook", "app"]


def test_a_relative_path_is_relative_to_the_file_and_not_to_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a_config(more="state: sqlite:///sub/x.db"))
    monkeypatch.chdir(tmp_path.parent)
    config = load(Path(tmp_path.name, "config.yaml"), {"HOOK": "x"})
    assert config.file == tmp_path / "config.yaml"
    assert config.state == f"sqlite:///{tmp_path}/sub/x.db"
    assert config.neon.api_key.path == tmp_path / "admin.key"
    assert config.sinks["app"].ref.target == f"file:{tmp_path}/app.key"


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ('"[::1]:9464"', ("::1", 9464)),
        ("localhost:0", ("localhost", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("null", None),
    ],
)
def test_listen(text: str, means: tuple[str, int] | None, tmp_path: Path) -> None:
    assert loaded(tmp_path, a_config(more=f"listen: {text}")).listen == means


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("https://console.neon.tech/api/v2/", "https://console.neon.tech/api/v2"),
        ("http://127.0.0.1:8788/api/v2", "http://127.0.0.1:8788/api/v2"),
        ("http://localhost:8788", "http://localhost:8788"),
        ("http://[::1]:8788", "http://[::1]:8788"),
    ],
)
def test_api_url(text: str, means: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, a_config(neon=f'api_key: {{file: k}}\napi_url: "{text}"')).neon.api_url == means


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("personal", Scope()),
        ("{organization: org-1}", Scope("org-1")),
        ("{organization: org-1, project: p}", Scope("org-1", "p")),
    ],
)
def test_scope(text: str, means: Scope, tmp_path: Path) -> None:
    assert loaded(tmp_path, a_config(policy=f"scope: {text}")).policies["a"].scope == means


@pytest.mark.parametrize(("text", "means"), [("auto", None), ("0s", timedelta(0)), ("1d12h", timedelta(hours=36))])
def test_while_old_key_used_within(text: str, means: timedelta | None, tmp_path: Path) -> None:
    policy = loaded(tmp_path, a_config(policy=f"hold: {{while_old_key_used_within: {text}}}")).policies["a"]
    assert policy.hold == Hold(while_old_key_used_within=means)


def test_a_window_may_go_over_midnight_and_opens_every_day_unless_told(tmp_path: Path) -> None:
    policy = loaded(tmp_path, a_config(policy='window: {from: "22:30", to: 06:00}')).policies["a"]
    assert policy.window == Window(frozenset(range(7)), time(22, 30), time(6), "UTC")


def test_a_cron_expression_is_in_utc_unless_told(tmp_path: Path) -> None:
    policy = loaded(tmp_path, a_config(rotate="rotate: {cron: 0  3 * * mon}")).policies["a"]
    assert policy.rotate == Cron("0 3 * * mon", "UTC")


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert load(write(tmp_path, b"\xef\xbb\xbf" + a_config().encode()), {"HOOK": "x"}).policies


def test_yaml_words_for_true_are_taken_where_a_truth_is_wanted(tmp_path: Path) -> None:
    assert loaded(tmp_path, a_config(policy="paused: yes")).policies["a"].paused is True


def test_names_that_look_like_something_else_are_names(tmp_path: Path) -> None:
    config = loaded(tmp_path, a_config(sinks="on: {type: file, path: x}", deliver_to='deliver_to: ["on"]'))
    assert config.policies["a"].deliver_to[0].name == "on"


def test_programs_do_not_get_to_see_the_variables_that_secrets_come_from(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        a_config(
            neon="api_key: {env: ADMIN}",
            sinks='x: {type: webhook, url: "https://a.b", signing_secret: [{env: NEW}, {env: OLD}, {file: f}]}',
        ),
        {"ADMIN": "napi_x", "HOOK": "whsec_x", "NEW": "whsec_y", "OLD": "whsec_z", "PATH": "/bin"},
    )
    assert config.secret_variables == {"ADMIN", "HOOK", "NEW", "OLD"}
    for name in ("app", "run"):
        assert getattr(config.sinks[name], "withheld", None) == config.secret_variables


def test_nothing_heavy_is_imported() -> None:
    program = """if True:
        import sys
        from pathlib import Path
        from rotator.config import json_schema, load
        load(Path(sys.argv[1]), {"CI_HOOK_SECRET": "x"})
        json_schema()
        print(*sorted({"sqlalchemy", "requests", "structlog", "rich", "apscheduler"} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(EXAMPLE)], cwd=EXAMPLE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


# Sinks of other packages


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that brings two types of sinks, one of which cannot be imported."""
    folder = tmp_path / "site"
    types = {"bucket": "other_sinks:BucketSink", "broken": "no_such_module:Sink"}
    install(folder, "other_sinks", BUCKET, types)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.usefixtures("other_package")
def test_a_sink_of_another_package_is_configured_like_any_other(tmp_path: Path) -> None:
    config = loaded(tmp_path, a_config(sinks="x: {type: bucket, bucket: b}", deliver_to="deliver_to: [x]"))
    assert config.policies["a"].deliver_to[0].target == "bucket:b"
    schema = json_schema()
    text = yaml.safe_load(a_config(sinks="x: {type: bucket, bucket: b}\ny: {type: broken, anything: 1}"))
    jsonschema.validate(text, schema)
    text["sinks"]["x"]["buckt"] = "c"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(text, schema)


@pytest.mark.usefixtures("other_package")
def test_the_faults_of_a_sink_of_another_package_have_their_places_too(tmp_path: Path) -> None:
    sinks = """
    a: {type: bucket, buckt: b}
    b: {type: broken}
    c: {type: bucket, bucket: taken}
    d: {type: bucket, bucket: b, tags: {mode: 0640}}
    """
    problems = faults(tmp_path, a_config(sinks=sinks))
    assert [(problem.line, problem.path, problem.problem.partition(";")[0]) for problem in problems] == [
        (8, "sinks.a.bucket", "missing"),
        (8, "sinks.a.buckt", "unknown key"),
        (9, "sinks.b.type", "sinks of type broken cannot be loaded: there is no module no_such_module"),
        (10, "sinks.c", "the bucket is taken"),
        (11, "sinks.d.tags.mode", "0640 without quotes is the number 416 in YAML"),
    ]
