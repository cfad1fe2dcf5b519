"""A webhook sink: what it may be told, what it sends, and what it asks before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

import rotator
from rotator.errors import NeedsPerson, TryLater
from rotator.model import Event, Held
from rotator.sinks.webhook import WebhookSink, event_body

from .builders import (
    Receiver,
    Reply,
    SinkFor,
    a_hand_off,
    a_secret,
    a_signing_secret,
    deliver,
    until,
)

# What the configuration may say


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        pytest.param("http://ci.example.com/x", "expected https; http is only for a loopback host", id="http"),
        pytest.param("http://127.0.0.1.example.com/x", "expected https", id="a name that looks like loopback"),
        pytest.param("https://user:t0k3n@ci.example.com/", "without a user or a password", id="a password"),
        pytest.param("https://ci.example.com/#t0k3n", "without a fragment", id="a fragment"),
        pytest.param("https://ci.example.com/#", "without a fragment", id="an empty fragment"),
        pytest.param("ftp://ci.example.com/t0k3n", "expected a URL", id="another scheme"),
        pytest.param("ci.example.com/t0k3n", "expected a URL", id="no scheme"),
        pytest.param("https:///t0k3n", "expected a URL", id="no host"),
        pytest.param("https://ci.example.com:port/t0k3n", "expected a URL", id="no number as port"),
        pytest.param("https://ci.example.com:0/t0k3n", "expected a URL", id="port 0"),
        pytest.param("https://[::1/t0k3n", "expected a URL", id="half an address"),
        pytest.param("https://ci.example.com/t0k3n\nHost: other", "without spaces", id="a line end"),
        pytest.param("https://ci.exämple.com/t0k3n", "in ASCII", id="not ASCII"),
        pytest.param("", "expected a URL", id="empty"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_and_not_repeated(url: str, problem: str) -> None:
    with pytest.raises(ValidationError) as refused:
        WebhookSink.Settings.model_validate({"url": url, "signing_secret": {"file": "x"}})
    (fault,) = refused.value.errors()
    assert fault["loc"] == ("url",)
    assert problem in fault["msg"]
    assert "t0k3n" not in fault["msg"]


@pytest.mark.parametrize("url", ["http://localhost:8080", "http://127.8.0.1/x", "http://[::1]:80/", "HTTPS://Ci/x?y=1"])
def test_https_and_loopback_are_accepted(url: str) -> None:
    assert WebhookSink.Settings.model_validate({"url": url, "signing_secret": {"file": "x"}}).url == url


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        pytest.param({"signing_secret": a_signing_secret()}, "a secret is never written in this file", id="a secret"),
        pytest.param({"signing_secret": []}, "at least 1", id="none"),
        pytest.param({"signing_secret": {"env": "NOT_SET_ANYWHERE"}}, "NOT_SET_ANYWHERE is not set", id="not set"),
        pytest.param({"signing_secret": {"file": "x"}, "receipt": "body"}, "'status' or 'fingerprint'", id="receipt"),
        pytest.param({"signing_secret": {"file": "x"}, "timeout": "0s"}, "longer than 0s", id="no time"),
        pytest.param({}, "required", id="not signed"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as refused:
        WebhookSink.Settings.model_validate({"url": "https://ci.example.com/"} | settings)
    (fault,) = refused.value.errors()
    assert problem in fault["msg"]
    assert "whsec_" not in str(refused.value)


def test_the_schema_lets_one_signing_secret_stand_for_a_list() -> None:
    one, many = WebhookSink.Settings.model_json_schema()["properties"]["signing_secret"]["anyOf"]
    assert many["type"] == "array"
    assert many["items"] == one


def test_the_target_names_the_host_and_hides_what_may_be_a_token(sink_for: SinkFor) -> None:
    ref = sink_for("https://ci.example.com:8443/hooks/t0k3n?key=t0k3n", timeout="9s").ref
    assert ref.target.startswith("webhook:https://ci.example.com:8443/#")
    assert "t0k3n" not in repr(ref)
    assert ref.pause == timedelta(seconds=9)
    assert not ref.reads_back
    other = sink_for("https://ci.example.com:8443/hooks/t0k3n?key=other", timeout="9s").ref
    assert other.target != ref.target
    again = sink_for("https://ci.example.com:8443/hooks/t0k3n?key=t0k3n", receipt="fingerprint").ref
    assert (again.target, again.settings != ref.settings) == (ref.target, True)
    assert sink_for("https://ci.example.com").contents() == Held.UNREADABLE


# The message


def test_the_message_is_exactly_the_one_that_is_documented(receiver: Receiver, sink_for: SinkFor) -> None:
    secret = deliver(sink_for(f"{receiver.url}?a=b%20c"))
    (request,) = receiver.requests
    assert (request.method, request.path) == ("POST", "/hooks/neon?a=b%20c")
    assert request.json == {
        "type": "api_key.rotated",
        "timestamp": "2026-11-23T04:05:50Z",
        "data": {
            "policy": "ci-pipeline",
            "generation": 7,
            "key": {
                "id": 2291515,
                "name": "ci-pipeline-20261123T040550Z-d233f1",
                "created_at": "2026-11-23T04:05:50Z",
                "secret": secret.reveal(),
                "fingerprint": secret.fingerprint,
            },
            "replaces": {"id": 2291506, "name": "ci-pipeline-20261024T040550Z-a1b2c3"},
        },
    }
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == f"rotator/{rotator.__version__}"
    assert request.headers["webhook-id"] == "msg_2291515_ci"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 5
    assert "authorization" not in request.headers


def test_the_first_key_of_a_policy_replaces_none(receiver: Receiver, sink_for: SinkFor) -> None:
    secret = a_secret()
    sink_for(receiver.url).deliver(a_hand_off(secret, replaces_id=None, replaces_name=None), secret)
    assert receiver.requests[0].json["data"]["replaces"] is None


def test_the_signature_is_accepted_by_another_implementation(
    receiver: Receiver, sink_for: SinkFor, signing: str
) -> None:
    deliver(sink_for(receiver.url))
    (request,) = receiver.requests
    assert Webhook(signing).verify(request.body, request.headers) == request.json
    with pytest.raises(WebhookVerificationError):
        Webhook(a_signing_secret()).verify(request.body, request.headers)


def test_the_signature_is_accepted_by_the_implementation_in_javascript(
    receiver: Receiver, sink_for: SinkFor, signing: str
) -> None:
    modules, node = os.environ.get("ROTATOR_NODE_MODULES"), shutil.which("node")
    if not modules or not (Path(modules) / "standardwebhooks").is_dir():
        pytest.skip("ROTATOR_NODE_MODULES names no folder with npm's standardwebhooks")
    if not node:
        pytest.skip("no node here")
    deliver(sink_for(receiver.url))
    (request,) = receiver.requests
    script = """
        const { Webhook } = require(process.argv[1] + "/standardwebhooks");
        const { secret, body, headers } = JSON.parse(require("fs").readFileSync(0));
        console.log(JSON.stringify(new Webhook(secret).verify(body, headers)));
    """
    given = {"secret": signing, "body": request.body.decode(), "headers": request.headers}
    done = subprocess.run(
        [node, "-e", script, modules], input=json.dumps(given), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == request.json


def test_every_signing_secret_signs_so_that_a_receiver_can_change_its_own(
    receiver: Receiver, sink_for: SinkFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = a_signing_secret(24), a_signing_secret(64)
    (tmp_path / "old").write_text(old)
    monkeypatch.setenv("NEW_SECRET", new)
    deliver(sink_for(receiver.url, signing_secret=[{"file": str(tmp_path / "old")}, {"env": "NEW_SECRET"}]))
    (request,) = receiver.requests
    assert [part[:3] for part in request.headers["webhook-signature"].split(" ")] == ["v1,", "v1,"]
    for secret in (old, new):
        Webhook(secret).verify(request.body, request.headers)


def test_a_retry_has_the_same_id_and_bytes_and_a_timestamp_of_its_own(receiver: Receiver, sink_for: SinkFor) -> None:
    sink, secret = sink_for(receiver.url), a_secret()
    receiver.reply = lambda _: Reply(500)
    with pytest.raises(TryLater):
        deliver(sink, secret)
    receiver.reply = lambda _: Reply()

    def again() -> bool:
        deliver(sink, secret)
        return receiver.requests[-1].headers["webhook-timestamp"] > receiver.requests[0].headers["webhook-timestamp"]

    until(again)
    first, last = receiver.requests[0], receiver.requests[-1]
    assert first.headers["webhook-id"] == last.headers["webhook-id"]
    assert first.body == last.body
    assert first.headers["webhook-signature"] != last.headers["webhook-signature"]


def test_a_signing_secret_is_read_anew_each_time(receiver: Receiver, sink_for: SinkFor, tmp_path: Path) -> None:
    sink, changed = sink_for(receiver.url), a_signing_secret()
    deliver(sink)
    (tmp_path / "signing").write_text(changed)
    deliver(sink)
    Webhook(changed).verify(receiver.requests[1].body, receiver.requests[1].headers)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(a_signing_secret(23), id="too short"),
        pytest.param(a_signing_secret(65), id="too long"),
        pytest.param(a_signing_secret().removeprefix("whsec_"), id="no prefix"),
        pytest.param("whsec_" + "?" * 44, id="not base64"),
        pytest.param("", id="empty"),
        pytest.param("two words", id="two words"),
    ],
)
def test_a_signing_secret_that_is_none_is_named_but_not_shown(
    receiver: Receiver, sink_for: SinkFor, tmp_path: Path, text: str
) -> None:
    (tmp_path / "signing").write_text(text)
    sink = sink_for(receiver.url)
    for attempt in (sink.check, lambda: sink.check(probe=True), lambda: deliver(sink)):
        with pytest.raises(NeedsPerson) as refused:
            attempt()
        assert str(tmp_path / "signing") in str(refused.value)
        assert text.removeprefix("whsec_") not in str(refused.value) or not text
    assert receiver.requests == []


def test_nothing_around_the_process_changes_what_is_sent_or_to_whom(
    receiver: Receiver, sink_for: SinkFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for proxy in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    deliver(sink_for(receiver.url))
    assert "authorization" not in receiver.requests[0].headers


# Checks, probes and events


def test_a_check_asks_the_receiver_nothing(receiver: Receiver, sink_for: SinkFor) -> None:
    sink_for(receiver.url).check()
    assert receiver.requests == []


def test_a_probe_is_a_signed_event_without_a_secret_that_must_be_answered_with_2xx(
    receiver: Receiver, sink_for: SinkFor, signing: str
) -> None:
    sink = sink_for(receiver.url)
    sink.check(probe=True)
    (request,) = receiver.requests
    told = Webhook(signing).verify(request.body, request.headers)
    assert told.keys() == {"type", "timestamp", "data"}
    assert (told["type"], told["data"]) == ("sink.check", {"sink": "ci"})
    receiver.reply = lambda _: Reply(500)
    with pytest.raises(TryLater, match=r"127\.0\.0\.1 answered 500"):
        sink.check(probe=True)
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 2


def test_an_event_is_sent_as_it_is(receiver: Receiver, sink_for: SinkFor, signing: str) -> None:
    event = Event("rotation.live", "every sink has it", "ci-pipeline", 7, 2291515, "ci-pipeline-x", notify=True)
    body = event_body(event, datetime(2026, 11, 23, 4, 5, 50, 123456, tzinfo=UTC))
    sink_for(receiver.url).send("msg_event_17", body)
    (request,) = receiver.requests
    assert request.body == body
    assert request.headers["webhook-id"] == "msg_event_17"
    assert Webhook(signing).verify(request.body, request.headers) == {
        "type": "rotation.live",
        "timestamp": "2026-11-23T04:05:50Z",
        "data": {
            "policy": "ci-pipeline",
            "generation": 7,
            "key": {"id": 2291515, "name": "ci-pipeline-x"},
            "why": "every sink has it",
            "at": "2026-11-23T04:05:50Z",
        },
    }


def test_what_does_not_apply_to_an_event_is_null() -> None:
    told = json.loads(event_body(Event("management_key.refused", "Neon said 401"), datetime(2026, 1, 1, tzinfo=UTC)))
    assert told["data"] == {
        "policy": None,
        "generation": None,
        "key": None,
        "why": "Neon said 401",
        "at": "2026-01-01T00:00:00Z",
    }
