"""Looking in from outside: `/healthz`, `/readyz`, `/metrics` for Prometheus, and `/`, the status in plain text.

A threaded WSGI server of the standard library, only for reading: it has no path that changes anything,
and shows what `rotator status` shows. Everything is computed when it is asked for.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from rotator import log
from rotator.errors import NeedsPerson, RotatorError
from rotator.secret import blank
from rotator.status import PolicyState, needs_a_person, status_document

if TYPE_CHECKING:
    from rotator.assembly import Assembly

_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"
_LIST_SLACK = timedelta(minutes=1)


class Web:
    """Serves on `config.listen`; `alive` says whether the service's threads still do their work."""

    def __init__(self, assembly: Assembly, alive: Callable[[], bool]) -> None:
        self._assembly = assembly
        self._alive = alive
        self._server: WSGIServer | None = None
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(self))
        ProcessCollector(registry=self._registry)

    def start(self) -> None:
        """Listen, if the configuration says where. Raises NeedsPerson if that address cannot be had."""
        listen = self._assembly.config.listen
        if listen is None:
            return
        host, port = listen
        try:
            self._server = make_server(host, port, self._answer, _server_class(host), _Quiet)
        except OSError as error:
            raise NeedsPerson(
                f"the service cannot listen on {host}:{port}: {error.strerror}", "choose another address under listen"
            ) from None
        threading.Thread(target=self._server.serve_forever, name="web", daemon=True).start()

    @property
    def port(self) -> int | None:
        """The port that is listened on."""
        return self._server.server_port if self._server is not None else None

    def stop(self) -> None:
        """Give the port back."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        pages = {"/healthz": self._health, "/readyz": self._readiness, "/metrics": self._metrics, "/": self._page}
        page = pages.get(environ.get("PATH_INFO", "/"))
        if page is None:
            status, kind, body = "404 Not Found", _TEXT, f"there are: {', '.join(pages)}\n"
        elif environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            status, kind, body = "405 Method Not Allowed", _TEXT, "only GET\n"
        else:
            try:
                status, kind, body = page()
            except RotatorError as error:
                status, kind, body = "503 Service Unavailable", _TEXT, f"{error}\n"
            except Exception as error:  # noqa: BLE001 - a fault of ours; wsgiref would print it past the log
                log.crash(error)
                status, kind, body = "500 Internal Server Error", _TEXT, "a bug; the log tells where\n"
        data = blank(body).encode()
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(data)))])
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [data]

    def _health(self) -> tuple[str, str, str]:
        if self._alive():
            return "200 OK", _TEXT, "ok\n"
        return "503 Service Unavailable", _TEXT, "the service's threads do not advance\n"

    def _readiness(self) -> tuple[str, str, str]:
        reason = self.not_ready()
        if reason:
            return "503 Service Unavailable", _TEXT, f"{reason}\n"
        return "200 OK", _TEXT, "leader\n"

    def not_ready(self) -> str:
        """Why the service cannot do its work now, or an empty string."""
        assembly = self._assembly
        now = assembly.clock.now()
        try:
            assembly.store.set_meta("probed_at", now.isoformat())
        except RotatorError as error:
            return str(error)
        for account, (error_text, _) in assembly.engine.outside.lists.troubles().items():
            return f"the keys of {account} cannot be listed: {error_text}"
        lists = assembly.engine.outside.lists.newest()
        if not lists and assembly.config.policies:
            return "Neon's list of keys has not been read yet"
        oldest = min((listing.requested_at for listing in lists.values()), default=now)
        if now - oldest > 2 * assembly.config.neon.poll_every + _LIST_SLACK:
            return f"Neon's list of keys was last read at {oldest:%Y-%m-%d %H:%M:%S} UTC"
        return ""

    def _metrics(self) -> tuple[str, str, str]:
        return "200 OK", _METRICS, generate_latest(self._registry).decode()

    def _page(self) -> tuple[str, str, str]:
        document = self.document()
        lines = [f"rotator, as of {document['as_of'] or 'never'}", ""]
        for entry in document["policies"]:
            live = entry["live"]["name"] if entry["live"] else "no live key"
            step = entry["next"]
            lines.append(f"{entry['policy']}: {entry['state']}; {live}; {step['why'] if step else 'not decided yet'}")
        return "200 OK", _TEXT, "\n".join(lines) + "\n"

    def document(self) -> dict[str, Any]:
        """What `status --json` shows."""
        assembly = self._assembly
        return status_document(
            assembly.config.policies,
            assembly.store.records(),
            assembly.store.outlooks(),
            as_of=assembly.store.as_of(),
            leader=True,
            head=assembly.store.head(),
        )

    def families(self) -> Iterator[Metric]:
        """The metrics, from the same document."""
        document = self.document()
        ready = GaugeMetricFamily("rotator_ready", "Whether the service can do its work now.")
        ready.add_metric([], float(not self.not_ready()))
        yield ready
        trouble = GaugeMetricFamily("rotator_needs_person", "Whether some policy needs a person.")
        trouble.add_metric([], float(needs_a_person(document)))
        yield trouble
        yield from _policy_families(document)
        calls = CounterMetricFamily("rotator_neon_requests", "Requests to Neon.", labels=["method", "status"])
        for (method, status), count in sorted(self._assembly.neon.calls.items(), key=str):
            calls.add_metric([method, str(status)], count)
        yield calls
        unused = GaugeMetricFamily("rotator_unused_keys", "Keys that are flagged as unused.")
        unused.add_metric([], len(self._assembly.store.flags()))
        yield unused


def _policy_families(document: dict[str, Any]) -> Iterator[Metric]:
    policy = ["policy"]
    state = GaugeMetricFamily(
        "rotator_policy_state", "1 for the state that the policy is in.", labels=["policy", "state"]
    )
    created = GaugeMetricFamily(
        "rotator_live_key_created_timestamp_seconds", "When the live key was created.", labels=policy
    )
    older = GaugeMetricFamily("rotator_older_keys", "Retiring and held keys, and orphans.", labels=policy)
    failures = GaugeMetricFamily("rotator_failures", "Attempts that failed in a row.", labels=policy)
    coming = GaugeMetricFamily("rotator_next_step_timestamp_seconds", "When the next step is due.", labels=policy)
    for entry in document["policies"]:
        name = entry["policy"]
        for word in PolicyState:
            state.add_metric([name, word.value], float(entry["state"] == word))
        if entry["live"]:
            created.add_metric([name], datetime.fromisoformat(entry["live"]["created_at"]).timestamp())
        older.add_metric([name], len(entry["older"]))
        failures.add_metric([name], entry["failures"])
        if entry["next"] and entry["next"]["at"]:
            coming.add_metric([name], datetime.fromisoformat(entry["next"]["at"]).timestamp())
    yield from (state, created, older, failures, coming)


class _Collector:
    def __init__(self, web: Web) -> None:
        self._web = web

    def collect(self) -> Iterator[Metric]:
        return self._web.families()

    def describe(self) -> Iterator[Metric]:
        return iter(())  # or the registry would compute everything once at the start


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds: a client that sends nothing holds no thread for longer

    def log_message(self, format: str, *args: Any) -> None:
        return


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to tell; the rest goes through the log, where secrets are blanked."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            log.crash(error)


def _server_class(host: str) -> type[WSGIServer]:
    return type("_Server6", (_Server,), {"address_family": socket.AF_INET6}) if ":" in host else _Server
