"""A Neon of one's own: `Sandbox` puts the accounts, the faults, the limits and the HTTP server together.

A request goes through these steps, and every promise of the faults rests on their order:

    limits ─▶ faults drawn ─▶ delay ─▶ faults before ─▶ [authenticate, count the use, do it] ─▶ faults after

Only the part in brackets changes anything. It happens in one piece, under the lock; the observer is called
right before and right after it, outside the lock, so that a test may block there or end a process at
exactly that boundary. `stop` and `start` keep accounts, faults and port: that is an outage.

Time is the clock given (`datetime.now` otherwise) plus an offset, and rules every timestamp and the Date
header. Rate limits go by the clock alone, without the offset, and the log of requests by monotonic time.
"""

from __future__ import annotations

import re
import shlex
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from rotator.sandbox.account import NOT_AUTHENTICATED, Accounts, KeyView, Refused, new_secret
from rotator.sandbox.api import BASE_PATH, Answer, Call, Request, Route, error, find_route, wrong_shape
from rotator.sandbox.faults import Fault, Faults, Strike, parse, parse_text
from rotator.sandbox.limits import RateLimits

if TYPE_CHECKING:
    from rotator.sandbox.wire import Listener

ORGANIZATION = "org-sandbox"
PROJECT = "sandbox-project"
LONGEST_LOG = 100_000
LARGEST_OFFSET = 100 * 365 * 86_400.0
MESSAGES = {
    401: NOT_AUTHENTICATED,
    423: "the resource is locked by another operation; try again",
    429: "too many requests",
    503: "service unavailable",
}


@dataclass(frozen=True)
class Event:
    """What an observer gets: a request is about to take effect, or just did (or was refused) and has no
    answer yet."""

    moment: Literal["before", "after"]
    method: str
    path: str  # below the base path


class Record(NamedTuple):
    """One request in the log. `at` is monotonic, taken on arrival; `status` is None for a lost answer."""

    at: float
    method: str
    path: str  # below the base path
    status: int | None


