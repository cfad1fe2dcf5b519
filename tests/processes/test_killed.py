"""The service killed with SIGKILL again and again, at random moments and at every boundary to the outside.

Whatever it was in the middle of, no consumer may notice, and in the end there is one live key a policy, nothing
else, and a whole history. The random test lasts as long as ROTATOR_KILL_SECONDS says; ten minutes are 600.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
from sinks.builders import Reply, Request, until

from rotator.demo.consumers import Consumer, key_in_file
from rotator.demo.receiver import Receiver
from rotator.sandbox import Event

from .stage import PATIENCE, Service, Stage

SECONDS = float(os.environ.get("ROTATOR_KILL_SECONDS", "14"))
SEED = int(os.environ.get("ROTATOR_KILL_SEED", "20261123"))
LEAST_KILLS = 10
COMES_TO_REST_WITHIN = 150.0
BACK_OFF = 240.0  # seconds on Neon's clock: what a few losses in a row lead to need not be waited for
AT_REST = "30d"


def three_policies(hook: str, every: str) -> str:
    """A file, a webhook with a file, and a command; what each policy's consumer holds is in one place."""
    common = f"rotate: {{every: {every}}}, grace_period: 2s, hold: {{while_old_key_used_within: 1s}}"
    return f"""
sinks:
  web: {{type: file, path: web.env, format: dotenv, variable: KEY}}
  hook: {{type: webhook, url: "{hook}", signing_secret: {{env: HOOK_SECRET}}, timeout: 2s}}
  raw: {{type: file, path: ci.key}}
  store: {{type: command, run: [./store], timeout: 2s}}
policies:
  web: {{{common}, deliver_to: [web]}}
  ci: {{{common}, deliver_to: [hook, raw]}}
  job: {{{common}, deliver_to: [store]}}
"""


def test_killed_at_random_moments_no_consumer_notices_and_no_key_is_lost(a_stage: Callable[..., Stage]) -> None:
    """Ten times a second every consumer looks for its key anew and uses it."""
    with Receiver() as receiver:
        stage = a_stage(three_policies(receiver.url, "3s"))
        stage.environment["HOOK_SECRET"] = receiver.signing_secret
        stage.secrets.add(receiver.signing_secret)
        # It takes its time before and after, so that some deaths come in the middle of a hand-off.
        write = f'cd "{stage.folder}" && (printf KEY=; cat; echo) > job.new && mv job.new job.env'
        stage.script("store", f"sleep 0.3 && {write} && sleep 0.3")
        consumers = [
            Consumer("web", stage.neon.url, key_in_file(stage.folder / "web.env", "KEY")),
            Consumer("ci", stage.neon.url, receiver.key),
            Consumer("raw", stage.neon.url, lambda: stage.app("ci.key")),
            Consumer("job", stage.neon.url, key_in_file(stage.folder / "job.env", "KEY")),
        ]
        lots = random.Random(SEED)
        kills = 0
        for consumer in consumers:
            consumer.start()
        try:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end or kills < LEAST_KILLS:
                live_for_a_while(stage, lots)
                kills += 1
            stage.configure(three_policies(receiver.url, AT_REST))
            stage.neon.set_clock(BACK_OFF)
            stage.serve()
            comes_to_rest(stage, 3)
        finally:
            for consumer in consumers:
                consumer.stop()
        held = {"web": key_in_file(stage.folder / "web.env", "KEY")(), "ci": receiver.key(), "raw": stage.app("ci.key")}
        held["job"] = key_in_file(stage.folder / "job.env", "KEY")()
    lost = stage.events().count("key.orphaned")
    print(f"{kills} kills, {len(stage.neon.revoked())} keys revoked, {lost} of them orphans")
    for consumer in consumers:
        print(f"consumer {consumer.name}: {consumer.calls} calls, {consumer.failed} failed, {consumer.keys} keys")
        assert consumer.failed == 0, consumer.first_failure
        assert consumer.calls > 50
        assert consumer.keys >= 2
    assert stage.neon.stats()["unauthorized"] == 0
    assert held["ci"] == held["raw"]
    is_whole(stage, {name: held[name] for name in ("web", "ci", "job")})


def live_for_a_while(stage: Stage, lots: random.Random) -> None:
    """Start the service and kill it: now and then while it starts, mostly in the seconds after."""
    service = stage.serve(ready=False)
    if lots.random() < 0.8:
        service.wait_for("service.started")
        time.sleep(lots.uniform(0, 2.5))
    else:
        time.sleep(lots.uniform(0, 1))
    assert service.running, service.text
    service.kill()


