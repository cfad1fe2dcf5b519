"""`rotator run` as systemd and a container see it: started, reloaded, ended, and among sinks and a Neon that fail."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sinks.builders import Receiver, Reply, Request, is_alive, until
from standardwebhooks import Webhook

from .stage import ONE_POLICY, PATIENCE, Stage, a_free_port

ENDS_WITHIN = 10.0
MAY_BE_LATE = 1.5  # seconds that a busy machine may add
DAY = 86_400


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


class Manager:
    """The socket on which a service manager listens."""

    def __init__(self, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path)}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def hears(self, limit: float = PATIENCE) -> str:
        """The next thing that it is told."""
        self._socket.settimeout(limit)
        return self._socket.recv(4096).decode()

    def close(self) -> None:
        self._socket.close()


class Hanging:
    """A receiver's reply that does not come before it is let go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, _: Request) -> Reply:
        self.go_on.wait(PATIENCE)
        return Reply(204)


def hooked(receiver: Receiver, timeout: str = "15s", rest: str = "") -> str:
    """`ci` delivers to a webhook."""
    return f"""
sinks:
  hook: {{type: webhook, url: "{receiver.url}", signing_secret: {{file: signing}}, timeout: {timeout}}}
  app: {{type: file, path: app.env, format: dotenv, variable: NEON_API_KEY}}
policies:
  ci: {{rotate: {{every: 30d}}, deliver_to: [hook]}}
{rest}"""


class TestTheLog:
    def test_every_line_is_an_event_in_json(self, stage: Stage) -> None:
        """With a level, a time, and why; with the policy and the key where it is about one."""
        service = stage.serve()
        (key,) = stage.ours
        assert service.end()[0] == 0
        for line in service.lines:
            assert {"event", "level", "timestamp", "why"} <= set(line)
            assert line["level"] in ("info", "warning", "error")
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])
        (live,) = service.told("rotation.live")
        assert (live["policy"], live["key_id"], live["generation"]) == ("ci", key, 1)
        names = [line["event"] for line in service.lines]
        assert names[0] == "service.started"
        assert names[-2:] == ["service.stopping", "service.stopped"]
        assert stage.events() == [name for name in names if name.split(".")[0] in ("key", "sink", "rotation")]

    def test_on_a_terminal_it_is_for_people(self, stage: Stage) -> None:
        """The same words, without JSON; checked with a command that logs the same way."""
        shown = stage.on_a_terminal("apply", environ={"NO_COLOR": "1"}).out
        assert re.search(r"rotation\.live +.*policy=ci", shown)
        assert "{" not in shown


class TestAServiceManager:
    def test_it_is_told_when_the_service_is_ready_reloads_and_stops(self, stage: Stage, manager: Manager) -> None:
        service = stage.serve(environ=manager.environ, ready=False)
        assert manager.hears() == "READY=1"
        service.signal(signal.SIGHUP)
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", manager.hears())
        assert manager.hears() == "READY=1"
        assert service.end()[0] == 0
        assert manager.hears() == "STOPPING=1"

    def test_it_is_told_that_the_service_lives(self, stage: Stage, manager: Manager) -> None:
        """As often as it asks for, at twice the pace."""
        stage.serve(environ={**manager.environ, "WATCHDOG_USEC": "2000000"}, ready=False)
        assert manager.hears() == "READY=1"
        assert [manager.hears(10), manager.hears(10)] == ["WATCHDOG=1"] * 2

    def test_it_is_told_that_the_service_is_ready_although_neon_is_down(self, stage: Stage, manager: Manager) -> None:
        """Else it would end a service that only waits."""
        stage.neon.stop()
        stage.serve(environ=manager.environ, ready=False)
        assert manager.hears() == "READY=1"


