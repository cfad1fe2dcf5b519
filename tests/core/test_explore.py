"""All stories with one trouble are played in small worlds, and what is wrong in the code is found that way.

`python tests/explore.py` plays more of them; `docs/exploration.md` has its numbers.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import rotator
from rotator.model import Do

from .canon import canonical
from .explore import WORLDS, explore, turn
from .fold import World

COMMAND = Path(__file__).parent.parent / "explore.py"
PACKAGE = Path(rotator.__file__).parent


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "adopted",
            {
                "an adopted key that retires",
                "a held key",
                "a missing live key",
                "a doubted list",
                "a revocation without an answer",
                "a sink that is gone",
                "a former sink",
                "keys of two accounts",
            },
        ),
        (
            "crowded",
            {
                "four generations or more",
                "an orphan that a sink was offered",
                "an orphan that every sink has",
                "a back-off",
                "no live key",
                "a person is asked",
            },
        ),
        ("late", {"two names remembered", "a pause", "a policy that is not configured"}),
    ],
)
def test_every_story_with_one_trouble_ends_well(name: str, facts: set[str]) -> None:
    found = explore(WORLDS[name](), 1)
    assert found.stopped is None
    assert found.worlds > 1000
    assert facts <= found.facts.keys()
    elsewhere = {"adopted": {Do.RECOVER}, "crowded": {Do.RECOVER, Do.ADOPT}, "late": {Do.ADOPT}}[name]
    never = {Do.WAIT, Do.REFUSE, Do.LAPSE}  # an order lapses only where a second trouble keeps it from being taken up
    assert set(Do) - elsewhere - never <= found.steps.keys()


def test_worlds_that_are_taken_for_one_go_on_alike() -> None:
    lots = random.Random(1)
    compared = 0

    def after(world: World, troubles: Sequence[int]) -> World:
        later = world.copy()
        later.troubles = list(troubles)
        turn(later)
        return later

    def met(world: World, like: World) -> None:
        nonlocal compared
        peace = after(world, [])
        place = lots.randrange(len(peace.taken))
        trouble = [*[0] * place, lots.randint(0, len(peace.taken[place][1]))]
        assert canonical(peace) == canonical(after(like, [])), peace.story
        assert canonical(after(world, trouble)) == canonical(after(like, trouble)), trouble
        compared += 1

    explore(WORLDS["two-sinks"](), 1, met=met)
    assert compared > 300


def fault(says: str, world: str, found: str, module: str, *edits: tuple[str, str]) -> Any:
    return pytest.param(world, found, module, edits, id=says)


@pytest.mark.parametrize(
    ("world", "found", "module", "edits"),
    [
        fault(
            "a hard cap on older keys, which no order passes",
            "crowded",
            "goes round for ever",
            "due.py",
            ("if len(kept) < most or rotate_order(record) is not None:", "if len(kept) < MAX_OLDER_KEYS:"),
        ),
        fault(
            "a new sink's rotation that waits for a key which waits for that sink's receipt",
            "two-sinks",
            "goes round for ever",
            "due.py",
            ("return Due(now, why, urgent=unusable, passes_retiring=True)\n    for", "return Due(now, why)\n    for"),
            ("for end, generation in ends if end > now]", "for end, generation in ends]"),
            ('        end, f"a rotation is due', '        None, f"a rotation is due'),
        ),
        fault(
            "a cap that asks a person too soon",
            "crowded",
            "nobody need be asked",
            "model.py",
            ("MAX_OLDER_KEYS = 5", "MAX_OLDER_KEYS = 3"),
        ),
        fault(
            "a revocation without the receipt of every sink",
            "two-sinks",
            "every sink has receipted it",
            "revocation.py",
            ("    _a_sink_lacks_the_live_key,\n", ""),
        ),
        fault(
            "a revocation although the file lost the new key",
            "two-sinks",
            "every file still holds it",
            "revocation.py",
            ("    _a_file_lacks_the_live_key,\n", ""),
        ),
        fault(
            "a revocation of a key in use",
            "two-sinks",
            "it is not in use",
            "revocation.py",
            ("    _still_used,\n", ""),
        ),
        fault(
            "a revocation by an old list",
            "two-sinks",
            "at most 30 s old",
            "revocation.py",
            ("moments = [now - LIST_MAX_AGE, generation.recorded_at]", "moments = [generation.recorded_at]"),
        ),
        fault(
            "a grace period counted from the creation",
            "two-sinks",
            "the grace period has passed",
            "revocation.py",
            ("return generation.retiring_since\n", "return generation.created_at\n"),
        ),
        fault(
            "a retirement counted from the key's own first day",
            "two-sinks",
            "the grace period has passed since",
            "transitions/change.py",
            ("replace(g, retiring_since=now) if", "replace(g, retiring_since=g.live_since) if"),
        ),
        fault(
            "an orphan revoked while a sink may hold it",
            "two-sinks",
            "I",
            "revocation.py",
            (
                "if generation.orphan is not None and not generation.offers:\n        return f",
                "if generation.orphan is not None:\n        return f",
            ),
        ),
        fault(
            "two keys at once",
            "two-sinks",
            "two keys at once",
            "decide.py",
            (
                "if record.intent is None and in_hand(record, keys) is None:\n        yield mint",
                "if record.intent is None:\n        yield mint",
            ),
        ),
        fault(
            "an intent closed without a list",
            "two-sinks",
            "without a list asked for after the POST",
            "decide.py",
            ("listing is None or listing.requested_at < since:", "listing is None:"),
        ),
        fault(
            "a name that is not remembered",
            "two-sinks",
            "I3",
            "transitions/creation.py",
            ("closed=(*changed.closed, closed))", "closed=changed.closed)"),
        ),
        fault(
            "a key that is forgotten with its secret",
            "two-sinks",
            "I3",
            "transitions/hand_off.py",
            (
                "changed = lost_one(with_changed(record, generation), now)",
                "kept = tuple(g for g in record.generations if g.key_id != key_id)\n"
                "    changed = lost_one(replace(record, generations=kept), now)",
            ),
        ),
        fault(
            "ownership by name",
            "two-sinks",
            "I4",
            "standing.py",
            ("if key.name == name and key.created_at >= earliest:", "if key.name[:3] == name[:3]:"),
        ),
        fault(
            "an account that is left while a key may yet turn up in it",
            "late",
            "goes round for ever",
            "usage.py",
            ("    scopes |= {closed.scope for record in records.values() for closed in record.closed}\n", ""),
        ),
    ],
)
def test_a_fault_in_the_code_is_found(
    world: str, found: str, module: str, edits: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    copy = tmp_path / "rotator"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "sandbox", "demo", "commands", "sinks"))
    text = (copy / module).read_text()
    for right, wrong in edits:
        assert text.count(right) == 1, right
        text = text.replace(right, wrong)
    (copy / module).write_text(text)
    ran = subprocess.run(
        [sys.executable, COMMAND, "--world", world],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    said, again = ran.stdout.splitlines()
    assert found in said
    assert again.startswith(f"python tests/explore.py --world {world} --story ")
