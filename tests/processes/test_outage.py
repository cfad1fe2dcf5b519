"""Neon is away, in three ways, and comes back.

Meanwhile the service stays up, says so, asks ever more rarely, and nobody who holds a key notices; afterwards it
goes on by itself. An outage lasts as long as ROTATOR_OUTAGE_SECONDS says; every time-out is over after 150.
"""

from __future__ import annotations

import math
import os
import re
import time
import urllib.request
from collections.abc import Callable

import pytest
from sinks.builders import until

from .stage import ONE_POLICY, Service, Stage, a_free_port
from .test_full_disk import order, ready
from .test_killed import accounts_for_everything, using

SECONDS = float(os.environ.get("ROTATOR_OUTAGE_SECONDS", "3"))
COMMAND = "ROTATOR_OUTAGE_SECONDS=150 python -m pytest -n 3 tests/processes/test_outage.py"
POLL = 2.0
DOES = "It stays up, not ready, asks with every poll and retries ever more rarely; no consumer notices."


def refuses(stage: Stage) -> None:
    stage.neon.stop()


def never_answers(stage: Stage) -> None:
    stage.neon.fault("slow", on="any", times=None, seconds=3_600)


def answers_503(stage: Stage) -> None:
    stage.neon.fault("unavailable", on="any", times=None)


def away(fault: str) -> pytest.MarkDecorator:
    return pytest.mark.fault("Neon", fault, DOES, command=COMMAND)


@pytest.mark.parametrize(
    ("begin", "says"),
    [
        pytest.param(
            refuses, "refused the connection", marks=away("Neon refuses connections for longer than every time-out")
        ),
        pytest.param(answers_503, "HTTP 503", marks=away("Neon answers 503 for longer than every time-out")),
    ],
    ids=["refuses", "answers 503"],
)
def test_an_outage(stage: Stage, begin: Callable[[Stage], None], says: str, person_sees: Callable[[str], None]) -> None:
    """It is told at once, and shows in /readyz."""

    def look(service: Service, port: int) -> None:
        told = service.wait_for("list.unreadable")["why"]
        assert says in told
        person_sees(told)
        assert ready(port)[0] == 503

    survives(stage, begin, look)


def test_a_neon_that_never_answers(stage: Stage) -> None:
    """It is known after the first time-out, of 30 s."""
    survives(stage, never_answers, lambda *_: None)


def survives(stage: Stage, begin: Callable[[Stage], None], look: Callable[[Service, int], None]) -> None:
    """A rotation that was ordered at the beginning of the outage is carried out at its end."""
    port = a_free_port()
    stage.configure(f"listen: 127.0.0.1:{port}{ONE_POLICY}", poll_every=f"{POLL:.0f}s")
    service = stage.serve()
    with using(stage, {"app": stage.app}) as refused:
        before, began = asked(port), time.monotonic()
        begin(stage)
        order(stage, "ci")
        look(service, port)
        time.sleep(max(0.0, SECONDS - (time.monotonic() - began)))
        lasted = time.monotonic() - began
        assert service.running
        # Three tries a poll, and of the rotation three a pause that doubles from 1 s on.
        assert asked(port) - before <= 3 * (lasted / POLL + 2) + 3 * (math.log2(lasted) + 2)
        assert stage.works(stage.app())
        print(f"{asked(port) - before} requests in {lasted:.0f} s")
        stage.neon.clear_faults()
        stage.neon.stop()  # whoever waits for an answer learns that there will be none
        stage.neon.start()
        service.wait_for("rotation.live", times=2, within=60 + 2 * SECONDS)
        assert refused == []
    until(lambda: ready(port) == (200, "leader\n"))
    assert stage.works(stage.app())
    accounts_for_everything(stage)


def asked(port: int) -> int:
    """How many requests to Neon were tried, by the service's own count."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return sum(int(float(count)) for count in re.findall(r"^rotator_neon_requests_total\{.*\} (\S+)$", text, re.M))