class Sandbox:
    """A local Neon key API. Use it as a context manager, or `start` and `stop` it.

    keys: secrets that work from the start, in any format; the first is the management key. One is drawn if
    none is given. All are personal keys of a person who administers every organization.
    listen: address and port; port 0 takes a free one, and keeps it over `stop` and `start`.
    rate_limits: whether the documented limits apply.
    observer: called with an `Event` in the thread that serves the request.
    now: a clock that returns aware datetimes.
    organizations: further organizations and the ids of their projects, beside `org-sandbox`.
    """

    def __init__(
        self,
        keys: Sequence[str] = (),
        *,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        rate_limits: bool = False,
        observer: Callable[[Event], object] | None = None,
        now: Callable[[], datetime] | None = None,
        organizations: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._host, self._port = listen
        self._observer = observer
        self._now = now or (lambda: datetime.now(UTC))
        self._offset = timedelta()
        self._limits = RateLimits() if rate_limits else None
        self._faults = Faults()
        self._log: deque[Record] = deque(maxlen=LONGEST_LOG)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._listener: Listener | None = None
        self._accounts = Accounts({ORGANIZATION: (PROJECT,), **(organizations or {})}, self.clock())
        self.management_key_id = self._give(keys or (new_secret(),))
        self.management_key = self.secret_of(self.management_key_id)

    def _give(self, keys: Sequence[str]) -> int:
        """Make the initial keys; the id of the first."""
        ids = []
        for number, secret in enumerate(keys, start=1):
            if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
                raise ValueError("a key must be printable ASCII without spaces, or no request can carry it")
            name = "management" if number == 1 else f"given-{number}"
            ids.append(self._accounts.create(name, self.clock(), secret=secret).id)
        return ids[0]

    # Starting and stopping

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end. Known once the port is."""
        if not self._port:
            raise RuntimeError("the sandbox has no address yet: start it first")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}{BASE_PATH}"

    def start(self) -> None:
        """Listen. Raises `OSError` if the address cannot be had."""
        from rotator.sandbox.wire import Listener

        if self._listener is not None:
            raise RuntimeError("the sandbox is running already")
        self._stopping.clear()
        self._listener = Listener((self._host, self._port), self)
        self._port = self._listener.port

    def stop(self) -> None:
        """Stop listening and cut every connection, also in the middle of a request. May be called twice."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._stopping.set()
            listener.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What is in the account, and who acts on it beside the API

    def keys(self) -> list[KeyView]:
        """Every living key of every account, newest first, as it truly is: faults bend nothing here."""
        with self._lock:
            return [key.view() for key in self._accounts.every_key() if key.alive()]

    def revoked(self) -> list[KeyView]:
        """Every revoked key, newest first."""
        with self._lock:
            return [key.view() for key in self._accounts.every_key() if not key.alive()]

    def secret_of(self, key_id: int) -> str:
        """The secret of a key, dead or alive. Raises `KeyError`."""
        with self._lock:
            return self._accounts.key(key_id).secret

    def use(self, secret: str, address: str = "203.0.113.7") -> bool:
        """A call with this key from elsewhere, without HTTP, limits and faults; whether it was accepted."""
        with self._lock:
            try:
                self._accounts.authenticate(secret, address, self.clock())
            except Refused:
                return False
            return True

    def create_key(self, name: str, organization: str | None = None, project: str | None = None) -> KeyView:
        """Somebody else makes a key in the Console. Raises `Refused` as the API would."""
        with self._lock:
            now = self.clock()
            return self._accounts.create(name, now, organization=organization, project=project).view()

    def revoke_key(self, key_id: int) -> KeyView:
        """Somebody else revokes a key in the Console. Raises `Refused` (404) if it does not live."""
        with self._lock:
            owner = next((key.organization for key in self._accounts.every_key() if key.id == key_id), None)
            return self._accounts.revoke(key_id, self.clock(), organization=owner).view()

    # Misbehaving

    def fault(self, fault: str, **fields: object) -> None:
        """Arm a fault: `neon.fault("lost_answer", on="create", times=2)`. Raises `FaultError`."""
        self.arm([parse({"fault": fault, **fields})])

    def arm(self, faults: Iterable[Fault]) -> None:
        """Arm faults that were parsed already, in this order."""
        with self._lock:
            for fault in faults:
                self._faults.arm(fault, self.clock())

    def faults(self) -> list[dict[str, object]]:
        """What is still armed, with what remains of `times` and `skip`."""
        with self._lock:
            return [fault.as_json() for fault in self._faults.waiting()]

    def clear_faults(self) -> int:
        """Disarm all faults; how many there were."""
        with self._lock:
            return self._faults.clear()

    def set_clock(self, offset_seconds: float) -> None:
        """Let the sandbox's time be so far ahead of the clock; behind it, if negative."""
        if not abs(offset_seconds) <= LARGEST_OFFSET:  # so put, it also refuses what is not a number
            raise ValueError("the clock can be shifted by a hundred years at most")
        self._offset = timedelta(seconds=offset_seconds)

    def clock(self) -> datetime:
        """The sandbox's time, aware UTC."""
        return self._now().astimezone(UTC) + self._offset

    # What was asked of it

    @property
    def requests(self) -> list[Record]:
        """The requests so far (at most the last 100,000), in the order in which they were settled."""
        with self._lock:
            return list(self._log)

    def stats(self) -> dict[str, object]:
        """Numbers of requests: in all, refused with 401, unanswered, and by route and status."""
        with self._lock:
            counts = dict(self._counts)
        routes: dict[str, dict[str, int]] = {}
        for (route, status), count in sorted(counts.items()):
            routes.setdefault(route, {})[status] = count
        return {
            "total": sum(counts.values()),
            "unauthorized": sum(count for (_, status), count in counts.items() if status == "401"),
            "unanswered": sum(count for (_, status), count in counts.items() if status == "none"),
            "routes": routes,
        }

    def handle(self, request: Request, request_id: str) -> Answer | None:
        """Serve one request; None means to close the connection without an answer."""
        arrived = time.monotonic()
        found = find_route(request.method, request.path)
        if found is None:
            answer: Answer | None = error(404, "this route does not exist", request_id)
            name = "unknown route"
        else:
            answer = self._serve(request, *found, request_id)
            name = found[0].name
        status = answer.status if answer else None
        with self._lock:
            self._log.append(Record(arrived, request.method, request.shown, status))
            self._counts[name, str(status or "none")] += 1
        return answer

    def _serve(self, request: Request, route: Route, parameters: Mapping[str, str], request_id: str) -> Answer | None:
        with self._lock:
            if not self._admitted(request, route):
                return error(429, MESSAGES[429], request_id)
            strike = self._faults.strike(route.call)
        if strike.delay and self._stopping.wait(strike.delay):
            return None
        if before := strike.before():
            return _fail(before, request_id)
        self._observe("before", request)
        answer = self._act(request, route, parameters, strike, request_id)
        self._observe("after", request)
        after = strike.after()
        return _spoil(after, route, request_id) if after else answer

    def _act(
        self, request: Request, route: Route, parameters: Mapping[str, str], strike: Strike, request_id: str
    ) -> Answer:
        """Authenticate, count the use, do it: the only place where a request changes anything."""
        with self._lock:
            now = self.clock()
            try:
                caller = self._accounts.authenticate(request.secret, request.address, now)
                call = Call(self._accounts, caller, now, parameters, request.body, strike.view(now))
                return Answer(200, route.act(call))
            except Refused as refusal:
                return error(refusal.status, refusal.message, request_id)

    def _admitted(self, request: Request, route: Route) -> bool:
        if self._limits is None:
            return True
        caller = self._accounts.key_with(request.secret)
        account = request.address if caller is None else caller.organization or self._accounts.user.id
        creates = route.call == "create" and route.path.startswith("/organizations/")
        at = self._now().timestamp()
        return self._limits.admit(account, route.name, at, creates_organization_key=creates)

    def _observe(self, moment: Literal["before", "after"], request: Request) -> None:
        if self._observer is not None:
            self._observer(Event(moment, request.method, request.shown))


def _fail(fault: Fault, request_id: str) -> Answer | None:
    """The answer of a fault that comes before the effect."""
    if fault.status is None:
        return None
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return error(fault.status, MESSAGES.get(fault.status, "internal server error"), request_id, headers)


def _spoil(fault: Fault, route: Route, request_id: str) -> Answer | None:
    """The answer in place of the true one, of a fault that comes after the effect."""
    if fault.fault == "malformed":
        return Answer(200, raw=b"<html><body>One moment, please</body></html>")
    if fault.fault == "wrong_type":
        return Answer(200, wrong_shape(route.call))
    return _fail(fault, request_id)


def parse_listen(listen: str) -> tuple[str, int]:
    """`127.0.0.1:8788` or `[::1]:8788` as address and port. Raises `ValueError`."""
    host, _, port = listen.rpartition(":")
    if not re.fullmatch(r"[A-Za-z0-9.:%\[\]-]+", host) or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f"{listen!r} is not an address; expected HOST:PORT, such as 127.0.0.1:8788")
    return host.removeprefix("[").removesuffix("]"), int(port)


