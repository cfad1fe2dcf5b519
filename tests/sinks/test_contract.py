"""The promises of `Sink`, kept by every sink: the three that come with the program, and one of another package."""

from __future__ import annotations

import shlex
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from packages import install

from rotator.errors import NeedsPerson, RotatorError, TryLater
from rotator.model import Held
from rotator.secret import Secret, fingerprint
from rotator.sinks import Sink, sink_class, sink_types

from .builders import Receiver, Reply, a_hand_off, a_secret, a_signing_secret, until

KEEPSAKE = '''
"""Keeps a secret in a box."""

import os
import uuid

from rotator import fields
from rotator.errors import TryLater
from rotator.model import Held, SinkRef
from rotator.secret import fingerprint


class KeepsakeSink:
    class Settings(fields.Settings):
        box: fields.ConfigPath

    def __init__(self, name, settings):
        self.name, self.box = name, settings.box

    @property
    def ref(self):
        return SinkRef(self.name, f"keepsake:{self.box}", settings=str(self.box), reads_back=True)

    def check(self, *, probe=False):
        if not self.box.is_dir():
            raise TryLater("the box is not there", "bring it")

    def deliver(self, hand_off, secret):
        self.check()
        part = self.box / uuid.uuid4().hex
        part.write_text(secret.reveal())
        os.replace(part, self.box / "held")

    def contents(self):
        held = self.box / "held"
        return fingerprint(held.read_text()) if held.exists() else Held.NOTHING

    def stop(self):
        pass
'''
KINDS = ["file raw", "file dotenv", "file json", "webhook", "command", "another package's"]


@dataclass
class Bench:
    """A sink with its receiver: what that holds, and how it is made to fail."""

    kind: str
    settings: Mapping[str, Any]
    holds: Callable[[], str | None]
    fails: Callable[[], None]
    traces: Callable[[], object]

    def sink(self) -> Sink:
        made = sink_class(self.kind)
        return made("here", made.Settings.model_validate(self.settings))


def _files_in(folder: Path) -> Callable[[], object]:
    """Everything about the files of a folder that a visitor could have changed."""
    return lambda: {
        path.name: (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_ino) for path in folder.glob("**/*")
    }


def _file_bench(folder: Path, form: str) -> Bench:
    path = folder / "neon.env"
    settings: dict[str, Any] = {"path": str(path), "format": form}
    if form != "raw":
        settings["variable"] = "NEON_API_KEY"

    def holds() -> str | None:
        if not path.exists():
            return None
        text = path.read_text()
        return {"raw": text, "dotenv": text[13:-1], "json": text[21:-4]}[form]

    def fails() -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(folder / "elsewhere")

    return Bench("file", settings, holds, fails, _files_in(folder))


def _command_bench(folder: Path) -> Bench:
    holder, broken = folder / "holder", folder / "broken"
    script = (
        f"temporary=$(mktemp {shlex.quote(str(folder))}/XXXXXX) && cat > $temporary && "
        f"if [ -e {shlex.quote(str(broken))} ]; then cat $temporary; cat $temporary >&2; exit 3; fi; "
        f"mv $temporary {shlex.quote(str(holder))}"
    )
    return Bench(
        "command",
        {"run": ["sh", "-c", script], "timeout": "10s"},
        lambda: holder.read_text() if holder.exists() else None,
        broken.touch,
        _files_in(folder),
    )


def _webhook_bench(folder: Path, receiver: Receiver) -> Bench:
    signing = folder / "signing"
    signing.write_text(a_signing_secret())

    def holds() -> str | None:
        rotated = [request.json for request in receiver.requests if request.json["type"] == "api_key.rotated"]
        return str(rotated[-1]["data"]["key"]["secret"]) if rotated else None

    def fails() -> None:
        # As rude as can be: it sends back what it got.
        receiver.reply = lambda request: Reply(500, {"X-Echo": request.body.decode()}, request.body)

    return Bench(
        "webhook",
        {"url": f"{receiver.url}?token=t0k3n", "signing_secret": {"file": str(signing)}, "timeout": "10s"},
        holds,
        fails,
        lambda: (len(receiver.requests), _files_in(folder)()),
    )