def comes_to_rest(stage: Stage, policies: int) -> None:
    """Left alone, every policy ends with one live key, and Neon holds no other."""

    def rests() -> bool:
        if len(stage.ours) != policies:
            return False
        return all(entry["state"] == "ok" and not entry["older"] for entry in stage.status()["policies"])

    until(rests, COMES_TO_REST_WITHIN)


def is_whole(stage: Stage, held: Mapping[str, str | None]) -> None:
    """What status says is live is what each policy's sinks hold; every key that ever was is accounted for."""
    for entry in stage.status()["policies"]:
        assert stage.neon.secret_of(entry["live"]["id"]) == held[entry["policy"]]
    accounts_for_everything(stage)


def accounts_for_everything(stage: Stage) -> None:
    """The history is whole, and holds an intent and an outcome of every POST and DELETE that Neon saw."""
    ended = stage.rotator("history", "--verify")
    assert ended.status == 0, ended.err
    with contextlib.closing(sqlite3.connect(stage.state)) as connection:
        history = connection.execute("SELECT event, key_id, key_name FROM history").fetchall()

    def ids(*events: str) -> set[int]:
        return {key_id for event, key_id, _ in history if event in events}

    def names(*events: str) -> set[str]:
        return {name for event, _, name in history if event in events}

    intended, revoked = names("key.intended"), stage.neon.revoked()
    made = {key.id for key in (*stage.neon.keys(), *revoked) if key.name in intended}
    assert intended <= names("key.created", "key.orphaned", "intent.closed", "rotation.failed")
    assert made == ids("key.created", "key.orphaned")
    assert made | {stage.neon.management_key_id} >= {key.id for key in stage.neon.keys()}
    sent = [seen.status for seen in stage.neon.requests if seen.method == "POST"]
    assert sum(status in (200, None) for status in sent) <= len(intended)  # 503 may be sent again
    deleted = {int(seen.path.rpartition("/")[2]) for seen in stage.neon.requests if seen.method == "DELETE"}
    assert deleted <= ids("key.revoking")
    assert {key.id for key in revoked} == ids("api_key.revoked")


# At every boundary


class Killer:
    """Kills the service when something happens that it waits for."""

    def __init__(self) -> None:
        self.service: Service | None = None
        self.struck = threading.Event()
        self._awaited: str | None = None

    def await_(self, what: str) -> None:
        self.struck.clear()
        self._awaited = what

    def happens(self, what: str) -> None:
        if what == self._awaited and self.service is not None:
            self._awaited = None
            self.service.strike()
            self.struck.set()

    def sees(self, event: Event) -> None:
        """What the observer of the sandbox is called with."""
        self.happens(f"{event.moment} {event.method} /{event.path.split('/')[1]}")

    def hears(self, service: Service, line: str) -> None:
        self.happens(json.loads(line)["event"])


@contextmanager
def using(stage: Stage, find: Mapping[str, Callable[[], str | None]]) -> Iterator[list[str]]:
    """Consumers without HTTP, so that Neon's observer sees the service alone; yields the names of those refused."""
    refused: list[str] = []
    over = threading.Event()

    def use() -> None:
        while not over.wait(0.1):
            refused.extend(n for n, look in find.items() if (key := look()) and not stage.neon.use(key, "203.0.113.7"))

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    try:
        yield refused
    finally:
        over.set()
        thread.join()


AT_NEON = [
    f"{moment} {call}" for call in ("POST /api_keys", "GET /auth", "DELETE /api_keys") for moment in ("before", "after")
]
IN_THE_HISTORY = ["key.intended", "key.created", "sink.offered", "sink.receipted", "rotation.live", "key.revoking"]


