"""SIGTERM in the middle of every step, and what the next start makes of it.

The single steps, and how soon each lets the service end, are in test_service.py; here they all happen at once.
"""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sinks.builders import Reply, Request, is_alive, until

from rotator.sandbox import Event

from .stage import ONE_POLICY, PATIENCE, Stage
from .test_full_disk import order
from .test_killed import accounts_for_everything
from .test_service import ENDS_WITHIN, MAY_BE_LATE

Sees = Callable[[str], None]
SOON = "rotate: {{every: 30d}}, grace_period: 3s, hold: {{while_old_key_used_within: 0s}}"
OLD = f"""
sinks:
  old: {{type: file, path: old.key}}
policies:
  old: {{{SOON.format()}, deliver_to: [old]}}
"""
ALL = f"""
sinks:
  hook: {{{{type: webhook, url: "{{url}}", signing_secret: {{{{file: signing}}}}, timeout: 7s}}}}
  job: {{{{type: command, run: [./job], timeout: 7s}}}}
  after: {{{{type: file, path: after.key, after_write: [./reload], timeout: 7s}}}}
  auth: {{{{type: file, path: auth.key}}}}
  post: {{{{type: file, path: post.key}}}}
{OLD.replace("sinks:", "").replace("{", "{{").replace("}", "}}").strip(chr(10))}
  hook: {{{{{SOON}, deliver_to: [hook]}}}}
  job: {{{{{SOON}, deliver_to: [job]}}}}
  after: {{{{{SOON}, deliver_to: [after]}}}}
  auth: {{{{{SOON}, deliver_to: [auth]}}}}
  post: {{{{{SOON}, deliver_to: [post]}}}}
"""
SQLITE_WAITS = 10.0  # seconds that a writer waits for another
LATER = ("  auth:", "  post:")  # when nothing else is left to be checked


class Held:
    """Whatever reaches it waits, while it holds; `reached` says what did."""

    def __init__(self) -> None:
        self.reached: set[str] = set()
        self.checks = self.lists = False
        self.go_on = threading.Event()

    def here(self, what: str) -> None:
        self.reached.add(what)
        self.go_on.wait(PATIENCE)


@pytest.mark.fault(
    "Process",
    "SIGTERM in the middle of a POST, a check, a webhook, a command, a DELETE and a list, all at once",
    "It ends with 0 within ten seconds; the next start finds out what became of each, and no key is left over.",
)
def test_in_the_middle_of_every_step_at_once(a_stage: Callable[..., Stage], person_sees: Sees) -> None:
    held = Held()

    def observe(event: Event) -> None:
        if held.go_on.is_set() or event.moment == "before":
            return
        if event.method == "POST" and stage.neon.keys()[0].name.startswith("post-"):
            held.here("post")
        elif event.method == "DELETE":
            held.here("delete")
        elif event.path == "/auth" and held.checks:
            held.here("auth")
        elif event.path == "/api_keys" and event.method == "GET" and held.lists:
            held.here("list")

    held.go_on.set()
    stage = a_stage(observer=observe)
    receiver = stage.receiver()
    given: list[str] = []

    def take(request: Request) -> Reply:
        if request.json["type"] == "api_key.rotated":
            given.append(request.json["data"]["key"]["secret"])
            held.here("hook")
        return Reply(204)

    receiver.reply = take
    wait = f'if [ ! -e "{stage.folder}/go-on" ]; then echo $$ > "{stage.folder}/PID"; exec sleep 60; fi'
    stage.script("job", f'cat > "{stage.folder}/job.key"\n{wait.replace("PID", "job.pid")}')
    stage.script("reload", wait.replace("PID", "reload.pid"))
    stage.configure(OLD)
    stage.settle()
    order(stage, "old")
    stage.settle()
    assert len(stage.ours) == 2
    held.go_on.clear()
    text = ALL.format(url=receiver.url)
    stage.configure("".join(line for line in text.splitlines(keepends=True) if not line.startswith(LATER)))
    service = stage.serve(ready=False)
    until(lambda: held.reached == {"delete", "hook"}, PATIENCE)
    commands = [
        until(lambda name=name: pid_in(stage, name), PATIENCE)  # type: ignore[misc]
        for name in ("job.pid", "reload.pid")
    ]
    held.checks = True
    stage.configure(text)
    service.signal(signal.SIGHUP)
    until(lambda: {"post", "auth"} <= held.reached, PATIENCE)
    held.lists = True
    until(lambda: "list" in held.reached, PATIENCE)
    status, lasted = service.end()
    assert status == 0
    assert lasted < ENDS_WITHIN + MAY_BE_LATE
    person_sees(service.told("service.stopped")[0]["why"])
    until(lambda: not any(is_alive(pid) for pid in commands))
    (stage.folder / "go-on").touch()
    held.go_on.set()

    service = stage.serve(ready=False)
    names = ("hook", "job", "after", "auth", "post")
    for name in names:
        service.wait_for("rotation.live", policy=name)
    until(lambda: len(stage.ours) == len(names) + 1, PATIENCE)
    for name in (*names[1:], "old"):
        assert stage.works(stage.app(f"{name}.key")), name
    assert stage.works(given[-1])
    until(lambda: all(entry["state"] == "ok" for entry in stage.status()["policies"]), PATIENCE)
    accounts_for_everything(stage)