def _foreign_bench(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A package as pip would install it: a module, and metadata with an entry point."""
    site = folder / "site"
    install(site, "keepsake", KEEPSAKE, {"keepsake": "keepsake:KeepsakeSink"})
    monkeypatch.syspath_prepend(str(site))
    box = folder / "box"
    box.mkdir()

    def fails() -> None:
        for part in box.iterdir():
            part.unlink()
        box.rmdir()

    return Bench(
        "keepsake",
        {"box": str(box)},
        lambda: (box / "held").read_text() if (box / "held").exists() else None,
        fails,
        _files_in(box),
    )


@pytest.fixture(params=KINDS)
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    kind: str = request.param
    if kind.startswith("file"):
        yield _file_bench(tmp_path, kind.removeprefix("file "))
    elif kind == "webhook":
        yield _webhook_bench(tmp_path, receiver)
    elif kind == "command":
        yield _command_bench(tmp_path)
    else:
        yield _foreign_bench(tmp_path, monkeypatch)


def hints_of(error: BaseException, secret: Secret) -> list[str]:
    """Every place of an error, and of those that it came from, where the secret can be read."""
    places = []
    seen: BaseException | None = error
    while seen is not None:
        told = {
            "str": str(seen),
            "repr": repr(seen),
            "args": repr(seen.args),
            "attributes": repr(vars(seen)),
            "traceback": "".join(traceback.format_exception(seen)),
        }
        places += [f"{type(seen).__name__}.{place}" for place, text in told.items() if secret.reveal() in text]
        seen = seen.__cause__ or seen.__context__
    return places


def test_a_type_is_found_by_its_name(bench: Bench) -> None:
    assert bench.kind in sink_types()
    assert sink_class(bench.kind).Settings.model_validate(bench.settings)


def test_a_sink_does_nothing_when_it_is_made(bench: Bench) -> None:
    before = bench.traces()
    sink = bench.sink()
    assert sink.ref.name == "here"
    assert bench.traces() == before


def test_a_return_is_the_receipt_the_receiver_has_the_secret(bench: Bench) -> None:
    secret = a_secret()
    bench.sink().deliver(a_hand_off(secret), secret)
    assert bench.holds() == secret.reveal()


def test_the_same_hand_off_may_come_again_after_it_succeeded(bench: Bench) -> None:
    sink, secret = bench.sink(), a_secret()
    for _ in range(3):
        sink.deliver(a_hand_off(secret), secret)
    assert bench.holds() == secret.reveal()


def test_a_later_hand_off_takes_the_place_of_the_earlier(bench: Bench) -> None:
    sink, first, second = bench.sink(), a_secret(), a_secret()
    sink.deliver(a_hand_off(first), first)
    sink.deliver(a_hand_off(second, key_id=2291516, generation=8, replaces_id=None, replaces_name=None), second)
    assert bench.holds() == second.reveal()


def test_a_failure_is_an_error_of_ours_and_tells_nothing_of_the_secret(
    bench: Bench, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    sink, secret = bench.sink(), a_secret()
    bench.fails()
    with pytest.raises(RotatorError) as caught:
        sink.deliver(a_hand_off(secret), secret)
    assert isinstance(caught.value, (TryLater, NeedsPerson))
    assert hints_of(caught.value, secret) == []
    assert "t0k3n" not in str(caught.value)
    assert secret.reveal() not in "".join(capfd.readouterr()) + caplog.text


def test_a_delivery_says_nothing(
    bench: Bench, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = a_secret()
    with caplog.at_level("DEBUG"):
        bench.sink().deliver(a_hand_off(secret), secret)
    assert "".join(capfd.readouterr()) + caplog.text == ""


def test_a_check_of_a_sink_that_works_returns_and_changes_nothing(bench: Bench) -> None:
    sink, secret = bench.sink(), a_secret()
    for _ in range(2):
        before = bench.traces()
        sink.check()
        assert bench.traces() == before
        sink.deliver(a_hand_off(secret), secret)


def test_a_probe_hands_over_no_secret(bench: Bench) -> None:
    sink, secret = bench.sink(), a_secret()
    sink.deliver(a_hand_off(secret), secret)
    before = bench.holds()
    sink.check(probe=True)
    assert bench.holds() == before


def test_what_is_read_back_is_what_was_delivered(bench: Bench) -> None:
    sink, secret = bench.sink(), a_secret()
    if not sink.ref.reads_back:
        pytest.skip("this sink cannot read back")
    assert sink.contents() == Held.NOTHING
    sink.deliver(a_hand_off(secret), secret)
    assert sink.contents() == secret.fingerprint


def test_the_ref_is_always_the_same_and_holds_no_secret(bench: Bench) -> None:
    sink, secret = bench.sink(), a_secret()
    before = sink.ref
    sink.deliver(a_hand_off(secret), secret)
    assert sink.ref == before == bench.sink().ref
    assert secret.reveal() not in repr(asdict(sink.ref))
    assert "t0k3n" not in repr(asdict(sink.ref))
    assert before.target.startswith(f"{bench.kind}:")
    assert before.pause.total_seconds() >= 0


def test_several_threads_may_deliver_at_once(bench: Bench) -> None:
    sink, keys = bench.sink(), [a_secret() for _ in range(6)]
    failures: list[BaseException] = []

    def deliver(number: int) -> None:
        try:
            sink.deliver(a_hand_off(keys[number], key_id=number), keys[number])
        except RotatorError as error:
            failures.append(error)

    threads = [threading.Thread(target=deliver, args=(number,)) for number in range(len(keys))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert fingerprint(bench.holds() or "") in {key.fingerprint for key in keys}


def test_stopping_may_be_asked_for_at_any_time_and_twice(bench: Bench) -> None:
    sink, secret = bench.sink(), a_secret()
    sink.stop()
    sink.stop()
    sink = bench.sink()
    delivering = threading.Thread(target=lambda: _deliver_or_not(sink, secret))
    delivering.start()
    sink.stop()
    until(lambda: not delivering.is_alive(), limit=5)


def _deliver_or_not(sink: Sink, secret: Secret) -> None:
    try:
        sink.deliver(a_hand_off(secret), secret)
    except TryLater as error:
        assert "stopping" in str(error)  # noqa: PT017
