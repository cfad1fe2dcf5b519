"""Starting and stopping the sandbox, in a test and as a command."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest
import requests
from click.testing import CliRunner

from rotator.cli import cli
from rotator.sandbox import Event, Sandbox
from rotator.sandbox.account import new_secret
from rotator.sandbox.server import parse_listen, serve

from .client import Api, Clock, address_of


def test_given_keys_work_in_any_format_and_the_first_is_the_management_key() -> None:
    given = (new_secret(), "an-older-key-without-a-prefix")
    with Sandbox(keys=given) as neon:
        assert neon.management_key == given[0]
        assert neon.secret_of(neon.management_key_id) == given[0]
        assert all(neon.use(secret) for secret in given)
    assert re.fullmatch(r"napi_[a-z0-9]{64}", Sandbox().management_key)


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as error:
        Sandbox(keys=(key,))
    assert not key or key not in str(error.value)


def test_an_outage_keeps_address_keys_and_faults(clock: Clock) -> None:
    with Sandbox(now=clock) as neon, Api(neon, neon.management_key) as api:
        url = neon.url
        neon.fault("locked", on="auth")
        api.create("before")
        neon.stop()
        neon.stop()
        with pytest.raises(requests.ConnectionError):
            api.list()
        neon.start()
        assert neon.url == url
        assert api.listed_names() == ["before", "management"]
        assert api.call("GET", "/auth").status_code == 423


def test_stopping_cuts_idle_connections_and_leaves_no_thread() -> None:
    with Sandbox() as neon:
        idle = [socket.create_connection(address_of(neon), timeout=20) for _ in range(5)]
        with Api(neon, neon.management_key) as api:
            api.list()
        assert sandbox_threads()
    assert sandbox_threads() == []
    for connection in idle:
        with closing(connection), suppress(ConnectionResetError):  # it had not been accepted yet
            assert connection.recv(1) == b""


def test_an_outage_can_begin_between_the_effect_and_the_answer() -> None:
    def stop_after(event: Event) -> None:
        if event.moment == "after" and event.method == "POST":
            neon.stop()

    with Sandbox(observer=stop_after) as neon, Api(neon, neon.management_key) as api:
        with pytest.raises(requests.ConnectionError):
            api.create("made all the same")
        neon.start()
        assert api.listed_names() == ["made all the same", "management"]


def test_two_cannot_have_one_address(neon: Sandbox) -> None:
    second = Sandbox(listen=address_of(neon))
    with pytest.raises(OSError, match="in use") as error:
        second.start()
    assert error.value.errno == errno.EADDRINUSE
    with pytest.raises(RuntimeError, match="running already"):
        neon.start()
    with pytest.raises(RuntimeError, match="start it first"):
        _ = Sandbox().url


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@needs_ipv6
def test_it_listens_on_ipv6() -> None:
    with Sandbox(listen=("::1", 0)) as neon, Api(neon, neon.management_key) as api:
        assert neon.url.startswith("http://[::1]:")
        assert api.list().json()[0]["last_used_from_addr"] == "::1"


def sandbox_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("neon-sandbox")]


# The command


def test_the_command_says_how_to_reach_it_and_ends_on_a_signal() -> None:
    secret = new_secret()
    faults = ["lost_answer:on=create", "slow:seconds=0"]
    for number in (signal.SIGTERM, signal.SIGINT):
        with served(secret, faults) as (process, lines):
            assert secret in lines[1]
            command = shlex.split(lines[2].removeprefix("Try: "))
            assert command[:2] == ["curl", "-H"]
            name, _, value = command[2].partition(": ")
            assert requests.get(command[3], headers={name: value}, timeout=20).json()[0]["name"] == "management"
            control = shlex.split(lines[3].removeprefix("Faults: "))
            waiting = requests.post(control[-1], data=control[2], timeout=20).json()
            assert [fault["fault"] for fault in waiting] == ["lost_answer", "lost_answer"]
            process.send_signal(number)
            assert process.wait(20) == 0


@contextmanager
def served(secret: str, faults: list[str]) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    code = "import os; from rotator.sandbox.server import serve; "
    code += f"serve('127.0.0.1:0', [os.environ['KEY']], {faults!r}, False)"
    environment = {**os.environ, "KEY": secret, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield process, [process.stdout.readline().rstrip("\n") for _ in range(4)]
        finally:
            process.kill()


def test_the_command_says_so_when_the_port_is_taken(neon: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    listen = "{}:{}".format(*address_of(neon))
    with pytest.raises(OSError, match="in use") as error:
        serve(listen, (), (), False)
    assert error.value.strerror == f"cannot listen on {listen}: Address already in use; choose another with --listen"
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().out == ""


def test_what_a_person_sees_then_says_it_once(neon: Sandbox) -> None:
    listen = "{}:{}".format(*address_of(neon))
    error = CliRunner().invoke(cli, ["sandbox", "--listen", listen]).exception
    assert str(error) == f"the sandbox cannot listen on {listen}: Address already in use; choose another with --listen"


def test_the_command_refuses_an_unknown_fault_before_it_listens() -> None:
    with pytest.raises(ValueError, match="is not a fault"):
        serve("127.0.0.1:0", (), ("earthquake",), False)


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1:8788", ("127.0.0.1", 8788)), ("localhost:0", ("localhost", 0)), ("[::1]:80", ("::1", 80))],
)
def test_an_address_to_listen_on_is_host_and_port(listen: str, address: tuple[str, int]) -> None:
    assert parse_listen(listen) == address


@pytest.mark.parametrize("listen", ["8788", ":8788", "localhost", "localhost:", "localhost:x", "localhost:70000"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        parse_listen(listen)
