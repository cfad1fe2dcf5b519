"""One service through a list of troubles, each with somebody who repeats the secret; then everything that it left.

The canaries are the keys themselves: the management key, every key that Neon ever gave out, the signing secret, and
secrets that were written where none belongs. They are looked for, in every spelling and down to twelve characters, in
the log, the pages, what commands say, every file but the sinks' own, and what `/proc` shows of every process.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from canaries import Canaries, files_with, spellings
from packages import install
from sinks.builders import Reply, Request, a_signing_secret, until

from . import echo
from .echo import Echo
from .stage import HOME, PATIENCE, Stage, a_free_port

Sees = Callable[[str], None]
# The management key's file, what two sinks hold, and the configuration, whose URL has a token as an operator wrote it.
TARGETS = {"key", "app.env", "held", "config.yaml"}
STORE = """
if [ -e "{folder}/refuse" ]; then cat; cat "{folder}/app.env" >&2; rm "{folder}/refuse"; exit 3; fi
cat > "{folder}/held"
touch "{folder}/holding"
while [ ! -e "{folder}/seen" ]; do sleep 0.02; done
"""
POLICIES = """
listen: 127.0.0.1:{port}
sinks:
  hook: {{type: webhook, url: "{url}?token={token}", signing_secret: {{env: HOOK_SECRET}}, timeout: 20s}}
  app: {{type: file, path: app.env, format: dotenv, variable: NEON_API_KEY, after_write: [cat, "{folder}/app.env"]}}
  store: {{type: command, run: [./store], timeout: 20s}}
  faulty: {{type: faulty}}
notify: [hook]
policies:
  ci:
    rotate: {{every: 30d}}
    grace_period: 1s
    hold: {{while_old_key_used_within: 0s}}
    deliver_to: [app, hook, store]
"""
FAULTY_SINK = """
import threading
from rotator import fields
from rotator.model import SinkRef


class FaultySink:
    class Settings(fields.Settings):
        pass

    def __init__(self, name, settings):
        self.ref = SinkRef(name, f"faulty:{name}")

    def check(self, *, probe=False):
        pass

    def deliver(self, hand_off, secret):
        thread = threading.Thread(target=self.fail, args=(secret.reveal(),))
        thread.start()
        thread.join()
        self.fail(secret.reveal())

    def fail(self, secret):
        raise RuntimeError(f"it was {secret}")

    def stop(self):
        pass
"""
FAULTY_POLICY = """
  faulty: {rotate: {every: 30d}, deliver_to: [faulty]}
"""
MISPLACED = """
neon: {{api_key: {0}, api_url: "https://x:{0}@console.neon.tech/?{1}"}}
{0}: {1}
state: postgresql://u:{0}@host/{1}
sinks:
  {0}: {{type: {1}}}
  hook: {{type: webhook, url: "https://{0}:{1}@host/{0}", signing_secret: {{env: {0}, file: {1}}}, {0}: {1}}}
  app: {{type: file, path: {0}, mode: {1}, owner: "{0}:{1}"}}
  store: {{type: command, run: {0}, timeout: {1}}}
policies:
  {1}: {{rotate: {{every: {0}}}, deliver_to: [{0}, {1}]}}
  ci: {{rotate: {{cron: "{0}", timezone: {1}}}, adopt: {0}, scope: {{organization: {{{0}: {1}}}}}, deliver_to: [{0}]}}
