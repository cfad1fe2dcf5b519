"""What the benchmarks share: a local Neon, a configuration with many policies, a state in which all is quiet.

The local Neon runs in the benchmark's own process, the service in another one, as it is in earnest. Every policy
has a live key and a file that holds it, so a service that starts on this finds nothing to do before the first
key is due.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rotator.config import load
from rotator.model import Check, Generation, Offer, Record, Scope
from rotator.sandbox import Sandbox
from rotator.secret import fingerprint
from rotator.store import Store
from rotator.transitions import Change

ROOT = Path(__file__).parent.parent
ROTATOR = (sys.executable, "-m", "rotator")
EVERY = timedelta(days=30)


@dataclass(frozen=True)
class Stage:
    """A folder with a configuration, a state and files; the Neon that it speaks of; when each key is due."""

    folder: Path
    neon: Sandbox
    due: dict[str, datetime]

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    def command(self, *words: str) -> list[str]:
        return [*ROTATOR, "--config", str(self.config), *words]


@contextmanager
def a_stage(count: int, due: Callable[[int], datetime], **settings: str) -> Iterator[Stage]:
    """`count` policies with a live key each; the n-th is due at `due(n)`, in whole seconds."""
    folder = Path(tempfile.mkdtemp(prefix="rotator-benchmark-"))
    neon = Sandbox()
    try:
        neon.start()
        stage = Stage(folder, neon, {name_of(n): due(n).replace(microsecond=0) for n in range(count)})
        _configure(stage, settings)
        _remember(stage)
        yield stage
    finally:
        neon.stop()
        shutil.rmtree(folder)


def name_of(number: int) -> str:
    return f"policy-{number:04}"


def later(number: int) -> datetime:
    """Long after the benchmark."""
    return datetime.now(UTC) + timedelta(days=10, seconds=number)


def _configure(stage: Stage, settings: dict[str, str]) -> None:
    key = stage.folder / "management-key"
    key.write_text(stage.neon.management_key)
    policy = {"rotate": f"{{every: {EVERY.days}d}}"} | settings
    lines = ["neon:", f"  api_key: {{file: {key}}}", f"  api_url: {stage.neon.url}"]
    lines += ["state: sqlite:///state.db", "sinks:"]
    lines += [f"  {name}: {{type: file, path: keys/{name}}}" for name in stage.due]
    lines += ["policies:"]
    for name in stage.due:
        lines += [
            f"  {name}:",
            *(f"    {word}: {value}" for word, value in policy.items()),
            f"    deliver_to: [{name}]",
        ]
    stage.config.write_text("\n".join(lines) + "\n")
    (stage.folder / "keys").mkdir()


def _remember(stage: Stage) -> None:
    config = load(stage.config)
    records = {name: _record(stage, name, config.policies[name].deliver_to[0].target) for name in stage.due}
    stage.neon.set_clock(0)
    store = Store(config.state)
    store.change_many(datetime.now(UTC), {name: _written(record) for name, record in records.items()})
    store.close()


def _record(stage: Stage, name: str, target: str) -> Record:
    created_at = stage.due[name] - EVERY
    stage.neon.set_clock((created_at - datetime.now(UTC)).total_seconds() + 0.5)
    key = stage.neon.create_key(f"{name}-{created_at:%Y%m%dT%H%M%SZ}-aaaaaa")
    secret = stage.neon.secret_of(key.id)
    file = stage.folder / "keys" / name
    file.write_text(secret + "\n")
    file.chmod(0o600)
    live = Generation(
        number=1,
        key_id=key.id,
        name=key.name,
        scope=Scope(),
        created_at=created_at,
        recorded_at=created_at,
        fingerprint=fingerprint(secret),
        check=Check.PASSED,
        checked_at=created_at,
        offers={target: Offer(created_at)},
        receipts={target: created_at},
        live_since=created_at,
    )
    return Record(policy=name, next_generation=2, generations=(live,))


def _written(record: Record) -> Callable[[Record], Change]:
    return lambda _: Change(record)


@dataclass(frozen=True)
class Service:
    """A running `rotator run`, and how long it took to say READY=1, in seconds."""

    process: subprocess.Popen[bytes]
    ready_after: float

    def memory(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024


@contextmanager
def a_service(stage: Stage) -> Iterator[Service]:
    """Start the service, wait until it is ready, and end it with SIGTERM."""
    address = str(stage.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, (stage.folder / "log").open("ab") as log:
        channel.bind(address)
        channel.settimeout(60)
        began = time.perf_counter()
        environ = {**os.environ, "NOTIFY_SOCKET": address}
        process = subprocess.Popen(stage.command("run"), stderr=log, env=environ, cwd=ROOT)
        try:
            while channel.recv(4096) != b"READY=1":
                pass
            yield Service(process, time.perf_counter() - began)
        finally:
            process.terminate()
            process.wait(30)
            Path(address).unlink()


def timed(command: Sequence[str]) -> float:
    """How long a command takes, in seconds."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - began


def row(what: str, values: Sequence[float], unit: str, limit: str, digits: int = 0) -> str:
    """A line of the table that the scripts print."""
    figures = (min(values), statistics.median(values), max(values))
    return f"| {what} | {' | '.join(f'{figure:.{digits}f}' for figure in figures)} | {unit} | {limit} |"


HEADER = "| what | min | median | max | unit | to reach |\n|---|---|---|---|---|---|"
