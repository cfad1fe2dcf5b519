"""A command sink, with real processes: who sees the secret, and what is left when it is over."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rotator.errors import NeedsPerson, RotatorError, TryLater
from rotator.model import Held
from rotator.secret import Secret
from rotator.sinks.command import CommandSink
from rotator.sinks.process import OUR_OWN

from .builders import a_hand_off, a_secret, deliver, forget_our_own_variables, is_alive, until


def a_command_sink(*run: str, timeout: str = "20s") -> CommandSink:
    return CommandSink("vault", CommandSink.Settings.model_validate({"run": list(run), "timeout": timeout}))


def a_shell_sink(script: str, timeout: str = "20s") -> CommandSink:
    return a_command_sink("sh", "-c", script, timeout=timeout)


class Delivery:
    """A delivery in a thread, and how it ended."""

    def __init__(self, sink: CommandSink, secret: Secret | None = None) -> None:
        self.error: RotatorError | None = None
        self._sink, self._secret = sink, secret or a_secret()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._sink.deliver(a_hand_off(self._secret), self._secret)
        except RotatorError as error:
            self.error = error

    def end(self, limit: float) -> RotatorError | None:
        self._thread.join(limit)
        assert not self._thread.is_alive()
        return self.error


def pids_in(path: Path, count: int) -> list[int]:
    """The process numbers that a script has written, once they are all there."""

    def found() -> list[int]:
        pids = [int(line) for line in path.read_text().split()] if path.exists() else []
        return pids if len(pids) == count else []

    return until(found)


# What the configuration may say


@pytest.mark.parametrize(
    ("settings", "place", "problem"),
    [
        pytest.param({"run": []}, "run", "at least 1", id="nothing"),
        pytest.param({"run": "vault kv put"}, "run", "list", id="a command line"),
        pytest.param({"run": ["vault", ""]}, "run", "not empty", id="an empty word"),
        pytest.param({"run": ["vault", "a\0b"]}, "run", "without a NUL", id="a NUL"),
        pytest.param({"run": ["true"], "timeout": 30}, "timeout", "expected a duration", id="a number as time-out"),
        pytest.param({"run": ["true"], "shell": True}, "shell", "not permitted", id="a shell"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_where_it_stands(
    settings: dict[str, Any], place: str, problem: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        CommandSink.Settings.model_validate(settings)
    (fault,) = refused.value.errors()
    assert fault["loc"] == (place,)
    assert problem in fault["msg"]


def test_the_target_names_the_program_and_not_its_arguments() -> None:
    ref = a_command_sink("/usr/bin/vault", "kv", "put", "-token=t0k3n", timeout="9s").ref
    assert ref.target.startswith("command:vault#")
    assert "t0k3n" not in repr(ref)
    assert ref.pause == timedelta(seconds=9)
    assert not ref.reads_back
    assert a_command_sink("true").contents() == Held.UNREADABLE


def test_another_argument_is_another_target_and_another_time_out_is_not() -> None:
    one, two, three = (
        a_command_sink("put", "a").ref,
        a_command_sink("put", "b").ref,
        a_command_sink("put", "a", timeout="1s").ref,
    )
    assert one.target == three.target != two.target
    assert len({one.settings, two.settings, three.settings}) == 3


def test_a_relative_path_of_a_program_is_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "hooks").mkdir()
    hook = tmp_path / "hooks" / "put"
    hook.write_text(f"#!/bin/sh\ncat > {shlex.quote(str(tmp_path))}/held\n")
    hook.chmod(0o755)
    settings = CommandSink.Settings.model_validate({"run": ["hooks/put"]}, context={"base": tmp_path})
    sink = CommandSink("vault", settings)
    sink.check()
    assert deliver(sink).reveal() == (tmp_path / "held").read_text()


# What the command gets


def test_the_whole_of_standard_input_is_the_secret(tmp_path: Path) -> None:
    secret = deliver(a_shell_sink(f"cat > {tmp_path}/held"))
    assert (tmp_path / "held").read_bytes() == secret.reveal().encode()


def test_a_command_that_reads_nothing_or_closes_its_input_still_gives_its_receipt() -> None:
    deliver(a_command_sink("true"))
    deliver(a_shell_sink("exec <&-; sleep 0.1"))


def test_the_environment_says_which_key_it_is_and_withholds_what_is_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*OUR_OWN, "NEON_ADMIN", "CI_HOOK_SECRET"):
        monkeypatch.setenv(name, "not for others")
    monkeypatch.setenv("VAULT_ADDR", "https://vault.example.com")
    forget_our_own_variables(monkeypatch)
    sink = a_shell_sink(f"env > {tmp_path}/env; pwd > {tmp_path}/pwd")
    sink.withhold(["NEON_ADMIN", "CI_HOOK_SECRET"])
    assert sink.withheld == {"NEON_ADMIN", "CI_HOOK_SECRET"}
    secret = deliver(sink)
    text = (tmp_path / "env").read_text()
    variables = dict(line.split("=", 1) for line in text.splitlines())
    assert secret.reveal() not in text
    assert "not for others" not in text
    assert variables["VAULT_ADDR"] == "https://vault.example.com"
    assert {name: value for name, value in variables.items() if name.startswith("ROTATOR_")} == {
        "ROTATOR_POLICY": "ci-pipeline",
        "ROTATOR_KEY_ID": "2291515",
        "ROTATOR_KEY_NAME": "ci-pipeline-20261123T040550Z-d233f1",
        "ROTATOR_GENERATION": "7",
    }
    assert (tmp_path / "pwd").read_text() == "/\n"


def test_no_process_shows_the_secret_while_the_command_runs(tmp_path: Path) -> None:
    secret = a_secret()
    script = f"read -r key; touch {tmp_path}/reading; while [ ! -e {tmp_path}/seen ]; do sleep 0.01; done"
    delivery = Delivery(a_shell_sink(script), secret)
    until((tmp_path / "reading").exists)
    shown = []
    for process in Path("/proc").glob("[0-9]*"):
        for what in ("cmdline", "environ"):
            try:
                if secret.reveal().encode() in (process / what).read_bytes():
                    shown.append(f"{process}/{what}")
            except OSError:
                pass  # it ended, or belongs to somebody else
    (tmp_path / "seen").touch()
    assert delivery.end(10) is None
    assert shown == []


def test_the_command_has_no_open_file_of_ours(tmp_path: Path) -> None:
    secret_file = (tmp_path / "secret").open("w")
    with secret_file:
        os.set_inheritable(secret_file.fileno(), True)
        deliver(a_shell_sink(f"ls -l /proc/self/fd > {tmp_path}/open"))
    opened = [line.split("-> ")[1] for line in (tmp_path / "open").read_text().splitlines() if "-> " in line]
    assert [
        path for path in opened if not path.startswith(("/dev/null", "pipe:", "/proc/", str(tmp_path / "open")))
    ] == []
    assert len([path for path in opened if path.startswith("pipe:")]) <= 1


# The receipt


def test_exit_status_0_is_the_receipt_and_everything_else_is_none() -> None:
    deliver(a_command_sink("true"))
    with pytest.raises(TryLater, match="the program false ended with exit status 1"):
        deliver(a_command_sink("false"))
    with pytest.raises(TryLater, match="the program sh was ended by a signal: Killed"):
        deliver(a_shell_sink("kill -9 $$"))


def test_a_program_that_is_not_there_is_found_out_before(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    for program in ("no-such-program", str(tmp_path / "no-such-program"), str(tmp_path / "plain"), str(tmp_path)):
        sink = a_command_sink(program)
        with pytest.raises(NeedsPerson, match="is not there, or may not be executed"):
            sink.check()
        with pytest.raises(NeedsPerson, match="cannot be started"):
            deliver(sink)


def test_the_output_is_told_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TryLater) as failed:
        deliver(a_shell_sink("tee /dev/stderr; exit 3"))
    assert "".join(capfd.readouterr()) == ""
    assert "napi_" not in str(failed.value)


def test_much_output_does_not_block_the_command() -> None:
    deliver(a_shell_sink("head -c 10000000 /dev/zero; head -c 10000000 /dev/zero >&2"))


# What is left of it

FAMILY = """
echo $$ >> {pids}
(setsid sh -c '
    echo $$ >> {pids}
    (setsid sh -c "echo \\$\\$ >> {pids}; sleep 600" &)
    sleep 600
' &)
"""


def a_family(folder: Path, last: str) -> tuple[str, Path]:
    """A script with a child and a grandchild, each in the background and in a session of its own; then comes `last`."""
    pids = folder / "pids"
    return f"{FAMILY.format(pids=pids)}\n{last}", pids


@pytest.mark.fault(
    "Sinks",
    "A command hangs, and has started others in sessions of their own",
    "All of them are killed at the time-out; the hand-off is tried again.",
)
def test_past_the_time_out_nothing_of_the_command_is_left_not_even_what_hid(
    tmp_path: Path, person_sees: Callable[[str], None]
) -> None:
    script, pids = a_family(tmp_path, "trap '' TERM; sleep 600")
    begun = time.monotonic()
    with pytest.raises(TryLater, match="the program sh did not end within 1 s and was killed") as hung:
        deliver(a_shell_sink(script, timeout="1s"))
    assert time.monotonic() - begun < 6
    assert [pid for pid in pids_in(pids, 3) if is_alive(pid)] == []
    person_sees(str(hung.value))


def test_children_may_go_on_after_the_receipt_until_the_time_out(tmp_path: Path) -> None:
    script, pids = a_family(tmp_path, f"while [ $(wc -l < {tmp_path}/pids) -lt 3 ]; do sleep 0.01; done; exit 0")
    begun = time.monotonic()
    deliver(a_shell_sink(script, timeout="3s"))
    family = pids_in(pids, 3)
    assert time.monotonic() - begun < 3
    assert [is_alive(pid) for pid in family] == [False, True, True]
    until(lambda: not any(is_alive(pid) for pid in family), limit=10)
    assert time.monotonic() - begun > 2.5


def test_stopping_ends_the_command_and_what_an_earlier_one_left(tmp_path: Path) -> None:
    script, pids = a_family(tmp_path, f"while [ $(wc -l < {tmp_path}/pids) -lt 3 ]; do sleep 0.01; done; exit 0")
    sink = a_shell_sink(f"if [ -e {tmp_path}/second ]; then echo $$ >> {pids}; sleep 600; fi; {script}")
    deliver(sink)
    (tmp_path / "second").touch()
    delivery = Delivery(sink)
    family = pids_in(pids, 4)
    sink.stop()
    error = delivery.end(5)
    assert isinstance(error, TryLater)
    assert "because the service is stopping" in str(error)
    until(lambda: not any(is_alive(pid) for pid in family), limit=5)
    with pytest.raises(TryLater, match="the service is stopping"):
        deliver(sink)


SERVICE = textwrap.dedent(
    """
    import signal, sys
    from datetime import UTC, datetime
    from rotator.model import HandOff
    from rotator.secret import Secret
    from rotator.sinks.command import CommandSink

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
    secret = Secret("a secret")
    sink = CommandSink("vault", CommandSink.Settings(run=["sh", "-c", sys.argv[1]]))
    sink.deliver(HandOff("p", 1, 1, "n", datetime.now(UTC), secret.fingerprint, "vault"), secret)
    """
)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_of_a_command_outlives_the_service_however_that_dies(tmp_path: Path, how: signal.Signals) -> None:
    script, pids = a_family(tmp_path, "sleep 600")
    with subprocess.Popen([sys.executable, "-c", SERVICE, script], stderr=subprocess.DEVNULL) as service:
        family = pids_in(pids, 3)
        assert all(is_alive(pid) for pid in family)
        service.send_signal(how)
        service.wait(10)
    until(lambda: not any(is_alive(pid) for pid in family), limit=5)


def supervisor_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_supervisor_that_is_told_to_end_takes_the_command_with_it(tmp_path: Path) -> None:
    script, pids = a_family(tmp_path, "sleep 600")
    delivery = Delivery(a_shell_sink(script))
    family = pids_in(pids, 3)
    os.kill(supervisor_of(family[0]), signal.SIGTERM)
    assert "because the service is stopping" in str(delivery.end(5))
    assert not any(is_alive(pid) for pid in family)


@pytest.mark.fault(
    "Process", "The supervisor of a command is killed", "The command dies with it, and that is no receipt."
)
def test_a_supervisor_that_is_killed_takes_the_command_with_it_and_is_no_receipt(
    tmp_path: Path, person_sees: Callable[[str], None]
) -> None:
    delivery = Delivery(a_shell_sink(f"echo $$ > {tmp_path}/pids; exec sleep 600"))
    (pid,) = pids_in(tmp_path / "pids", 1)
    os.kill(supervisor_of(pid), signal.SIGKILL)
    said = str(delivery.end(5))
    assert "its supervisor did not say how" in said
    until(lambda: not is_alive(pid), limit=5)
    person_sees(said)


def test_no_descriptor_or_process_is_left_here(tmp_path: Path) -> None:
    sink = a_shell_sink("exit 0")
    deliver(sink)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        deliver(sink)
        with pytest.raises(NeedsPerson):
            deliver(a_command_sink("no-such-program"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    assert not children.exists() or children.read_text() == ""
