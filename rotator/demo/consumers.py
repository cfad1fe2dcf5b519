"""Those who must not notice: consumers that use whatever key they hold, ten times a second.

A consumer looks for its key anew before every call, as a program does that reads its file, or keeps in
memory what it was last sent. Only an answer counts as a failure, or that it finds no key where one was: a
call that a busy machine left without an answer says nothing about keys, and is counted apart.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from rotator.secret import blank

CALLS_PER_SECOND = 10
_TIMEOUT = 10.0
_LATE = 1.0
_STOP_WITHIN = 15.0


class Consumer:
    """Calls `GET /auth` in a thread of its own. `find_key` gives the key to use, or None if there is none yet.

    calls: how many were answered, or could not be made for want of a key; failed: how many of those did
    not succeed; unanswered: how many got no answer; keys: how many different keys were used.
    """

    def __init__(self, name: str, api_url: str, find_key: Callable[[], str | None]) -> None:
        self.name = name
        self.calls = 0
        self.failed = 0
        self.unanswered = 0
        self.first_failure = ""
        self._find_key = find_key
        self._parts = urlsplit(api_url)
        self._connection: HTTPConnection | None = None
        self._seen: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"consumer {name}", daemon=True)

    @property
    def keys(self) -> int:
        """See above."""
        return len(self._seen)

    def start(self) -> None:
        """Begin to call."""
        self._thread.start()

    def stop(self) -> None:
        """End after the call in hand. May be called twice, and before `start`."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_WITHIN)
        self._disconnect()

    def _work(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self.use_once()
            # A standstill is made up for by a second's calls at most: a burst would not be ten a second.
            due = max(due + 1 / CALLS_PER_SECOND, time.monotonic() - _LATE)

    def use_once(self) -> None:
        """One call with the key that is held now."""
        key = self._find_key()
        if key is None:
            if self._seen:
                self._count("it held a key before, and now finds none")
            return
        self._seen.add(hash(key))
        try:
            answer, body = self._call(key)
        except (OSError, HTTPException):
            self.unanswered += 1
            self._disconnect()
            return
        self._count("" if answer.status == 200 else f"GET /auth was answered {answer.status}{_message(body)}")

    def _call(self, key: str) -> tuple[HTTPResponse, bytes]:
        if self._connection is None:
            self._connection = HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=_TIMEOUT)
        self._connection.request("GET", f"{self._parts.path}/auth", headers={"Authorization": f"Bearer {key}"})
        answer = self._connection.getresponse()
        return answer, answer.read()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _count(self, failure: str) -> None:
        self.calls += 1
        if failure:
            self.failed += 1
            self.first_failure = self.first_failure or blank(failure)


def _message(body: bytes) -> str:
    """What Neon says in an error, after a comma; nothing if it says nothing."""
    try:
        said = json.loads(body)
    except ValueError:
        return ""
    return f', "{said["message"]}"' if isinstance(said, dict) and said.get("message") else ""


def key_in_file(path: Path, variable: str) -> Callable[[], str | None]:
    """Looks for the key in a dotenv file, which is read anew each time."""
    line = re.compile(rf"^{re.escape(variable)}=(\S+)$", re.MULTILINE)

    def find() -> str | None:
        try:
            found = line.search(path.read_text())
        except OSError:
            return None
        return found[1] if found else None

    return find
