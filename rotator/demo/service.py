"""`rotator run` as a process of its own, and its log.

The process is not in the terminal's foreground group: Ctrl-C reaches the demo alone, which then ends
the service as an init system does, with SIGTERM, and looks at its exit status.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import rotator
from rotator.secret import blank

_STOP_WITHIN = 20.0
_LAST_WORDS = 8
_NOT_INHERITED = ("ROTATOR_CONFIG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceProcess:
    """The service under one configuration. `secrets` are variables that only its environment has."""

    def __init__(self, config: Path, secrets: Mapping[str, str]) -> None:
        self._lines: SimpleQueue[tuple[float, dict[str, Any]]] = SimpleQueue()
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rotator", "run", "-c", str(config)],
            cwd=config.parent,
            env=_environment(secrets),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, name="service log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def last_words(self) -> str:
        """The end of what it said that was not an event, such as what is wrong with a configuration."""
        return "\n".join(self._last_words)

    def has_ended(self) -> bool:
        """Whether the process is gone by itself."""
        return self._process.poll() is not None

    def news(self, within: float = 0.0) -> list[tuple[float, dict[str, Any]]]:
        """The events since the last call, with the monotonic time of each; waits so many seconds for one."""
        lines = []
        try:
            lines.append(self._lines.get(within > 0, within))
            while True:
                lines.append(self._lines.get_nowait())
        except Empty:
            return lines

    def stop(self) -> int:
        """End it with SIGTERM; its exit status, negative if a signal ended it. May be called twice."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join(_STOP_WITHIN)
        return self._process.wait()

    def kill(self) -> None:
        """End it at once, if it is still there, and give back the pipe."""
        self._process.kill()
        self._process.wait()
        self._reader.join(_STOP_WITHIN)

    def _read(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe, see above
        with self._process.stderr as stream:
            for line in stream:
                try:
                    event = json.loads(line)
                except ValueError:
                    event = None
                if isinstance(event, dict):
                    self._lines.put((time.monotonic(), event))
                elif line.strip():
                    self._last_words.append(blank(line.rstrip()))


def _environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """Ours, with the secrets, without what would make it another service than the one that is shown."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    home = str(Path(rotator.__file__).resolve().parents[1])
    if home != sysconfig.get_path("purelib"):  # run from a checkout, which the other process must find too
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (home, kept.get("PYTHONPATH"))))
    kept["NO_PROXY"] = kept["no_proxy"] = "127.0.0.1"  # a proxy would be a network
    return kept | dict(secrets)
