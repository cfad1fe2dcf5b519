"""The memory of a process that holds secrets: not dumped, and not read by others of its user.

Tests that run as root drop root's powers on both sides: what is left are two processes of one user.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sinks.builders import until

from .stage import PATIENCE, Stage

Sees = Callable[[str], None]
PEEK = """
import os, sys
for what in ("environ", "mem", "maps", "fd/2"):
    path = f"/proc/{sys.argv[1]}/{what}"
    try:
        os.readlink(path) if what == "fd/2" else open(path, "rb").read(1)
    except PermissionError as error:
        print(what, error.strerror, sep=": ")
    except OSError:
        print(what, "can be opened")
    else:
        print(what, "can be read")
"""


def a_process(stage: Stage, *words: str) -> int:
    """Start it with a core size that is not limited; its process id."""
    script = 'ulimit -c unlimited; cd "$0"; exec "$@"'
    nowhere = os.open(stage.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    actions = [(os.POSIX_SPAWN_DUP2, nowhere, 2), (os.POSIX_SPAWN_CLOSE, nowhere)]
    command = ["sh", "-c", script, str(stage.folder), *words]
    try:
        return os.posix_spawnp("sh", command, stage.variables({}), file_actions=actions)
    finally:
        os.close(nowhere)


def end(pid: int, how: signal.Signals) -> int:
    """What wait(2) says of its end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)
    return os.waitpid(pid, 0)[1]


def is_live(stage: Stage) -> bool:
    log = stage.folder / "log"
    return log.exists() and "rotation.live" in log.read_text()


@pytest.mark.fault(
    "Process",
    "It crashes so that the kernel would write its memory to a file",
    "No core dump: its limit is zero, and it has told the kernel that it is not to be dumped.",
)
def test_a_crash_writes_no_memory_to_the_disk(stage: Stage, person_sees: Sees) -> None:
    sleeper = "import time; print('there', flush=True); time.sleep(600)"
    others = subprocess.Popen(["sh", "-c", f'ulimit -c unlimited; cd {stage.folder}; exec "$0" -c "$1"',
                               sys.executable, sleeper], stdout=subprocess.PIPE)  # fmt: skip
    with others:
        assert others.stdout
        others.stdout.readline()
        if not os.WCOREDUMP(end(others.pid, signal.SIGSEGV)):
            pytest.skip("nothing is dumped here, whoever crashes")
        others.returncode = 0
        for core in stage.folder.glob("core*"):
            core.unlink()
    pid = a_process(stage, sys.executable, "-m", "rotator", "run", "-c", str(stage.config))
    until(lambda: is_live(stage), PATIENCE)
    limits = Path(f"/proc/{pid}/limits").read_text()
    ended = end(pid, signal.SIGSEGV)
    assert os.WIFSIGNALED(ended)
    assert not os.WCOREDUMP(ended)
    (limit,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert limit.split()[4:6] == ["0", "0"]
    person_sees(limit)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
@pytest.mark.fault(
    "Process",
    "Another process of the same user, such as a command that a sink runs, looks into its memory",
    "The kernel refuses it, as the service has given up being looked into. Only root can.",
)
def test_another_process_of_the_same_user_cannot_look_in(stage: Stage, person_sees: Sees) -> None:
    powerless = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.geteuid() == 0 else []
    pid = a_process(stage, *powerless, sys.executable, "-m", "rotator", "run", "-c", str(stage.config))
    try:
        until(lambda: is_live(stage), PATIENCE)  # also: all that it needs of itself it still gets
        peeked = subprocess.run(
            [*powerless, sys.executable, "-c", PEEK, str(pid)], capture_output=True, text=True, check=True
        )
    finally:
        end(pid, signal.SIGTERM)
    assert [line.split(": ")[0] for line in peeked.stdout.splitlines()] == ["environ", "mem", "maps", "fd/2"]
    assert "can be" not in peeked.stdout
    person_sees(peeked.stdout)