def pid_in(stage: Stage, name: str) -> int:
    """The process that wrote its number there, or 0."""
    try:
        return int((stage.folder / name).read_text() or 0)
    except FileNotFoundError:
        return 0


@pytest.mark.fault(
    "State",
    "The state is gone while a receipt is to be written, and the service is ended",
    "It ends with 0; the next start replaces the key whose secret went with it.",
)
def test_while_it_waits_for_the_state(a_stage: Callable[..., Stage], person_sees: Sees) -> None:
    """Whoever took the key goes on with it until its successor is there."""
    stage = a_stage()
    receiver = stage.receiver()
    away = stage.folder / "away.db"

    def take(request: Request) -> Reply:
        if not away.exists() and len(receiver.requests) == 1:
            stage.state.rename(away)
        return Reply(204)

    receiver.reply = take
    stage.configure(
        f"""
sinks:
  hook: {{type: webhook, url: "{receiver.url}", signing_secret: {{file: signing}}, timeout: 1s}}
policies:
  ci: {{rotate: {{every: 30d}}, grace_period: 1s, hold: {{while_old_key_used_within: 0s}}, deliver_to: [hook]}}
"""
    )
    service = stage.serve(ready=False)
    person_sees(service.wait_for("state.unavailable", policy="ci")["why"])
    status, lasted = service.end()
    assert status == 0
    assert lasted < ENDS_WITHIN
    (lost,) = stage.ours
    away.rename(stage.state)
    service = stage.serve(ready=False)
    service.wait_for("rotation.live")
    until(lambda: stage.ours and lost not in stage.ours, PATIENCE)
    (key,) = stage.ours
    assert receiver.requests[-1].json["data"]["key"]["id"] == key
    accounts_for_everything(stage)


@pytest.mark.fault(
    "State",
    "Another process holds the state while the service is to load its configuration again, and it is ended",
    "It ends at once: it waits for none of the reloads, and begins no other.",
)
def test_while_reloads_wait_for_the_state(stage: Stage, person_sees: Sees) -> None:
    stage.configure(ONE_POLICY, poll_every="1h")
    service = stage.serve()
    threads = Path(f"/proc/{service.pid}/task")
    before = len(list(threads.iterdir()))
    with contextlib.closing(sqlite3.connect(stage.state, isolation_level=None)) as state:
        state.execute("BEGIN IMMEDIATE")
        service.signal(signal.SIGHUP)
        until(lambda: len(list(threads.iterdir())) > before)
        for _ in range(3):
            service.signal(signal.SIGHUP)
        status, lasted = service.end()
    assert status == 0
    assert lasted < SQLITE_WAITS
    assert not service.told("config.refused")
    person_sees(service.told("service.stopped")[0]["why"])