notify: {0}
"""


class Trial:
    """The service, those who repeat what they hear, and all that was seen of it meanwhile."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.echo = Echo(stage.neon.url)
        self.receiver = stage.receiver()
        self.signing = (stage.folder / "signing").read_text()
        (stage.folder / "signing").unlink()
        stage.environment["HOOK_SECRET"] = self.signing
        self.token = secrets.token_hex(24)
        self.misplaced = ["napi_" + secrets.token_hex(32), a_signing_secret().replace("=", "")]
        self.port = a_free_port()
        stage.script("store", STORE.format(folder=stage.folder))
        install(stage.folder / "packages", "faulty", FAULTY_SINK, {"faulty": "faulty:FaultySink"})
        stage.environment["PYTHONPATH"] = f"{HOME}:{stage.folder / 'packages'}"
        self.configure()
        stage.faults_of_ours = True
        self.seen: dict[str, str] = {}
        self.processes: dict[str, bytes] = {}
        self.service = stage.serve(ready=False)

    def configure(self, more: str = "") -> None:
        text = POLICIES.format(folder=self.stage.folder, port=self.port, url=self.receiver.url, token=self.token)
        self.stage.configure(text + more, api_url=self.echo.url)

    def canaries(self, *, environment: bool = False) -> Canaries:
        """All that was planted so far; without what the service was given in its own environment, if that is asked."""
        neon = self.stage.neon
        planted = {f"key {key.id}": neon.secret_of(key.id) for key in (*neon.keys(), *neon.revoked())}
        planted |= {f"misplaced {number}": secret for number, secret in enumerate(self.misplaced)}
        planted["token"] = self.token
        return Canaries(planted if environment else planted | {"signing": self.signing})

    def look_at_processes(self) -> int:
        """Keep what everybody can see of the service and of all that it started. How many those are."""
        family = family_of(self.service.pid)
        for pid in family:
            for what in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    self.processes[f"{'service' if pid == self.service.pid else pid} {what}"] = Path(
                        f"/proc/{pid}/{what}"
                    ).read_bytes()
        return len(family)

    def look_at_pages(self, when: str) -> None:
        for path in ("/", "/metrics", "/readyz", "/healthz", f"/{self.token}"):
            with contextlib.suppress(requests.ConnectionError):
                answer = requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)
                shown = answer.text.replace(self.token, "") if self.token in path else answer.text
                self.seen[f"{path}, {when}"] = f"{answer.status_code} {answer.headers} {shown}"

    def command(self, *words: str, status: int | None = None) -> str:
        done = self.stage.rotator(*words)
        assert status in (None, done.status), done
        self.seen[" ".join(words)] = done.out + done.err
        return done.out + done.err

    def look_at_files(self, when: str) -> None:
        """Now, as a death leaves them."""
        for name, found in files_with(self.canaries(), self.stage.folder, TARGETS).items():
            self.seen[f"file {name}, {when}"] = " ".join(found)
            raise AssertionError(f"{name}, {when}: {found}")

    def fails(self, why: str) -> str:
        """Wait for an attempt that failed for this reason; all that is said of it."""

        def look() -> list[str]:
            return [line["why"] for line in self.service.told("rotation.failed") if why in line["why"]]

        try:
            return until(look, PATIENCE)[0]
        except AssertionError:
            raise AssertionError(f"it did not fail with {why}:\n{self.service.text[-4000:]}") from None

    def again(self) -> None:
        """Let a hand-off that waits be tried now."""
        self.service.signal(signal.SIGHUP)

    def close(self) -> None:
        self.echo.close()


def family_of(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(entry.parent.name)] = int(entry.read_bytes().rpartition(b")")[2].split()[1])
    family = [pid]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    return family


@pytest.fixture
def trial(a_stage: Callable[..., Stage]) -> Iterator[Trial]:
    trial = Trial(a_stage())
    yield trial
    trial.close()


def echoing(status: int, trial: Trial) -> Callable[[Request], Reply]:
    """An answer that repeats the message, and the key in it in all spellings."""

    def reply(request: Request) -> Reply:
        trial.look_at_processes()
        key = request.json["data"].get("key", {}).get("secret", "")
        words = " ".join(spellings(key)).replace("\n", "") if key else "x"
        headers = {"X-Echo": words, "Location": f"https://{words}@example.com/{words}", "Retry-After": words}
        return Reply(status, headers, request.body + words.encode())

    return reply


class Held:
    """An answer that is not given before it is let go."""

    def __init__(self) -> None:
        import threading

        self.asked, self.go_on = threading.Event(), threading.Event()

    def __call__(self, request: Request) -> Reply:
        if request.json["type"] == "api_key.rotated":
            self.asked.set()
            self.go_on.wait(PATIENCE)
        return Reply(204)


