"""The management key rotates itself under SIGKILL: the key in its file works at every moment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sinks.builders import until

from .stage import PATIENCE, Stage
from .test_killed import AT_NEON, AT_REST, IN_THE_HISTORY, Killer, using


def managing(stage: Stage, every: str) -> str:
    """A policy that rotates the key which the service itself uses, over two keys at most."""
    return f"""
sinks:
  own: {{type: file, path: key}}
policies:
  admin:
    management_key: true
    adopt: {stage.neon.management_key_id}
    rotate: {{every: {every}}}
    grace_period: 1s
    hold: {{while_old_key_used_within: 0s}}
    deliver_to: [own]
"""


@pytest.mark.fault(
    "Process",
    "SIGKILL at every boundary while the management key rotates itself",
    "The key in its file works at every moment, and in the end it is the only one.",
)
def test_killed_at_every_boundary_of_five_rotations_and_more_it_is_never_locked_out(
    a_stage: Callable[..., Stage], person_sees: Callable[[str], None]
) -> None:
    killer = Killer()
    stage = a_stage(observer=killer.sees)
    stage.configure(managing(stage, "2s"))
    killer.service = stage.serve(hear=killer.hears)
    with using(stage, {"the service's own": lambda: stage.key_file.read_text().strip()}) as refused:
        for boundary in [*AT_NEON, *IN_THE_HISTORY, "api_key.revoked"]:
            killer.await_(boundary)
            assert killer.struck.wait(PATIENCE), f"{boundary} was never reached"
            killer.service.kill()
            killer.service = stage.serve(hear=killer.hears, ready=False)
            killer.service.wait_for("rotation.live")
            assert refused == [], boundary
        killer.service.kill()
        stage.configure(managing(stage, AT_REST))
        stage.serve()
        until(lambda: len(stage.neon.keys()) == 1, PATIENCE)
    assert refused == []
    assert stage.neon.stats()["unauthorized"] == 0
    assert stage.policy("admin")["live"]["generation"] >= 5
    (key,) = stage.neon.keys()
    assert stage.key_file.read_text().strip() == stage.neon.secret_of(key.id)
    ended = stage.rotator("check", "--online")
    assert ended.status == 0
    person_sees(ended.out)