class TestTheEnd:
    """SIGTERM ends the service with 0 within ten seconds, whatever it is in the middle of."""

    def ends(self, service: Any) -> None:
        status, lasted = service.end()
        assert status == 0, service.text
        assert lasted < ENDS_WITHIN + MAY_BE_LATE
        assert service.told("service.stopped")

    def test_while_it_waits(self, stage: Stage) -> None:
        """That is quick."""
        service = stage.serve()
        status, lasted = service.end()
        assert status == 0
        assert lasted < 3

    def test_in_the_middle_of_its_start(self, stage: Stage) -> None:
        """It has the state's lock, and has begun nothing. A SIGHUP then changes nothing."""
        service = stage.serve(ready=False)
        lock = stage.folder / "rotator.db.lock"
        until(lambda: read(lock), PATIENCE)
        service.signal(signal.SIGHUP)
        assert service.end()[0] == 0

    def test_sigint_is_the_same(self, stage: Stage) -> None:
        service = stage.serve()
        service.signal(signal.SIGINT)
        assert service.wait() == 0

    def test_in_a_webhook_that_hangs(self, a_stage: Callable[..., Stage]) -> None:
        """The key that was on its way is settled by the next start."""
        stage = a_stage()
        receiver = stage.receiver()
        receiver.reply = hanging = Hanging()
        stage.configure(hooked(receiver, "60s"))
        service = stage.serve(ready=False)
        until(lambda: receiver.requests, PATIENCE)
        self.ends(service)
        hanging.go_on.set()

    def test_in_a_notification_that_hangs(self, a_stage: Callable[..., Stage]) -> None:
        stage = a_stage()
        receiver = stage.receiver()
        receiver.reply = hanging = Hanging()
        stage.configure(hooked(receiver, "60s", "notify: [hook]\n").replace("[hook]}", "[app]}"))
        service = stage.serve(ready=False)
        until(lambda: receiver.requests, PATIENCE)
        self.ends(service)
        hanging.go_on.set()

    def test_in_a_slow_command(self, a_stage: Callable[..., Stage]) -> None:
        """Which does not outlive the service."""
        stage = a_stage()
        stage.script("slow", f'echo $$ > "{stage.folder}/slow.pid"\nexec sleep 60')
        stage.configure(
            "sinks:\n  slow: {type: command, run: [./slow], timeout: 60s}\n"
            "policies:\n  ci: {rotate: {every: 30d}, deliver_to: [slow]}\n"
        )
        service = stage.serve(ready=False)
        pid = int(until(lambda: read(stage.folder / "slow.pid").strip(), PATIENCE))
        self.ends(service)
        until(lambda: not is_alive(pid), 10)

    @pytest.mark.parametrize("call", ["create", "list", "auth"])
    def test_in_a_call_that_neon_answers_slowly(self, a_stage: Callable[..., Stage], call: str) -> None:
        """Also in the very first one."""
        stage = a_stage()
        stage.neon.fault("slow", on=call, seconds=60)
        service = stage.serve(ready=False)
        until(lambda: not stage.neon.faults(), PATIENCE)  # the call is there
        self.ends(service)

    @pytest.mark.parametrize("how", ["refuses", "hangs"])
    def test_while_neon_is_down(self, a_stage: Callable[..., Stage], how: str) -> None:
        """Whether nobody listens there, or somebody who never says a word."""
        stage = a_stage()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1] if how == "hangs" else a_free_port()
            stage.configure(ONE_POLICY, api_url=f"http://127.0.0.1:{port}/api/v2")
            service = stage.serve(ready=False)
            service.wait_for("service.started")
            if how == "refuses":
                service.wait_for("list.unreadable")
            self.ends(service)

    def test_while_it_retries_a_hand_off(self, a_stage: Callable[..., Stage]) -> None:
        stage = a_stage()
        receiver = stage.receiver()
        receiver.reply = lambda _: Reply(500)
        stage.configure(hooked(receiver))
        service = stage.serve(ready=False)
        service.wait_for("rotation.failed", times=2)
        self.ends(service)


def read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