@pytest.mark.fault(
    "Process",
    "It dies, hangs, fails and is misled while it holds a key, and Neon, receivers and commands repeat the key",
    "No secret is in a log, a page, a command's words, a file but the sinks' own, an argument or an environment.",
)
def test_whatever_happens_no_secret_is_left_anywhere(trial: Trial, person_sees: Sees) -> None:
    stage, folder = trial.stage, trial.stage.folder

    # Receivers that repeat it. The file is written first, and its program prints it.
    trial.receiver.reply = echoing(500, trial)
    failed = trial.fails("answered 500")
    trial.receiver.reply = echoing(307, trial)
    trial.again()
    trial.fails("answered 307")
    (folder / "refuse").touch()
    trial.receiver.reply = echoing(200, trial)
    trial.again()
    trial.fails("exit status 3")
    trial.look_at_pages("while it fails")
    trial.again()
    until((folder / "holding").exists, PATIENCE)
    assert trial.look_at_processes() >= 3  # the service, the supervisor, the command
    (folder / "seen").touch()
    trial.service.wait_for("rotation.live")

    # What one sees of it.
    trial.look_at_pages("while all is well")
    for words in (["status"], ["status", "--json"], ["why", "ci"], ["why", str(stage.ours[0])], ["keys"], ["plan"]):
        trial.command(*words)
    for words in (["history"], ["history", "--json"], ["keys", "--json"], ["check", "--online"]):
        trial.command(*words, status=0)

    # Neon repeats it: to polls, to a creation and to a revocation.
    trial.echo.spoil("GET", echo.refusal, echo.refusal, echo.page, echo.redirect, echo.unreadable, echo.status_line)
    until(lambda: trial.echo.left() == 0, PATIENCE)
    trial.service.wait_for("management_key.refused")
    trial.echo.spoil("POST", echo.status_line)
    trial.echo.spoil("DELETE", echo.page)
    trial.command("rotate", "ci")
    trial.service.wait_for("key.orphaned")
    until(lambda: trial.echo.left() == 0, PATIENCE)
    trial.command("status")

    # The state is gone while a key is in hand.
    trial.receiver.reply = held = Held()
    trial.command("rotate", "ci")
    assert held.asked.wait(PATIENCE)
    stage.state.rename(folder / "away.db")
    held.go_on.set()
    trial.service.wait_for("state.unavailable")
    trial.look_at_pages("without a state")
    trial.look_at_files("without a state")
    (folder / "away.db").rename(stage.state)
    trial.service.wait_for("rotation.live", times=2)

    # Secrets in the configuration, in every place.
    stage.config.write_text(MISPLACED.format(*trial.misplaced))
    trial.again()
    trial.service.wait_for("config.refused", times=10)
    trial.command("check", status=2)
    trial.command("check", "--json", status=2)
    trial.configure()
    for words in (["rotate", trial.misplaced[0]], ["revoke", trial.misplaced[0]], ["why", trial.misplaced[1]]):
        trial.command(*words, status=2)

    # A state that somebody wrote into.
    with contextlib.closing(sqlite3.connect(stage.state, timeout=30)) as connection, connection:
        connection.execute("INSERT INTO outlooks VALUES ('nobody', 'no document')")
    trial.look_at_pages("with a damaged state")
    assert trial.seen["/, with a damaged state"].startswith("503 ")
    with contextlib.closing(sqlite3.connect(stage.state, timeout=30)) as connection, connection:
        connection.execute("DELETE FROM outlooks WHERE policy = 'nobody'")

    # A fault in the code of another package, in a thread of ours and in one of its own.
    trial.configure(FAULTY_POLICY)
    trial.again()
    trial.fails("the code of sinks of type faulty failed with RuntimeError at faulty.py:")
    crash = until(lambda: [line for line in trial.service.lines if "exception" in line], PATIENCE)[0]
    assert "RuntimeError: it was [secret]" in crash["exception"]
    trial.configure()
    trial.again()

    # It is ended, and killed, with a key in hand.
    for end in (lambda: trial.service.end(), lambda: trial.service.kill()):
        trial.receiver.reply = held = Held()
        trial.command("rotate", "ci")
        assert held.asked.wait(PATIENCE)
        end()
        held.go_on.set()
        trial.look_at_files("after an end")
        trial.seen[f"log {len(trial.seen)}"] = trial.service.text
        trial.receiver.reply = lambda _: Reply(204)
        trial.service = stage.serve()
    assert stage.works(stage.app())
    trial.look_at_files("in the end")
    trial.service.end()

    canaries, but_signing = trial.canaries(), trial.canaries(environment=True)
    assert canaries.found_in(" ".join(trial.echo.secrets))  # it does find what is there
    trial.seen["the last log"] = trial.service.text
    assert {name: found for name, text in trial.seen.items() if (found := canaries.found_in(text))} == {}
    shown = {
        name: found
        for name, text in trial.processes.items()
        if (found := (but_signing if name == "service environ" else canaries).found_in(text))
    }
    assert shown == {}
    assert len({name.split()[0] for name in trial.processes}) >= 3
    person_sees(failed)
