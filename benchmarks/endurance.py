"""An hour of the real service at the pace that the limit of requests allows, and whether anything in it grows.

Three processes: the local Neon (`rotator sandbox`), the service (`rotator run`), and this one, which has the
consumers, the receivers and the measuring. The consumers look for their key before every call, in a file, in what a
webhook was sent or in what a command wrote, and call Neon with it, all the time.

What the service needs most of is requests: at 700 a minute, the most that can be configured, and some three
for a rotation, the hour has room for some 12,000. Its state begins with a history as long as that of a service that
has been there for two years, so that the rule by which old entries go works from the start.

At the end every policy gets a long cadence, the old keys have their time to go, and then it is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sampling import Sample, plot, sample, slope, write_csv
from stage import ROOT, ROTATOR

from rotator.config import load
from rotator.demo.consumers import Consumer, key_in_file
from rotator.demo.receiver import Receiver
from rotator.model import Event
from rotator.store import Store

GRACE = 3
QUIET = 2
POLL_EVERY = 10
CALLING_THREADS = 3
CALM_WITHIN = 120.0
NOT_EXPECTED = ("crash", "api_key.missing", "history.broken", "key.orphaned", "sink.drifted", "state.unavailable")
YEARS = timedelta(days=730)
VARIABLE = "NEON_API_KEY"


@dataclass(frozen=True)
class Stage:
    """Where everything is, and who uses the keys. `receivers` by policy; the last one takes the events."""

    folder: Path
    neon: str
    management_key_id: int
    metrics: str
    receivers: dict[str, Receiver]
    consumers: list[Consumer]

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def state(self) -> Path:
        return self.folder / "state.db"

    def rotator(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*ROTATOR, "--config", str(self.config), *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--policies", type=int, default=36)
    parser.add_argument("--every", type=int, default=9, help="seconds between two rotations of a policy")
    parser.add_argument("--calls", type=float, default=60, help="consumers' calls a second, of all together")
    parser.add_argument("--history", type=int, default=99_000, help="entries that the state begins with")
    parser.add_argument("--sample-every", type=float, default=30, help="seconds")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="rotator-endurance-"))
        stage = stack.enter_context(a_stage(folder, options.policies, options.every))
        remember_two_years(stage, options.history)
        service = stack.enter_context(a_service(stage))
        stack.enter_context(calling(stage.consumers, options.calls))
        samples = watch(service, stage, 60 * options.minutes, options.sample_every)
        write_csv(samples, folder / "samples.csv")
        faults = come_to_rest(service, stage, options.policies)
    faults += settle(service, stage)
    report(samples, stage)
    print(f"\nall samples: {folder / 'samples.csv'}" + (", and the state and the log beside them" if faults else ""))
    print("\n".join(f"FAULT: {fault}" for fault in faults) or "no fault was found")
    for path in () if faults else (stage.state, stage.folder / "log"):
        path.unlink()
    return 1 if faults else 0


# The stage


@contextmanager
def a_stage(folder: Path, policies: int, every: int) -> Iterator[Stage]:
    names = [f"policy-{number:02}" for number in range(policies)]
    secret = "napi_" + secrets.token_hex(32)
    port = free_port()
    with ExitStack() as stack:
        command = [*ROTATOR, "sandbox", "--listen", f"127.0.0.1:{port}", "--key", secret]
        neon = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        stack.callback(neon.wait)
        stack.callback(neon.terminate)
        assert neon.stdout is not None
        greeting = "".join(neon.stdout.readline() for _ in range(2))
        key_id = int(re.findall(r"\(id (\d+)\)", greeting)[0])
        receivers = {name: stack.enter_context(Receiver()) for name in [*names[1::3], "events"]}
        stage = Stage(folder, f"http://127.0.0.1:{port}/api/v2", key_id, metrics_of(free_port()), receivers, [])
        (folder / "keys").mkdir()
        (folder / "management-key").write_text(secret)
        for number, name in enumerate(names):
            for sink in sinks_of(number, name):
                where = receivers[name].key if sink.startswith("hook") else in_file(folder / "keys" / sink)
                stage.consumers.append(Consumer(f"{name} {sink}", stage.neon, where))
        configure(stage, names, f"{every}s", f"{GRACE}s")
        yield stage


def sinks_of(number: int, name: str) -> list[str]:
    """A third of the policies hand to a file, a third to a webhook, a third to a file and then to a command."""
    return [[f"file-{name}"], [f"hook-{name}"], [f"file-{name}", f"command-{name}"]][number % 3]


def in_file(path: Path) -> Callable[[], str | None]:
    return key_in_file(path, VARIABLE)


def configure(stage: Stage, names: Sequence[str], every: str, grace: str) -> None:
    lines = [
        "neon:",
        "  api_key: {file: management-key}",
        f"  api_key_id: {stage.management_key_id}",
        f"  api_url: {stage.neon}",
        "  requests_per_minute: 700",
        f"  poll_every: {POLL_EVERY}s",
        "state: sqlite:///state.db",
        f"listen: {stage.metrics.split('/')[2]}",
        "notify: [events]",
        "sinks:",
        webhook("events", stage.receivers["events"]),
    ]
    for number, name in enumerate(names):
        for sink in sinks_of(number, name):
            file = stage.folder / "keys" / sink
            if sink.startswith("file"):
                lines.append(f"  {sink}: {{type: file, path: {file}, format: dotenv, variable: {VARIABLE}}}")
            elif sink.startswith("hook"):
                lines.append(webhook(sink, stage.receivers[name]))
            else:
                script = f"(printf %s= {VARIABLE} && cat && echo) >{file}.new && mv {file}.new {file}"
                lines.append(f"  {sink}: {{type: command, run: [sh, -c, {json.dumps(script)}]}}")
    lines.append("policies:")
    for number, name in enumerate(names):
        lines += [
            f"  {name}:",
            f"    rotate: {{every: {every}}}",
            f"    grace_period: {grace}",
            f"    hold: {{while_old_key_used_within: {QUIET}s}}",
            f"    deliver_to: [{', '.join(sinks_of(number, name))}]",
        ]
    stage.config.write_text("\n".join(lines) + "\n")


def webhook(sink: str, receiver: Receiver) -> str:
    return f"  {sink}: {{type: webhook, url: {receiver.url}, signing_secret: {{env: {variable_of(sink)}}}}}"


def variable_of(sink: str) -> str:
    return f"SECRET_{sink.upper().replace('-', '_')}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def metrics_of(port: int) -> str:
    return f"http://127.0.0.1:{port}/metrics"


def remember_two_years(stage: Stage, entries: int) -> None:
    """Write the history of two years of which nothing else is left, as the store itself writes it."""
    os.environ.update(signing_secrets(stage))
    began = datetime.now(UTC) - YEARS
    with closing(Store(load(stage.config).state)) as store:
        for start in range(0, entries, 1000):
            numbers = range(start, min(start + 1000, entries))
            store.tell([past(number) for number in numbers], began + YEARS * start / entries)


def past(number: int) -> Event:
    generation, name = number // 8 + 1, f"former-{number % 20:02}"
    why = f"the live key {name}-20250301T101112Z-abcdef was created at 2025-03-01 10:11:12 UTC and is due 30d later"
    return Event("key.intended", why, name, generation, 1_000_000 + generation, f"{name}-20250301T101112Z-abcdef")


def signing_secrets(stage: Stage) -> dict[str, str]:
    sinks = {name if name == "events" else f"hook-{name}": receiver for name, receiver in stage.receivers.items()}
    return {variable_of(sink): receiver.signing_secret for sink, receiver in sinks.items()}


# Running


@contextmanager
def a_service(stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    with (stage.folder / "log").open("ab") as log:
        command = [*ROTATOR, "--config", str(stage.config), "run"]
        process = subprocess.Popen(command, cwd=ROOT, stderr=log, env=os.environ | signing_secrets(stage))
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def calling(consumers: Sequence[Consumer], per_second: float) -> Iterator[None]:
    """Let the consumers call in turn, from a few threads."""
    over = threading.Event()

    def call(share: Sequence[Consumer]) -> None:
        pause = CALLING_THREADS / per_second
        while not over.is_set():
            for consumer in share:
                consumer.use_once()
                over.wait(pause)

    threads = [threading.Thread(target=call, args=(consumers[n::CALLING_THREADS],)) for n in range(CALLING_THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
        for consumer in consumers:
            consumer.stop()


def watch(service: subprocess.Popen[bytes], stage: Stage, seconds: float, every: float) -> list[Sample]:
    samples: list[Sample] = []
    begins = time.monotonic()
    wait_until(lambda: is_served(stage), 60)
    while (passed := time.monotonic() - begins) < seconds and service.poll() is None:
        samples.append(sample(service.pid, stage.state, stage.metrics, passed))
        print(brief(samples[-1]), file=sys.stderr, flush=True)
        time.sleep(min(every, max(0.0, seconds - passed)))
    return samples


def brief(seen: Sample) -> str:
    return (
        f"{seen.seconds:6.0f} s: {seen.rotations} rotations, {seen.rss:.1f} MiB, {seen.descriptors} descriptors, "
        f"{seen.threads} threads, entries {seen.first_entry} to {seen.newest_entry}, {seen.database:.1f} MiB + WAL "
        f"{seen.wal:.1f} MiB"
    )


def come_to_rest(service: subprocess.Popen[bytes], stage: Stage, policies: int) -> list[str]:
    """Let the rotations end, and look at what is left; every fault in a sentence."""
    if service.poll() is not None:
        return [f"the service ended by itself, with {service.returncode}"]
    configure(stage, list(load(stage.config).policies), "30d", f"{GRACE}s")
    service.send_signal(signal.SIGHUP)
    faults = []
    if not wait_until(lambda: len(living(stage)) == policies + 1, CALM_WITHIN):
        names = Counter(name.rsplit("-", 2)[0] for name in living(stage))
        faults.append(f"keys are left over, or missing: {names}")
    routes = asked(stage, "stats")["routes"]
    created, revoked = (routes[route]["200"] for route in ("POST /api_keys", "DELETE /api_keys/{key_id}"))
    print(f"keys created: {created}, revoked: {revoked}, left: {created - revoked}")
    if created - revoked != policies:
        faults.append(f"{created} keys were created and {revoked} revoked")
    status = stage.rotator("status", "--json")
    for policy in json.loads(status.stdout)["policies"]:
        if policy["state"] != "ok" or policy["older"]:
            faults.append(f"{policy['policy']} is {policy['state']}: {policy['next']}")
    return faults


def settle(service: subprocess.Popen[bytes], stage: Stage) -> list[str]:
    """What is to be seen after the end."""
    faults = [f"{c.name}: {c.failed} calls failed: {c.first_failure}" for c in stage.consumers if c.failed]
    if service.returncode != 0:
        faults.append(f"the service ended with {service.returncode}")
    verdict = stage.rotator("history", "--verify")
    print(verdict.stdout + verdict.stderr, end="")
    if verdict.returncode:
        faults.append("the history is not whole")
    events = Counter(event["event"] for event in map(json.loads, (stage.folder / "log").open()))
    print("events:", ", ".join(f"{name} {count}" for name, count in sorted(events.items())))
    faults += [f"{name} was told" for name in NOT_EXPECTED if events[name]]
    return faults


def living(stage: Stage) -> list[str]:
    """The names of the keys that Neon has, as it truly is."""
    return [key["name"] for key in asked(stage, "keys")]


def asked(stage: Stage, what: str) -> Any:
    base = stage.neon.removesuffix("/api/v2")
    with urllib.request.urlopen(f"{base}/_sandbox/{what}", timeout=30) as answer:
        return json.load(answer)


def is_served(stage: Stage) -> bool:
    try:
        return bool(urllib.request.urlopen(stage.metrics, timeout=5).status == 200)
    except OSError:
        return False


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


# Telling


def report(samples: Sequence[Sample], stage: Stage) -> None:
    first, last = samples[0], samples[-1]
    half = [each for each in samples if each.seconds >= last.seconds / 2]
    rotations = last.rotations
    calls = sum(consumer.calls for consumer in stage.consumers)
    print(f"\n`python {shlex.join(sys.argv)}`: {last.seconds / 60:.0f} minutes, {len(stage.consumers)} consumers\n")
    print("| what | at the start | half-way | at the end | most |\n|---|---|---|---|---|")
    for words, name, digits in (
        ("resident memory, MiB", "rss", 1),
        ("its own share of it (PSS), MiB", "pss", 1),
        ("anonymous memory, MiB", "anonymous", 1),
        ("file descriptors", "descriptors", 0),
        ("threads", "threads", 0),
        ("child processes", "children", 0),
        ("database, MiB", "database", 1),
        ("WAL, MiB", "wal", 1),
        *((f"rows of `{table}`", table, 0) for table in ("history", "uses", "notices", "outlooks", "records", "meta")),
    ):
        values = [float(getattr(each, name)) for each in (first, half[0], last)]
        values.append(max(float(getattr(each, name)) for each in samples))
        print(f"| {words} | {' | '.join(f'{value:.{digits}f}' for value in values)} |")
    print(f"\nrotations: {rotations}; requests each: {last.requests / max(rotations, 1):.2f}; ", end="")
    print(f"CPU each: {1000 * (last.cpu - first.cpu) / max(rotations, 1):.0f} ms, with the commands")
    print(f"consumers' calls: {calls}, failed: {sum(c.failed for c in stage.consumers)}, ", end="")
    print(f"without an answer: {sum(c.unanswered for c in stage.consumers)}")
    print(f"entries written: {last.newest_entry - first.newest_entry}, pruned: {last.first_entry - 1}")
    for words, name in (("resident", "rss"), ("anonymous", "anonymous")):
        grown = slope([(each.seconds, float(getattr(each, name))) for each in half])
        print(f"{words} memory over the second half: {grown:+.2f} MiB an hour (least squares)")
    print("\n" + plot("resident memory, MiB", samples, "rss"))
    print("\n" + plot("database, MiB", samples, "database"))


if __name__ == "__main__":
    sys.exit(main())
