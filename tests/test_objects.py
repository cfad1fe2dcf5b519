"""No object of the program shows a secret, whoever prints it: all that are alive are asked, with a key on its way.

They are asked while Neon has made the key and not answered yet, while a receiver has it and has not answered yet,
while a command has it, and after all of it.
"""

from __future__ import annotations

import dataclasses
import gc
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from canaries import Canaries
from sinks.builders import Receiver, Reply, a_signing_secret

from rotator.assembly import assemble
from rotator.config import load
from rotator.oneshot import carry_out
from rotator.sandbox import Sandbox
from rotator.sinks.exchange import Exchange

# What is written to a socket must be somewhere as it is written. Nothing prints the attributes of these.
HOLDS_THE_BYTES_OF_A_MESSAGE: Mapping[type, set[str]] = {Exchange: {"_body"}}


def ours() -> Iterator[object]:
    """Every object of the program's own classes that is alive; not those of the sandbox, which is a Neon."""
    for one in gc.get_objects():
        module = type(one).__module__
        if (
            isinstance(module, str)
            and module.partition(".")[0] == "rotator"
            and not module.startswith("rotator.sandbox")
        ):
            yield one


def shown_by(one: object) -> Iterator[tuple[str, str]]:
    """All the ways in which an object could get into a text, and what that text is."""
    ways: Mapping[str, Callable[[], object]] = {
        "repr": lambda: repr(one),
        "str": lambda: str(one),
        "format": lambda: f"{one}",
        "attributes": lambda: _attributes(one),
        "asdict": lambda: dataclasses.asdict(one) if dataclasses.is_dataclass(one) else "",  # type: ignore[arg-type]
        "pickle": lambda: pickle.dumps(one).decode("latin-1"),
        "slots": lambda: [getattr(one, name, None) for name in getattr(type(one), "__slots__", ()) if name != "_value"],
    }
    for way, show in ways.items():
        try:
            yield way, str(show())
        except Exception as error:  # noqa: BLE001 - whatever it is, it shows something too
            yield f"the refusal of {way}", f"{error} {error!r}"


def _attributes(one: object) -> dict[str, Any]:
    hidden = HOLDS_THE_BYTES_OF_A_MESSAGE.get(type(one), set())
    return {name: value for name, value in getattr(one, "__dict__", {}).items() if name not in hidden}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_no_object_shows_a_secret_at_any_time(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing = a_signing_secret()
    monkeypatch.setenv("HOOK_SECRET", signing)
    leaks: set[tuple[str, str, str]] = set()
    asked: list[int] = []

    def ask_all() -> None:
        planted = {str(key.id): neon.secret_of(key.id) for key in (*neon.keys(), *neon.revoked())}
        canaries = Canaries(planted | {"signing": signing})
        there = list(ours())
        asked.append(len(there))
        texts: dict[str, tuple[str, str]] = {}
        for one in there:
            for way, text in shown_by(one):
                texts.setdefault(text, (f"{type(one).__module__}.{type(one).__qualname__}", way))
        for text, (name, way) in texts.items():
            leaks.update((name, way, found) for found in canaries.found_in(text))

    def observe(event: Any) -> None:
        if (event.moment, event.method) == ("after", "POST"):
            ask_all()

    def reply(_: object) -> Reply:
        ask_all()
        return Reply(500 if len(receiver.requests) == 1 else 200, {}, receiver.requests[-1].body)

    receiver.reply = reply
    with Sandbox(observer=observe) as neon:
        (tmp_path / "key").write_text(neon.management_key)
        (tmp_path / "config.yaml").write_text(
            f"neon: {{api_key: {{file: key}}, api_url: {neon.url}}}\n"
            "sinks:\n"
            "  app: {type: file, path: app.env, format: dotenv, variable: K}\n"
            f"  hook: {{type: webhook, url: '{receiver.url}', signing_secret: {{env: HOOK_SECRET}}}}\n"
            f"  store: {{type: command, run: [sh, -c, 'cat > {tmp_path}/held']}}\n"
            "policies: {ci: {rotate: {every: 30d}, deliver_to: [app, hook, store]}}\n"
        )
        assembly = assemble(load(tmp_path / "config.yaml"), threading.Event(), lambda _: None)
        try:
            assert carry_out(assembly, assembly.config.policies, timedelta(seconds=30))
            ask_all()
        finally:
            assembly.close()
    assert (tmp_path / "held").read_text().startswith("napi_")
    assert len(asked) == 4  # Neon's creation, a receiver that fails and repeats, one that takes it, the end
    assert min(asked) > 50
    assert leaks == set()