@pytest.mark.parametrize(
    "boundaries",
    [AT_NEON, [*IN_THE_HISTORY, "api_key.revoked", "the receiver has read", "the receiver has read"]],
    ids=["at neon", "in the history and at the receiver"],
)
def test_killed_at_a_boundary_it_finds_out_what_happened(a_stage: Callable[..., Stage], boundaries: list[str]) -> None:
    """One after the other, each in a rotation of its own; then it is left alone."""
    killer = Killer()
    stage = a_stage(observer=killer.sees)
    receiver = stage.receiver()
    hook: dict[str, str] = {}

    def take(request: Request) -> Reply:
        message = request.json
        if message["type"] == "api_key.rotated":
            hook["secret"] = message["data"]["key"]["secret"]
            killer.happens("the receiver has read")
        return Reply(204)

    receiver.reply = take
    stage.configure(one_policy(receiver.url, "2s"))
    killer.service = stage.serve(hear=killer.hears)
    killer.service.wait_for("rotation.live")
    with using(stage, {"file": stage.app, "hook": lambda: hook.get("secret")}) as refused:
        for boundary in boundaries:
            killer.await_(boundary)
            assert killer.struck.wait(PATIENCE), f"{boundary} was never reached"
            killer.service.kill()
            killer.service = stage.serve(hear=killer.hears, ready=False)
            killer.service.wait_for("rotation.live")
            assert refused == [], boundary
        killer.service.kill()
        stage.configure(one_policy(receiver.url, AT_REST))
        stage.serve()
        comes_to_rest(stage, 1)
    assert refused == []
    assert stage.app() == hook["secret"]
    is_whole(stage, {"ci": stage.app()})


def one_policy(hook: str, every: str) -> str:
    """A file and then a webhook."""
    return f"""
sinks:
  app: {{type: file, path: app.env, format: dotenv, variable: NEON_API_KEY}}
  hook: {{type: webhook, url: "{hook}", signing_secret: {{file: signing}}, timeout: 1s}}
policies:
  ci:
    rotate: {{every: {every}}}
    grace_period: 1s
    hold: {{while_old_key_used_within: 0s}}
    deliver_to: [app, hook]
"""


BY_COMMANDS = ["the file is written", "the command has begun", "the command has read", "the command has stored"]


@pytest.mark.fault(
    "Process",
    "SIGKILL before and after a list, and before, in and after every hand-off",
    "The next start asks Neon what became of it; a key whose secret is lost is replaced and revoked.",
)
def test_killed_by_its_own_commands_it_finds_out_what_happened(
    a_stage: Callable[..., Stage], person_sees: Callable[[str], None]
) -> None:
    """Also while a list is read, and between a receiver's answer and its receipt."""
    killer = Killer()
    stage = a_stage(observer=killer.sees)
    receiver = stage.receiver()
    hook: dict[str, str] = {}

    def take(request: Request) -> Reply:
        message = request.json
        if message["type"] == "api_key.rotated":
            hook["secret"] = message["data"]["key"]["secret"]
            threading.Timer(0.003, killer.happens, ["the receiver has answered"]).start()
        return Reply(204)

    receiver.reply = take
    at = f'''cd "{stage.folder}"
at() {{ if [ "$(cat at)" = "$1" ]; then : > at; kill -KILL "$(cat pid)"; exec sleep 60; fi; }}
'''
    stage.script("note", f'{at}at "{BY_COMMANDS[0]}"')
    store = "key=$(cat); at '{}'; printf %s $key > job.new; mv job.new job.key; at '{}'".format(*BY_COMMANDS[2:])
    stage.script("job", f"{at}at '{BY_COMMANDS[1]}'; {store}")
    (stage.folder / "at").touch()

    def serve() -> Service:
        killer.service = service = stage.serve(hear=killer.hears, ready=False)
        (stage.folder / "pid").write_text(str(service.pid))
        service.wait_for("rotation.live")
        return service

    def configure(every: str) -> None:
        text = one_policy(receiver.url, every).replace("[app, hook]", "[app, job, hook]")
        text = text.replace("NEON_API_KEY}", "NEON_API_KEY, after_write: [./note], timeout: 1s}")
        stage.configure(text.replace("policies:", "  job: {type: command, run: [./job], timeout: 1s}\npolicies:"))

    configure("2s")
    passed = 0.0
    service = serve()
    consumers = {"file": stage.app, "hook": lambda: hook.get("secret"), "job": lambda: stage.app("job.key")}
    with using(stage, consumers) as refused:
        for boundary in [*BY_COMMANDS, "before GET /api_keys", "after GET /api_keys", "the receiver has answered"]:
            (stage.folder / "at").write_text(boundary)
            killer.await_(boundary)
            until(lambda: not service.running, PATIENCE)  # noqa: B023
            service.kill()
            passed += 3.0
            stage.neon.set_clock(passed)  # what was offered is long taken in
            service = serve()
            if boundary == "the command has stored":
                orphaned = service.told("key.orphaned")[0]["why"]
            assert refused == [], boundary
        service.kill()
        configure(AT_REST)
        stage.serve()
        comes_to_rest(stage, 1)
    person_sees(orphaned)
    assert refused == []
    assert stage.app() == stage.app("job.key") == hook["secret"]
    is_whole(stage, {"ci": stage.app()})
