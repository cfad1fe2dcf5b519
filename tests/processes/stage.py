"""A stage for real processes: a folder, a local Neon in this process, and `python -m rotator` beside it.

Everything is on the loopback interface, on ports that are free. Nothing waits for luck: `until` waits
for a condition, with a limit that only a broken program reaches. Whatever a command prints or logs is
searched for every secret that this Neon ever gave out, and for tracebacks.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sinks.builders import Receiver, a_signing_secret, until

from rotator.assembly import assemble
from rotator.config import load
from rotator.oneshot import carry_out
from rotator.sandbox import Event, Sandbox

HOME = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds that a busy machine may take; nothing here needs so long
BOUND = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]  # root as the owner of its files only
ONE_POLICY = """
sinks:
  app: {type: file, path: app.env, format: dotenv, variable: NEON_API_KEY}
policies:
  ci: {rotate: {every: 30d}, deliver_to: [app]}
"""
_NOT_INHERITED = ("ROTATOR_CONFIG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "NO_COLOR", "COLUMNS")


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, which must be one JSON document."""
        return json.loads(self.out)


class Stage:
    """A folder with a configuration, a management key and a state; `neon` is the account that it is about."""

    def __init__(
        self, folder: Path, text: str = ONE_POLICY, *, observer: Callable[[Event], object] | None = None, **neon: str
    ) -> None:
        self.folder = folder
        self.neon = Sandbox(observer=observer)
        self.neon.start()
        self.key_file = folder / "key"
        self.config = folder / "config.yaml"
        self.state = folder / "rotator.db"
        self.secrets: set[str] = {self.neon.management_key}
        self.environment: dict[str, str] = {}
        self.faults_of_ours = False  # whether a test brings about what only a fault of the program should
        self._started: list[Service] = []
        self._receivers: list[Receiver] = []
        self.write_key(self.neon.management_key)
        self.configure(text, **neon)

    def close(self) -> None:
        """End every process that was started, and look over what they said."""
        try:
            for service in self._started:
                service.kill()
            for service in self._started:
                self.look_over(service.text)
            self.look_over(
                "".join(
                    file.read_bytes().decode("latin-1") for file in self.folder.glob("rotator.db*") if file.is_file()
                )
            )
        finally:
            for receiver in self._receivers:
                receiver.close()
            self.neon.stop()

    # What is on it

    def configure(self, text: str, **neon: str) -> None:
        """Write a configuration; `text` is the part from `sinks:` on, `neon` further keys of that section."""
        keys = {
            "api_key": "{file: key}",
            "api_key_id": str(self.neon.management_key_id),
            "api_url": self.neon.url,
            "poll_every": "1s",
        } | neon
        section = "".join(f"  {name}: {value}\n" for name, value in keys.items())
        self.config.write_text(f"neon:\n{section}{text}")

    def write_key(self, key: str) -> None:
        """Put this management key into its file, at once and whole."""
        new = self.folder / "key.new"
        new.write_text(key + "\n")
        new.rename(self.key_file)

    def receiver(self) -> Receiver:
        """A webhook receiver of its own, whose signing secret is in the file `signing`."""
        secret = a_signing_secret()
        self.secrets.add(secret)
        (self.folder / "signing").write_text(secret)
        receiver = Receiver()
        self._receivers.append(receiver)
        return receiver

    def script(self, name: str, body: str) -> Path:
        """An executable shell script for a command sink."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def settle(self) -> None:
        """What `apply` does, in this process, which is quicker: for tests that begin after it."""
        assembly = assemble(load(self.config), threading.Event(), tell=lambda _: None)
        try:
            names = {*assembly.config.policies, *assembly.store.records()}
            assert carry_out(assembly, names, timedelta(seconds=PATIENCE))
        finally:
            assembly.close()

    # Processes

    def rotator(
        self,
        *words: str,
        config: Path | None = None,
        environ: Mapping[str, str] = {},
        bound: bool = False,
        within: float = PATIENCE,
    ) -> Done:
        """Run a command to its end, without a terminal.

        `-c` is given unless `config` is a folder. With `bound` the permissions of files hold for it, even for root.
        """
        prefix = BOUND if bound and os.geteuid() == 0 else []
        command = [*prefix, sys.executable, "-m", "rotator", *words, *self._option(config)]
        ended = subprocess.run(
            command,
            cwd=self.folder,
            env=self.variables(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=within,
            check=False,
        )
        self.look_over(ended.stdout + ended.stderr)
        return Done(ended.returncode, ended.stdout, ended.stderr)

    def serve(
        self,
        *,
        environ: Mapping[str, str] = {},
        ready: bool = True,
        hear: Callable[[Service, str], object] = lambda *_: None,
    ) -> Service:
        """Start `rotator run`; with `ready`, return when it has decided once. `hear` gets every line of its log."""
        service = Service(self, environ, hear)
        self._started.append(service)
        if ready:
            service.wait_until_ready()
        return service

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on while the test does; whoever starts it waits for its end."""
        command = [sys.executable, "-m", "rotator", *words, *self._option(None)]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.variables({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def finish(self, process: subprocess.Popen[str], within: float = PATIENCE) -> Done:
        """Wait for a command that was started."""
        try:
            out, err = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        self.look_over(out + err)
        return Done(process.returncode, out, err)

    def on_a_terminal(self, *words: str, answer: str = "", environ: Mapping[str, str] = {}) -> Done:
        """Run a command on a pseudo terminal of 200 columns and type `answer` when it asks; all it shows is `out`."""
        master, slave = pty.openpty()
        environment = self.variables({"TERM": "xterm-256color", "COLUMNS": "200", **environ})
        command = [sys.executable, "-m", "rotator", *words, *self._option(None)]
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        shown = b""
        deadline = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline:
                if not select.select([master], [], [], 0.1)[0]:
                    continue
                try:
                    piece = os.read(master, 65536)
                except OSError as error:  # what Linux says when the other side is closed
                    if error.errno != errno.EIO:
                        raise
                    break
                if not piece:
                    break
                shown += piece
                if answer and b"Go on?" in shown:
                    os.write(master, answer.encode() + b"\n")
                    answer = ""
            status = process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            os.close(master)
        text = shown.decode()
        self.look_over(text)
        return Done(status, text, "")

    def variables(self, more: Mapping[str, str]) -> dict[str, str]:
        """The environment of a command: this one's, without what would change it."""
        kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        kept["PYTHONPATH"] = str(HOME)
        return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | self.environment | dict(more)

    def _option(self, config: Path | None) -> list[str]:
        config = config or self.config
        return [] if config.is_dir() else ["-c", str(config)]

    # Looking

    def look_over(self, text: str) -> None:
        """No secret and no traceback in what was said."""
        known = {self.neon.secret_of(key.id) for key in (*self.neon.keys(), *self.neon.revoked())}
        for secret in known | self.secrets:
            assert secret not in text, "a secret was told"
        assert not re.search(r"napi_[a-z0-9]{8}", text), "something like a secret was told"
        assert self.faults_of_ours or "Traceback" not in text, text

    @property
    def ours(self) -> list[int]:
        """The ids of all living keys but the management key's, oldest first."""
        return sorted(key.id for key in self.neon.keys() if key.id != self.neon.management_key_id)

    def created(self) -> int:
        """How many keys Neon was asked to create."""
        return sum(1 for seen in self.neon.requests if seen.method == "POST")

    def revocations(self) -> int:
        """How many keys Neon was asked to revoke."""
        return sum(1 for seen in self.neon.requests if seen.method == "DELETE")

    def app(self, file: str = "app.env") -> str | None:
        """The key in the file that the policy's consumer reads, or None."""
        try:
            return (self.folder / file).read_text().strip().removeprefix("NEON_API_KEY=").strip("\"'") or None
        except FileNotFoundError:
            return None

    def works(self, secret: str | None) -> bool:
        """Whether Neon would accept this secret now. Not a use of the key."""
        return any(self.neon.secret_of(key.id) == secret for key in self.neon.keys())

    def status(self) -> dict[str, Any]:
        """`status --json`."""
        found: dict[str, Any] = self.rotator("status", "--json").json
        return found

    def policy(self, name: str = "ci") -> dict[str, Any]:
        """One policy of `status --json`."""
        return next(entry for entry in self.status()["policies"] if entry["policy"] == name)

    def events(self, policy: str | None = None) -> list[str]:
        """The events of the history, read as another program would: from the file."""
        with contextlib.closing(sqlite3.connect(self.state, timeout=30)) as connection:
            rows = connection.execute("SELECT policy, event FROM history ORDER BY seq").fetchall()
        return [event for about, event in rows if policy in (None, about)]

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Every file of the folder with its mode and content."""
        return {
            str(path.relative_to(self.folder)): (path.stat().st_mode, path.read_bytes())
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }


class Service:
    """`rotator run` as a process, and its log."""

    def __init__(self, stage: Stage, environ: Mapping[str, str], hear: Callable[[Service, str], object]) -> None:
        self._hear = hear
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rotator", "run", "-c", str(stage.config)],
            cwd=stage.folder,
            env=stage.variables(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            process_group=0,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        """All that it said so far."""
        return "".join(self._lines)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log so far; every line must be a JSON object, but for the one in which it was killed."""
        return [json.loads(line) for line in list(self._lines) if line.endswith("\n")]

    def told(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The events of this name so far, with these fields."""
        return [
            line
            for line in self.lines
            if line["event"] == event and all(line.get(name) == value for name, value in fields.items())
        ]

    def wait_for(self, event: str, times: int = 1, within: float = PATIENCE, **fields: Any) -> dict[str, Any]:
        """The event that comes as the `times`-th of its name, once it is there."""

        def look() -> list[dict[str, Any]]:
            found = self.told(event, **fields)
            assert len(found) >= times or self.running, f"the service ended:\n{self.text}"
            return found[times - 1 : times]

        try:
            return until(look, within)[0]
        except AssertionError:
            said = "".join(self._lines[-20:])
            raise AssertionError(f"{event} {fields} was not told; the last of what was:\n{said}") from None

    def wait_until_ready(self) -> None:
        """Until it has decided about its policies once."""
        until(lambda: self.told("policy.waiting") or self.told("policy.refused") or not self.running, PATIENCE)
        assert self.running, self.text

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, float]:
        """End it with SIGTERM: its exit status, and after how many seconds it was gone."""
        began = time.monotonic()
        self._process.terminate()
        status = self._process.wait(PATIENCE)
        lasted = time.monotonic() - began
        self._reader.join(PATIENCE)
        return status, lasted

    def wait(self) -> int:
        """Its exit status, once it ended by itself."""
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def strike(self) -> None:
        """SIGKILL, without waiting. May be called from any thread; `kill` is still to come."""
        self._process.kill()

    def kill(self) -> None:
        """SIGKILL, if it is still there, and wait for its end. May be called twice."""
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._lines.append(line)
                self._hear(self, line)


def a_free_port() -> int:
    """A port of the loopback interface on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def without_escapes(text: str) -> str:
    """The text without a terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def has_colours(text: str) -> bool:
    """Whether a terminal's foreground or background colours are set."""
    codes: Sequence[str] = re.findall(r"\x1b\[([0-9;]*)m", text)
    return any(30 <= int(part) <= 49 or 90 <= int(part) <= 107 for code in codes for part in code.split(";") if part)