def serve(listen: str, keys: Sequence[str], faults: Sequence[str], rate_limits: bool) -> None:
    """The `sandbox` command: serve until SIGINT or SIGTERM. Must be called in the main thread.

    Raises `ValueError` (`FaultError` among them) for what makes no sense, before it listens, and `OSError`,
    with a sentence as its `strerror`, when the address cannot be had.
    """
    neon = Sandbox(keys, listen=parse_listen(listen), rate_limits=rate_limits)
    neon.arm([parse_text(text) for text in faults])
    ended = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda *_: ended.set()) for number in signals]
    try:
        _start(neon, listen)
        print(_greeting(neon), flush=True)
        ended.wait()
    finally:
        neon.stop()
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def _start(neon: Sandbox, listen: str) -> None:
    try:
        neon.start()
    except OSError as problem:
        reason = f"cannot listen on {listen}: {problem.strerror or problem}; choose another with --listen"
        raise OSError(problem.errno, reason) from problem


def _greeting(neon: Sandbox) -> str:
    control = neon.url.removesuffix(BASE_PATH) + "/_sandbox/faults"
    header = shlex.quote(f"Authorization: Bearer {neon.management_key}")
    return "\n".join(
        (
            f"A local Neon answers at {neon.url}",
            f"Its key is {neon.management_key} (id {neon.management_key_id})",
            f"Try: curl -H {header} {neon.url}/api_keys",
            f"""Faults: curl -d '{{"fault": "lost_answer", "on": "create"}}' {control}""",
        )
    )
