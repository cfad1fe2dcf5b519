"""Health, readiness, metrics and the status page, over HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from rotator.assembly import Assembly, assemble
from rotator.config import load
from rotator.errors import NeedsPerson
from rotator.oneshot import carry_out
from rotator.sandbox import Sandbox
from rotator.web import Web

MINUTE = timedelta(minutes=1)


@pytest.fixture
def neon() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def assembly(tmp_path: Path, neon: Sandbox) -> Iterator[Assembly]:
    (tmp_path / "key").write_text(neon.management_key)
    (tmp_path / "config.yaml").write_text(
        f"neon: {{api_key: {{file: key}}, api_url: {neon.url}}}\n"
        "listen: 127.0.0.1:0\n"
        "sinks: {app: {type: file, path: app.key}}\n"
        "policies: {ci: {rotate: {every: 30d}, deliver_to: [app]}}\n"
    )
    parts = assemble(load(tmp_path / "config.yaml"), threading.Event(), lambda _: None)
    yield parts
    parts.close()


@pytest.fixture
def web(assembly: Assembly) -> Iterator[Web]:
    server = Web(assembly, lambda: True)
    server.start()
    yield server
    server.stop()


def get(web: Web, path: str) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{web.port}{path}", timeout=10)


def samples(web: Web) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(get(web, "/metrics").text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_it_is_not_ready_before_the_list_was_read_and_ready_after(web: Web, assembly: Assembly) -> None:
    assert get(web, "/readyz").status_code == 503
    assert "has not been read" in get(web, "/readyz").text

    assembly.rounds.poll()

    assert (get(web, "/readyz").status_code, get(web, "/readyz").text) == (200, "leader\n")


def test_it_is_not_ready_while_neon_refuses_the_management_key(web: Web, assembly: Assembly, neon: Sandbox) -> None:
    assembly.rounds.poll()
    neon.fault("refused", on="list", times=None)
    assembly.rounds.poll()

    answer = get(web, "/readyz")

    assert answer.status_code == 503
    assert "refused the management key" in answer.text


def test_it_is_alive_while_the_service_works(assembly: Assembly, web: Web) -> None:
    assert get(web, "/healthz").status_code == 200
    stuck = Web(assembly, lambda: False)
    stuck.start()
    try:
        assert get(stuck, "/healthz").status_code == 503
    finally:
        stuck.stop()


def test_metrics_tell_of_every_policy(web: Web, assembly: Assembly) -> None:
    before = samples(web)
    assert before["rotator_policy_state{policy=ci,state=rotating}"] == 1
    assert before["rotator_ready{}"] == 0

    carry_out(assembly, ["ci"], MINUTE)

    after = samples(web)
    assert after["rotator_ready{}"] == 1
    assert after["rotator_older_keys{policy=ci}"] == 0
    assert after["rotator_live_key_created_timestamp_seconds{policy=ci}"] > 1e9
    assert after["rotator_next_step_timestamp_seconds{policy=ci}"] > 1e9
    assert after["rotator_neon_requests_total{method=POST,status=200}"] == 1
    assert after["rotator_needs_person{}"] == 0
    assert after["process_resident_memory_bytes{}"] > 1e6


def test_the_page_is_the_status(web: Web, assembly: Assembly) -> None:
    carry_out(assembly, ["ci"], MINUTE)

    page = get(web, "/").text

    assert "ci: ok; ci-" in page
    assert "is due at" in page


def test_no_secret_is_shown(web: Web, assembly: Assembly, neon: Sandbox) -> None:
    carry_out(assembly, ["ci"], MINUTE)
    secrets = [neon.management_key, *(neon.secret_of(key.id) for key in list(neon.keys()))]

    for path in ("/", "/metrics", "/readyz", "/healthz", "/nothing"):
        assert not any(secret in get(web, path).text for secret in secrets)


def test_nothing_can_be_changed_through_it(web: Web) -> None:
    assert requests.post(f"http://127.0.0.1:{web.port}/", timeout=10).status_code == 405
    assert get(web, "/orders").status_code == 404


def test_a_port_in_use_is_named(assembly: Assembly, web: Web, tmp_path: Path) -> None:
    text = (tmp_path / "config.yaml").read_text().replace("127.0.0.1:0", f"127.0.0.1:{web.port}")
    (tmp_path / "config.yaml").write_text(text)
    assembly.config = load(tmp_path / "config.yaml")

    with pytest.raises(NeedsPerson, match=f"cannot listen on 127.0.0.1:{web.port}.*choose another"):
        Web(assembly, lambda: True).start()


def test_a_client_that_says_nothing_delays_no_other(web: Web) -> None:
    with socket.create_connection(("127.0.0.1", web.port or 0)):
        assert get(web, "/healthz").status_code == 200
