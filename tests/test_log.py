"""No secret leaves through a log, whoever writes it: planted at every door, looked for in the rendered line.

The process under test is a real one, with its standard error in a pipe (JSON) or on a terminal (text). It tries
every door with every kind of secret, and says before each which it is.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_secret import a_new_key, a_signing_secret, an_old_key

ROOT = Path(__file__).parent.parent
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
HEAD = "sha256:" + "0123456789abcdef" * 4

PROGRAM = r"""
import gc, json, logging, sys, threading, time, warnings

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from requests import PreparedRequest

from rotator import log
from rotator.errors import NeedsPerson
from rotator.model import Event
from rotator.secret import Secret

SECRETS = json.loads(sys.stdin.readline())
held = [Secret(value) for kind, value in SECRETS.items() if kind.startswith("held")]
log.setup()
logger = structlog.get_logger()


class Talkative:
    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return f"Talkative({self.value})"


def fail(value):
    hidden = [value]
    raise ValueError(f"it said {hidden}", {"key": value})


def failing(value):
    try:
        fail(value)
    except ValueError as error:
        error.add_note(f"a note with {value}")
        raise NeedsPerson(f"could not, with {value}") from error


def caught(write):
    def door(value):
        try:
            failing(value)
        except NeedsPerson as error:
            write(error)
    return door


def in_a_group(value):
    try:
        raise ExceptionGroup(value, [ValueError(value), ExceptionGroup("inner", [KeyError(value)])])
    except ExceptionGroup:
        logger.error("failed", exc_info=True)


def in_a_thread(value):
    thread = threading.Thread(target=failing, args=(value,), name=f"thread {value}")
    thread.start()
    thread.join()


def in_a_job(value):
    executor = ThreadPoolExecutor(1)
    scheduler = BackgroundScheduler(executors={"default": executor})
    scheduler.start()
    scheduler.add_job(failing, args=[value], id=f"job {value}", name=f"a job with {value}")
    while scheduler.get_jobs():
        time.sleep(0.01)
    scheduler.shutdown(wait=True)


def in_a_finalizer(value):
    class Ends:
        def __del__(self):
            failing(value)
    Ends()
    gc.collect()


def in_a_request(value):
    request = PreparedRequest()
    request.prepare("POST", f"http://127.0.0.1/{value}", headers={"Authorization": f"Bearer {value}"}, data=value)
    logging.getLogger("somebody").error("%r %s %s", request.headers, request.url, request.body)


def warned(value):
    warnings.warn(f"deprecated: {value}", DeprecationWarning, stacklevel=1)
    warnings.warn(f"trouble with {value}", UserWarning, stacklevel=1)


def told(value):
    log.tell(Event("rotation.failed", f"sink ci answered {value}", "ci", 7, 2291515, "ci-20261123T040550Z-d233f1"))


def std(name, *args, **kwargs):
    return lambda value: logging.getLogger(name).warning(*(value if a == "{}" else a for a in args), **kwargs)


DOORS = {
    "a message": lambda value: logger.info(value),
    "the middle of a message": lambda value: logger.warning(f"it said {value}!"),
    "a value": lambda value: logger.info("said", why=value),
    "a key": lambda value: logger.info("said", **{value: 1}),
    "a nested value": lambda value: logger.error("said", data={"list": [{value: (value, {value})}]}),
    "bytes": lambda value: logger.info("said", data=value.encode()),
    "an object": lambda value: logger.info("said", thing=Talkative(value)),
    "lines of text": lambda value: logger.info("said", text=f"one\n{value}\nthree\t{value}"),
    "a document": lambda value: logger.info("said", body=json.dumps({"key": value, "nested": json.dumps([value])})),
    "a bearer": lambda value: logger.info("said", header=f"Bearer {value}", other="stays"),
    "bound values": lambda value: logger.bind(key=value).info("said"),
    "an exception": caught(lambda error: logger.error("failed", exc_info=True)),
    "an exception as a value": caught(lambda error: logger.error("failed", error=error)),
    "an exception given": caught(lambda error: logger.error("failed", exc_info=error)),
    "exception()": caught(lambda error: logger.exception("failed")),
    "a group of exceptions": in_a_group,
    "a library": std("somebody.else", "Retrying %s: %r", "{}", {"a": 1}),
    "sqlalchemy": std("sqlalchemy.engine.Engine", "INSERT %s [%r]", "{}", ("x",)),
    "a mapping": lambda value: logging.getLogger("somebody").warning("said %(key)s", {"key": value}),
    "a message that cannot be formatted": std("somebody", "said %s and %s", "{}"),
    "a number that is none": std("somebody", "said %d", "{}"),
    "apscheduler": caught(lambda error: logging.getLogger("apscheduler.executors.default").exception("Job raised")),
    "a logger's name": lambda value: logging.getLogger(value).warning("said"),
    "a request": in_a_request,
    "a warning": warned,
    "a thread": in_a_thread,
    "a job": in_a_job,
    "a finalizer": in_a_finalizer,
    "an event of the program": told,
}

for name, door in DOORS.items():
    print(f"--- {name}", file=sys.stderr, flush=True)
    for value in SECRETS.values():
        door(value)

print("--- lines in which a secret is broken", file=sys.stderr, flush=True)
for secret in held:
    logger.info("said", text="\n  ".join([secret.reveal()[:9], secret.reveal()[9:]]))

print("--- libraries that quote others", file=sys.stderr, flush=True)
for value in SECRETS.values():
    for name in ("urllib3.connection", "urllib3.connectionpool", "requests.sessions"):
        logging.getLogger(name).warning("unparsed data: %s", " and ".join([value[:20], value[20:]]))

