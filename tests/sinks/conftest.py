"""Receivers, sinks for them, and folders that others may enter."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rotator.sinks.webhook import WebhookSink

from .builders import Receiver, SinkFor, a_signing_secret


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may read and write in, also on the way to it."""
    folder = Path(tempfile.mkdtemp(prefix="sink-"))
    folder.chmod(0o755)
    inner = folder / "inner"
    inner.mkdir()
    inner.chmod(0o777)
    yield inner
    shutil.rmtree(folder)


@pytest.fixture
def signing(tmp_path: Path) -> str:
    """The signing secret that the sinks below have, from a file."""
    secret = a_signing_secret()
    (tmp_path / "signing").write_text(f"{secret}\n")
    return secret


@pytest.fixture
def sink_for(tmp_path: Path, signing: str) -> SinkFor:
    def make(url: str, **settings: Any) -> WebhookSink:
        given = {"url": url, "signing_secret": {"file": str(tmp_path / "signing")}, "timeout": "10s"} | settings
        return WebhookSink("ci", WebhookSink.Settings.model_validate(given))

    return make