class TestLoadingAgain:
    def test_a_new_policy_starts(self, stage: Stage) -> None:
        """And its predecessors go on as they were."""
        service = stage.serve()
        stage.configure(
            f"{ONE_POLICY.replace('sinks:', 'sinks:' + RAW)}  web: {{rotate: {{every: 30d}}, deliver_to: [raw]}}\n"
        )
        service.signal(signal.SIGHUP)
        service.wait_for("config.loaded")
        service.wait_for("rotation.live", policy="web")
        assert stage.works(stage.app("raw.key"))
        assert len(stage.ours) == 2

    @pytest.mark.fault(
        "Input",
        "The configuration was changed into one with faults when SIGHUP comes",
        "It tells every fault with its place, changes nothing, and goes on with the configuration that it had.",
    )
    def test_a_faulty_file_changes_nothing(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        """Every fault is told with its place, and the service goes on with what it had."""
        service = stage.serve()
        stage.config.write_text(
            stage.config.read_text().replace("every: 30d", "every: soon").replace("[app]", "[nobody]")
        )
        service.signal(signal.SIGHUP)
        service.wait_for("config.refused", times=2)
        for line, path in zip(service.told("config.refused"), ("rotate", "deliver_to"), strict=True):
            assert re.match(rf"{re.escape(str(stage.config))}:\d+:\d+: policies\.ci\.{path}", line["why"])
            assert line["level"] == "warning"
        person_sees(service.told("config.refused")[0]["why"])
        assert not service.told("config.loaded")
        assert stage.rotator("pause").status == 2  # a command sees the faulty file, the service the one before
        stage.configure(ONE_POLICY)
        stage.rotator("rotate", "ci", "--wait")
        assert len(stage.ours) == 2

    @pytest.mark.fault(
        "People", "The configuration's file is gone when SIGHUP comes", "The configuration stays as it was."
    )
    def test_a_file_that_is_gone_changes_nothing(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        service = stage.serve()
        stage.config.unlink()
        service.signal(signal.SIGHUP)
        assert str(stage.config) in service.wait_for("config.refused")["why"]
        assert service.end()[0] == 0
        person_sees(service.told("config.refused")[0]["why"])

    @pytest.mark.fault(
        "People",
        "Another state and address are in the configuration when SIGHUP comes",
        "The rest is taken up; these two need a restart.",
    )
    def test_another_state_or_address_needs_a_restart(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        """It says so, and takes the rest."""
        service = stage.serve()
        stage.configure(f"state: sqlite:///other.db\nlisten: 127.0.0.1:{a_free_port()}{ONE_POLICY}")
        service.signal(signal.SIGHUP)
        service.wait_for("config.loaded")
        told = [line["why"] for line in service.told("config.needs_restart")]
        assert len(told) == 2
        assert "state" in told[0]
        assert "listen" in told[1]
        assert all("restart" in why for why in told)
        assert not (stage.folder / "other.db").exists()
        person_sees("; ".join(told))
        stage.configure(ONE_POLICY)
        service.signal(signal.SIGHUP)
        service.wait_for("config.loaded", times=2)
        assert len(service.told("config.needs_restart")) == 2, "what is loaded now is what runs"

    def test_a_hand_off_that_waits_is_tried_at_once(self, a_stage: Callable[..., Stage]) -> None:
        """As when the receiver's address was wrong."""
        stage = a_stage()
        wrong, right = stage.receiver(), stage.receiver()
        wrong.reply = lambda _: Reply(503, {"Retry-After": "3600"})
        stage.configure(hooked(wrong))
        service = stage.serve(ready=False)
        service.wait_for("rotation.failed")
        stage.configure(hooked(right))
        service.signal(signal.SIGHUP)
        service.wait_for("rotation.live")
        assert len(stage.ours) == 1
        assert right.requests[0].json["data"]["key"]["id"] == stage.ours[0]


RAW = "\n  raw: {type: file, path: raw.key}"


class TestOneAtATime:
    @pytest.mark.fault(
        "Process", "A second service is started on the same state", "It ends with 1 before it does anything."
    )
    def test_a_second_service_names_the_first_and_ends_with_1(
        self, stage: Stage, person_sees: Callable[[str], None]
    ) -> None:
        service = stage.serve()
        ended = stage.rotator("run")
        assert (ended.status, ended.out) == (1, "")
        assert f"another rotator uses this state: process {service.pid} on " in ended.err
        assert "stop it first" in ended.err
        assert service.running
        person_sees(ended.err)

    @pytest.mark.fault(
        "Process",
        "A service was killed, and its lock's file is still there",
        "The next one starts at once: the lock itself ended with the process.",
    )
    def test_after_a_kill_the_next_one_starts_at_once(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        """The lock ends with the process."""
        stage.serve().kill()
        assert stage.status()["leader"] is False
        stage.serve()
        assert stage.status()["leader"] is True
        assert len(stage.ours) == 1
        person_sees(stage.rotator("status").out.splitlines()[-1].split(";")[1].strip())

    @pytest.mark.fault(
        "Process",
        "The lock's file is removed while the service runs, and another service is started",
        "The first one decides nothing and changes nothing any more, and says what to do. The second one works.",
    )
    def test_a_service_whose_lock_was_removed_leaves_everything_to_the_next(
        self, stage: Stage, person_sees: Callable[[str], None]
    ) -> None:
        first = stage.serve()
        first.wait_for("rotation.live")
        (stage.folder / "rotator.db.lock").unlink()
        why = first.wait_for("state.unavailable", policy=None)["why"]
        person_sees(why.partition(": ")[2])  # without which of its jobs was the first to meet it
        second = stage.serve()
        assert stage.rotator("rotate", "ci", "--wait").status == 0
        assert stage.created() == 2
        assert first.running
        assert len(first.told("key.intended")) == len(second.told("key.intended")) == 1
        assert stage.works(stage.app())
        assert first.end()[0] == 0


class TestTroubleWithNeon:
    @pytest.mark.fault(
        "Neon",
        "Neon refuses connections when the service starts",
        "It starts all the same, and goes on once Neon answers.",
    )
    def test_it_starts_while_neon_cannot_be_reached_and_recovers(
        self, stage: Stage, person_sees: Callable[[str], None]
    ) -> None:
        stage.neon.stop()
        service = stage.serve(ready=False)
        why = service.wait_for("list.unreadable")["why"]
        assert "refused the connection" in why
        stage.neon.start()
        service.wait_for("rotation.live")
        assert stage.works(stage.app())
        person_sees(why)

    @pytest.mark.fault(
        "Neon",
        "Neon refuses connections while the service runs",
        "It stays up, changes nothing, and goes on once Neon answers.",
    )
    def test_an_outage_while_it_runs_is_survived(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        service = stage.serve()
        stage.neon.stop()
        person_sees(service.wait_for("list.unreadable")["why"])
        assert service.running
        stage.neon.start()
        assert stage.rotator("rotate", "ci", "--wait").status == 0

    @pytest.mark.fault(
        "Keys",
        "The management key is refused, from the start or while the service runs",
        "Nothing is done, and nothing asked in a hurry; another key in its file is taken up by itself.",
    )
    @pytest.mark.parametrize("when", ["from the start", "while it runs"])
    def test_a_refused_key_is_told_and_its_successor_taken_up(
        self, stage: Stage, when: str, person_sees: Callable[[str], None]
    ) -> None:
        """Without a restart; and while it lasts, nothing is asked in a hurry."""
        if when == "from the start":
            stage.write_key("not-a-key-of-neons")
            service = stage.serve(ready=False)
        else:
            service = stage.serve()
            stage.neon.revoke_key(stage.neon.management_key_id)
        refused = service.wait_for("management_key.refused")
        assert refused["level"] == "error"
        assert "Neon refused the management key" in refused["why"]
        assert "put a valid personal key there" in refused["why"]
        successor = stage.neon.create_key("second-management-key")
        stage.config.write_text(stage.config.read_text().replace(f"{stage.neon.management_key_id}", f"{successor.id}"))
        stage.write_key(stage.neon.secret_of(successor.id))
        if when == "from the start":
            service.wait_for("rotation.live")
        else:
            assert stage.rotator("rotate", "ci", "--wait").status == 0
        assert stage.works(stage.app())
        person_sees(refused["why"])

    @pytest.mark.fault(
        "Keys",
        "The management key's file is not there when the service starts",
        "It stays up, and takes the file up when it is there.",
    )
    def test_a_key_file_that_comes_later_is_taken_up(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        """Until then it says what is missing."""
        stage.key_file.unlink()
        service = stage.serve(ready=False)
        why = service.wait_for("list.unreadable")["why"]
        assert f"file {stage.key_file} cannot be read: No such file or directory" in why
        stage.write_key(stage.neon.management_key)
        service.wait_for("rotation.live")
        person_sees(why)


class TestSlowSinks:
    def test_a_sink_that_hangs_delays_no_other_policy(self, a_stage: Callable[..., Stage]) -> None:
        """However many policies deliver to it: each has its turn, and the time-out is the sink's."""
        stage = a_stage()
        receiver = stage.receiver()
        receiver.reply = hanging = Hanging()
        many = "".join(f"  slow-{n}: {{rotate: {{every: 30d}}, deliver_to: [hook]}}\n" for n in range(20))
        stage.configure(hooked(receiver, "20s", f"{many}  web: {{rotate: {{every: 30d}}, deliver_to: [app]}}\n"))
        service = stage.serve(ready=False)
        began = time.monotonic()
        until(lambda: receiver.requests, PATIENCE)
        service.wait_for("rotation.live", policy="web")
        assert stage.rotator("rotate", "web", "--wait").status == 0
        assert time.monotonic() - began < 20
        assert not [line for line in service.told("rotation.live") if line["policy"] != "web"]
        hanging.go_on.set()
        service.wait_for("rotation.live", times=22 + 1)

    def test_orders_are_taken_within_five_seconds(self, stage: Stage) -> None:
        """Counted from when the order stands in the state."""
        service = stage.serve()
        process = stage.start("rotate", "ci")
        ordered = until(lambda: order_stands(stage), PATIENCE)
        service.wait_for("key.intended", times=2)
        assert time.monotonic() - ordered < 5
        assert stage.finish(process).status == 0


def order_stands(stage: Stage) -> float:
    """The time at which an order was found in the state; 0 if there is none."""
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(stage.state, timeout=30)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM orders").fetchone()
    return time.monotonic() if count else 0.0


class TestTheState:
    @pytest.mark.fault(
        "State",
        "The state's file is moved away and back while the service runs",
        "It stays up and changes nothing outside; goes on when the file is back.",
    )
    def test_without_its_state_it_stays_up_and_changes_nothing(
        self, stage: Stage, person_sees: Callable[[str], None]
    ) -> None:
        """It says so, and goes on when the state is back."""
        service = stage.serve()
        away = stage.folder / "away.db"
        made = stage.created()
        stage.state.rename(away)
        assert str(stage.state) in service.wait_for("state.unavailable")["why"]
        (stage.folder / "app.env").unlink()
        polls = len(stage.neon.requests)
        until(lambda: len(stage.neon.requests) >= polls + 3, PATIENCE)
        assert stage.created() == made
        assert len(service.told("state.unavailable")) <= 3, "told once for each thing that it keeps from being done"
        assert service.running
        away.rename(stage.state)
        service.wait_for("rotation.live", times=2)
        assert stage.works(stage.app())
        person_sees(service.told("state.unavailable")[0]["why"])


class TestThePoll:
    def test_a_file_that_was_deleted_is_written_anew(self, stage: Stage) -> None:
        """With a new key: the secret of the old one is nowhere else."""
        service = stage.serve()
        (old,) = stage.ours
        (stage.folder / "app.env").unlink()
        service.wait_for("rotation.live", times=2)
        assert stage.app() == stage.neon.secret_of(stage.ours[-1])
        assert stage.ours[-1] != old

    @pytest.mark.fault(
        "Keys",
        "A key is not used for a hundred days",
        "It is flagged and told once, and again when it is used; nothing happens to it.",
    )
    def test_unused_keys_are_flagged_once_and_told(
        self, a_stage: Callable[..., Stage], person_sees: Callable[[str], None]
    ) -> None:
        """Signed, without a secret, again and again until the receiver has taken it; and once they are used again."""
        stage = a_stage()
        receiver = stage.receiver()
        verifier = Webhook((stage.folder / "signing").read_text())
        receiver.reply = lambda _: Reply(500 if len(receiver.requests) < 2 else 204)
        stage.neon.set_clock(-100 * DAY)
        old = stage.neon.create_key("by-hand")
        stage.neon.set_clock(0)
        stage.configure(f"{hooked(receiver, '2s').replace('[hook]}', '[app]}')}notify: [hook]\n")
        service = stage.serve()
        service.wait_for("api_key.unused")
        service.wait_for("notice.failed")
        until(lambda: "api_key.unused" in kinds(receiver), PATIENCE)
        message = next(request for request in receiver.requests if request.json["type"] == "api_key.unused")
        verifier.verify(message.body, message.headers)
        assert set(message.json) == {"type", "timestamp", "data"}
        data = message.json["data"]
        assert set(data) == {"policy", "generation", "key", "why", "at"}
        assert (data["policy"], data["generation"]) == (None, None)
        assert data["key"] == {"id": old.id, "name": "by-hand"}
        assert "never used since it was created 100d ago" in data["why"]

        until(lambda: "rotation.live" in kinds(receiver), PATIENCE)
        live = next(request for request in receiver.requests if request.json["type"] == "rotation.live").json["data"]
        assert (live["policy"], live["generation"], live["key"]["id"]) == ("ci", 1, max(stage.ours))
        assert stage.neon.use(stage.neon.secret_of(old.id))
        until(lambda: "api_key.used_again" in kinds(receiver), PATIENCE)
        assert len(service.told("api_key.unused")) == 1
        for request in receiver.requests:
            verifier.verify(request.body, request.headers)
            stage.look_over(request.body.decode() + json.dumps(request.headers))
        ids = [(request.headers["webhook-id"], request.json["type"]) for request in receiver.requests]
        assert len(set(dict(ids).values())) == len(dict(ids)) == 3  # one id an event, however often sent
        person_sees(data["why"])

    def test_a_restart_flags_nothing_again(self, stage: Stage) -> None:
        stage.neon.set_clock(-100 * DAY)
        stage.neon.create_key("by-hand")
        stage.neon.set_clock(0)
        stage.serve().end()
        service = stage.serve()
        assert service.end()[0] == 0
        assert stage.events().count("api_key.unused") == 1


def kinds(receiver: Receiver) -> list[str]:
    """The types of the messages that were taken."""
    return [request.json["type"] for request in receiver.requests]
