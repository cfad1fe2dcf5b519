"""The programs in the documentation of the sinks do what it says."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from config_builders import a_config, loaded
from packages import install
from standardwebhooks import WebhookVerificationError

from rotator.errors import NeedsPerson, TryLater
from rotator.model import Event
from rotator.sinks.webhook import event_body

from .builders import Receiver, Reply, Request, SinkFor, a_hand_off, a_secret, failure_of

PAGE = (Path(__file__).parents[2] / "docs" / "sinks.md").read_text()


def program(words: str) -> str:
    """The one with these words."""
    (found,) = (each for each in re.findall(r"(?ms)^```(?:python|toml)\n(.*?)^```", PAGE) if words in each)
    assert isinstance(found, str)
    return found


def test_the_receiver_takes_the_first_key_and_later_ones_and_answers_everything_else(
    receiver: Receiver, sink_for: SinkFor, signing: str
) -> None:
    kept: list[tuple[str, Any]] = []
    names: dict[str, Any] = {"keep": lambda secret, instead_of: kept.append((secret, instead_of))}
    exec(program("standardwebhooks").replace("whsec_…", signing), names)
    receiver.reply = lambda request: Reply(names["receive"](request.body, request.headers))
    sink, secret = sink_for(receiver.url), a_secret()
    sink.check(probe=True)
    sink.send("msg_1", event_body(Event("rotation.live", "it is live", policy="ci"), datetime.now(UTC)))
    assert kept == []
    first = replace(a_hand_off(secret), replaces_id=None, replaces_name=None)
    for hand_off in (first, a_hand_off(secret)):
        sink.deliver(hand_off, secret)
    (_, before), (value, after) = kept
    assert before is None
    assert (value, after["id"]) == (secret.reveal(), 2291506)
    with pytest.raises(WebhookVerificationError):
        names["receive"](receiver.requests[0].body, receiver.requests[-1].headers)


def test_a_sink_of_ones_own_is_written_as_it_is_shown(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, where = re.findall(r'(\w+) = "(.+)"', program("entry-points"))[0]
    module = where.partition(":")[0]
    install(tmp_path / "site", module, program("class ConsulSink"), {kind: where})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, module, raising=False)
    url = receiver.url.removesuffix("/hooks/neon")
    sinks = f'here: {{type: {kind}, url: "{url}", key: neon/key}}'
    config = loaded(tmp_path, a_config(sinks=sinks, deliver_to="deliver_to: [here]"))
    sink, secret, status = config.sinks["here"], a_secret(), [200]
    held: dict[str, str] = {}

    def reply(request: Request) -> Reply:
        if request.method == "PUT" and status[0] == 200:
            held[request.path] = request.body.decode()
        return Reply(status[0])

    receiver.reply = reply
    for probe in (False, True):
        sink.check(probe=probe)
    assert not held
    sink.deliver(a_hand_off(secret), secret)
    assert held == {"/v1/kv/neon/key": secret.reveal()}
    for status[0], kind_of_failure in ((403, NeedsPerson), (500, TryLater), (302, TryLater)):
        assert type(failure_of(sink)) is kind_of_failure
    sink.stop()
    receiver.close()
    assert str(failure_of(sink)) == "Consul cannot be asked: ConnectionError"
    assert config.policies["a"].deliver_to[0].target == f"consul:{url}/neon/key"


def test_what_a_hand_off_has_is_named() -> None:
    text = PAGE.split("## Your own")[1]
    for name in [*vars(a_hand_off(a_secret())), "name", "target", "settings", "pause", "reads_back"]:
        assert f"`{name}`" in text, name