print("--- what stays", file=sys.stderr, flush=True)
logger.info("said", head=sys.argv[1], fingerprint=held[0].fingerprint)
told("nothing")

print("--- the end", file=sys.stderr, flush=True)
failing(" ".join(SECRETS.values()))
"""
DOORS = re.findall(r'^    "(.+?)": ', PROGRAM.partition("DOORS = {")[2].partition("\n}")[0], re.MULTILINE)


@pytest.fixture(scope="module")
def planted() -> dict[str, str]:
    return {
        "new": a_new_key(),
        "old": an_old_key(),
        "signing": a_signing_secret(),
        "held new": a_new_key(),
        "held old": an_old_key(),
        "held odd": "corr\"ect\\horse/battery+staple'==",
    }


def by_door(text: str) -> dict[str, str]:
    parts = re.split(r"^--- (.+?)\r?\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module")
def piped(planted: dict[str, str]) -> dict[str, str]:
    """What the process said into a pipe, by door."""
    ended = run(planted, subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stdout == ""
    return by_door(ended.stderr)


@pytest.fixture(scope="module")
def drawn(planted: dict[str, str]) -> dict[str, str]:
    """What the process said on a terminal, by door."""
    ours, theirs = pty.openpty()
    said = b""
    process = subprocess.Popen([*COMMAND, HEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs, cwd=ROOT)
    os.close(theirs)
    assert process.stdin is not None
    process.stdin.write(json.dumps(planted).encode() + b"\n")
    process.stdin.flush()
    while piece := read(ours):
        said += piece
    os.close(ours)
    process.communicate(timeout=30)
    return by_door(said.decode())


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end was closed
        return b""


COMMAND = [sys.executable, "-c", PROGRAM]


def run(planted: dict[str, str], stderr: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, HEAD],
        input=json.dumps(planted) + "\n",
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


NOT_EVEN_A_TRACE = ("a message that cannot be formatted", "a number that is none")
EVERYWHERE = [*DOORS, "lines in which a secret is broken", "the end"]


def assert_clean(said: str, planted: dict[str, str]) -> None:
    together = "".join(said.split()).replace("\\n", "").replace("\\", "")
    for kind, value in planted.items():
        body = value.removeprefix("napi_").removeprefix("whsec_")
        for form in (body, body[:12], body[-12:]):
            assert form.replace("\\", "") not in together, f"the {kind} secret leaked: {said}"


@pytest.mark.parametrize("door", EVERYWHERE)
def test_no_secret_leaves_through_a_log_file(piped: dict[str, str], planted: dict[str, str], door: str) -> None:
    assert_clean(piped[door], planted)
    assert "[secret]" in piped[door] or door in NOT_EVEN_A_TRACE


@pytest.mark.parametrize("door", EVERYWHERE)
def test_no_secret_shows_on_a_terminal(drawn: dict[str, str], planted: dict[str, str], door: str) -> None:
    assert_clean(ESCAPES.sub("", drawn[door]), planted)
    assert_clean(drawn[door], planted)
    assert "[secret]" in drawn[door] or door in NOT_EVEN_A_TRACE


def test_libraries_that_quote_what_the_other_side_sent_have_no_say(piped: dict[str, str]) -> None:
    assert piped["libraries that quote others"] == ""


def test_every_line_of_a_log_file_is_a_document_with_a_level_and_a_time(piped: dict[str, str]) -> None:
    for said in piped.values():
        for line in said.splitlines():
            document = json.loads(line)
            assert {"event", "level", "timestamp"} <= document.keys(), line


def test_what_nobody_caught_is_one_line_with_its_traceback(piped: dict[str, str]) -> None:
    (line,) = piped["the end"].splitlines()
    document = json.loads(line)
    assert (document["event"], document["level"]) == ("crash", "error")
    assert "Traceback (most recent call last)" in document["exception"]
    assert "in fail" in document["exception"]


def test_a_message_that_cannot_be_formatted_is_told_as_it_was_written(piped: dict[str, str]) -> None:
    assert json.loads(piped["a message that cannot be formatted"].splitlines()[0])["event"] == "said %s and %s"


def test_what_an_operator_needs_stays(piped: dict[str, str], drawn: dict[str, str], planted: dict[str, str]) -> None:
    said, told = (json.loads(line) for line in piped["what stays"].splitlines())
    assert said["head"] == HEAD
    assert re.fullmatch(r"sha256:[0-9a-f]{16}", said["fingerprint"])
    assert told["event"] == "rotation.failed"
    assert told["level"] == "warning"
    assert (told["policy"], told["key_id"], told["generation"]) == ("ci", 2291515, 7)
    assert told["key_name"] == "ci-20261123T040550Z-d233f1"
    assert told["why"] == "sink ci answered nothing"
    terminal = ESCAPES.sub("", drawn["what stays"])
    assert HEAD in terminal
    assert "ci-20261123T040550Z-d233f1" in terminal


def test_a_log_that_nobody_reads_any_more_ends_nothing() -> None:
    program = "import os, structlog\nfrom rotator import log\nlog.setup()\nos.close(2)\nfor _ in range(3):\n"
    program += "    structlog.get_logger().info('said')\nprint('done')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert ended.stdout == "done\n"


def test_a_line_carries_the_time_at_which_it_was_written_in_utc() -> None:
    program = """if True:
        import structlog
        from freezegun import freeze_time
        from rotator import log

        log.setup()
        with freeze_time("2026-11-23 04:05:50"):
            structlog.get_logger().info("service.started", why="it was time")
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr)["timestamp"].startswith("2026-11-23T04:05:50")
