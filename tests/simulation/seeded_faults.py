"""Does the simulation see what it is for? Classic faults are put into a copy of the product, one at a time.

`python -m tests.simulation.seeded_faults` runs the simulation on each copy, with the same seeds for all, until an
invariant is violated or the worlds are used up. It prints a table, and exits with 1 if a fault was not caught or
does not apply to the code any more.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SEED, WORLDS = 1, 25


@dataclass(frozen=True)
class Fault:
    """A small change of a file (`also` of others): each text must be there exactly once, and is replaced by another."""

    what: str
    file: str
    edits: tuple[tuple[str, str], ...]
    also: tuple[tuple[str, str, str], ...] = ()

    def apply(self, product: Path) -> None:
        """Put the fault into a copy of the product. Raises ValueError if it does not apply any more."""
        for name, old, new in (*((self.file, *edit) for edit in self.edits), *self.also):
            file = product / name
            text = file.read_text(encoding="utf-8")
            if text.count(old) != 1:
                raise ValueError(f"{self.what}: {text.count(old)} times in {name}: {old!r}")
            file.write_text(text.replace(old, new), encoding="utf-8")


FAULTS = (
    Fault(
        "revoked without a receipt of every sink that there is now",
        "revocation.py",
        (("    _a_sink_lacks_the_live_key,\n", ""),),
    ),
    Fault(
        "a POST sent twice after a lost answer",
        "engine.py",
        (
            (
                "            key, secret = setup.provider.create_key(policy.scope, key_name)\n",
                "            try:\n"
                "                key, secret = setup.provider.create_key(policy.scope, key_name)\n"
                "            except OutcomeUnknown:\n"
                "                key, secret = setup.provider.create_key(policy.scope, key_name)\n",
            ),
        ),
    ),
    Fault(
        "ownership by the policy's name in a key's name",
        "standing.py",
        (
            (
                "        key = found_again(closed, listing) if listing else None\n",
                "        listed = listing.keys.values() if listing else ()\n"
                "        like = [k for k in listed if k.name.startswith(record.policy)]\n"
                "        key = next((k for k in like if k.id not in known), None)\n",
            ),
        ),
        also=(
            (
                "transitions/creation.py",
                "next(c for c in record.closed if c.key_id == key.id or (c.key_id is None and c.name == key.name))",
                "record.closed[0]",
            ),
        ),
    ),
    Fault(
        "the grace period counted from the creation",
        "revocation.py",
        (("        return generation.retiring_since\n", "        return generation.created_at\n"),),
    ),
    Fault(
        "the intent committed after the POST",
        "engine.py",
        (
            (
                "        self._commit(name, lambda r: transitions.intend(r, policy, key_name, step.why, urgent, now))\n"
                "        asked = self._clock.monotonic()\n"
                "        try:\n"
                "            key, secret = setup.provider.create_key(policy.scope, key_name)\n",
                "        asked = self._clock.monotonic()\n"
                "        try:\n"
                "            key, secret = setup.provider.create_key(policy.scope, key_name)\n"
                "            self._commit(\n"
                "                name, lambda r: transitions.intend(r, policy, key_name, step.why, urgent, now)\n"
                "            )\n",
            ),
        ),
    ),
    Fault(
        "the offer committed after the hand-off",
        "engine.py",
        (
            ("            self._commit(name, lambda r: transitions.offer(r, key_id, ref, step.why, now))\n", ""),
            (
                "            setup.sinks[ref.name].deliver(hand_off, self._hands[name][key_id].secret)\n",
                "            setup.sinks[ref.name].deliver(hand_off, self._hands[name][key_id].secret)\n"
                "            self._commit(name, lambda r: transitions.offer(r, key_id, ref, step.why, now))\n",
            ),
        ),
    ),
    Fault(
        "an orphan that sinks were offered revoked at once",
        "revocation.py",
        (
            (
                "    if generation.orphan is not None and not generation.offers:\n",
                "    if generation.orphan is not None:\n",
            ),
        ),
    ),
    Fault(
        "revoked although the live key is missing from the list",
        "revocation.py",
        (
            ("    _live_key_is_gone,\n", ""),
            (
                "    if successor is not None and successor.key_id not in keys.lists[successor.scope.account].keys:\n",
                "    if False:\n",
            ),
        ),
    ),
    Fault(
        "a 404 taken for done without a list",
        "engine.py",
        (
            (
                "            setup.provider.revoke_key(account, key_id, patience=patience)\n",
                "            try:\n"
                "                setup.provider.revoke_key(account, key_id, patience=patience)\n"
                "            except KeyNotFound:\n"
                "                pass\n",
            ),
        ),
    ),
    Fault("last_used_at ignored", "revocation.py", (("    _still_used,\n", ""),)),
    Fault(
        "last_used_at allowed to go back",
        "observe.py",
        (("(known is not None and used <= known)", "used == known"),),
    ),
    Fault(
        "an old list believed (no 30 seconds)",
        "revocation.py",
        (("    moments = [now - LIST_MAX_AGE, generation.recorded_at]\n", "    moments = [generation.recorded_at]\n"),),
    ),
    Fault(
        "an empty list believed",
        "observe.py",
        (
            ("    if listing.account == PERSONAL and not listing.keys:\n", "    if False:\n"),
            ("    if own is not None and own not in listing.keys:\n", "    if False:\n"),
            ("    if not lacked or not (several or len(lacked) == len(known)):\n", "    if True:\n"),
        ),
    ),
    Fault(
        "the secret dropped with the first receipt",
        "engine.py",
        (
            (
                "            self._commit_outcome(name, lambda r, at: transitions.receipted(r, key_id, ref, at))\n",
                "            self._commit_outcome(name, lambda r, at: transitions.receipted(r, key_id, ref, at))\n"
                "            self._drop(name, key_id)\n",
            ),
        ),
    ),
    Fault(
        "a death forgets the intent",
        "engine.py",
        (
            (
                "        for record in self._state.records().values():\n            self.outside.remember(record)\n",
                "        from dataclasses import replace\n\n"
                "        for name in self._state.records():\n"
                "            self._commit(name, lambda r: Change(replace(r, intent=None)))\n",
            ),
        ),
    ),
    Fault(
        "the name of a closed intent forgotten",
        "transitions/creation.py",
        (
            (
                "        changed = replace(changed, closed=(*changed.closed, closed))\n        event = Event(",
                "        event = Event(",
            ),
        ),
    ),
    Fault(
        "revoked although the state could not be written",
        "engine.py",
        (
            (
                "        self._commit(name, lambda r: transitions.revoking(r, key_id, step.why, now))\n",
                "        try:\n"
                "            self._commit(name, lambda r: transitions.revoking(r, key_id, step.why, now))\n"
                "        except StateUnavailable:\n"
                "            pass\n",
            ),
        ),
    ),
    Fault(
        "two generations in flight",
        "decide.py",
        (
            (
                "    if record.intent is None and in_hand(record, keys) is None:\n        yield mint_step",
                "    if record.intent is None:\n        yield mint_step",
            ),
        ),
    ),
    Fault(
        "an order carried out again and again",
        "transitions/creation.py",
        (
            (
                "    return Change(changed, (event,), tuple(order.id for order in orders))\n",
                "    return Change(changed, (event,))\n",
            ),
        ),
    ),
    Fault(
        "a back-off that never grows",
        "transitions/change.py",
        (
            (
                "    longest = min(_FIRST_PAUSE * float(2 ** min(failures - 1, 20)), _LONGEST_PAUSE)\n",
                "    longest = _FIRST_PAUSE\n",
            ),
        ),
    ),
    Fault(
        "the management key revoked by order",
        "rounds.py",
        (("                if key_id in own:\n", "                if False:\n"),),
    ),
    Fault(
        "a leaked key revoked before its successor is live",
        "revocation.py",
        (
            (
                "is Condemned.AT_LIVE and successor is not None and successor.number > generation.number:",
                "is Condemned.AT_LIVE and successor is not None:",
            ),
        ),
    ),
    Fault(
        "a hand-off that failed taken for a receipt",
        "engine.py",
        (
            (
                "lambda r, at: transitions.offer_failed(r, key_id, ref, failed, at))\n",
                "lambda r, at: transitions.receipted(r, key_id, ref, at))\n",
            ),
        ),
    ),
    Fault(
        "keys revoked outside the rotation window",
        "revocation.py",
        (("    if policy.window is not None and not window_is_open(policy.window, now):\n", "    if False:\n"),),
    ),
    Fault(
        "a file not read again before the old key goes",
        "revocation.py",
        (("    _a_file_lacks_the_live_key,\n", ""),),
    ),
)


def run_with(fault: Fault, seed: int, worlds: int) -> tuple[str, int, int]:
    """What caught the fault, or an empty text; after how many steps, in how many worlds."""
    with tempfile.TemporaryDirectory(prefix="seeded-") as folder:
        ignored = shutil.ignore_patterns("__pycache__", "sandbox", "demo")
        shutil.copytree(ROOT / "rotator", f"{folder}/rotator", ignore=ignored)
        shutil.copytree(ROOT / "tests" / "simulation", f"{folder}/tests/simulation", ignore=ignored)
        fault.apply(Path(folder) / "rotator")
        command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed), "--worlds", str(worlds), "--alone"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    out = ended.stdout
    if ended.returncode not in (0, 1) or "violations" not in out:
        raise RuntimeError(f"{fault.what}: {ended.stderr[-2000:]}")
    found = re.findall(r"^(\w+): .*\nrepeat:", out, flags=re.MULTILINE)
    steps, seen = (
        int(re.findall(rf"^{word} +([\d,]+)", out, re.MULTILINE)[0].replace(",", "")) for word in ("steps", "worlds")
    )
    return (found[0] if found else ""), steps, seen


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a fault; 1 if one was not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.seeded_faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--worlds", type=int, default=WORLDS, help="give up after so many worlds")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="the faults with this text in their description")
    asked = parser.parse_args(arguments)
    faults = [fault for fault in FAULTS if asked.only in fault.what]
    began, missed = time.monotonic(), 0
    print("| fault | caught by | steps | worlds |\n|---|---|---:|---:|")
    with ThreadPoolExecutor(asked.jobs) as pool:
        results = pool.map(lambda fault: run_with(fault, asked.seed, asked.worlds), faults)
        for fault, (invariant, steps, worlds) in zip(faults, results, strict=True):
            missed += not invariant
            print(f"| {fault.what} | {invariant or 'NOT CAUGHT'} | {steps:,} | {worlds} |", flush=True)
    print(f"\n{len(faults) - missed} of {len(faults)} faults caught in {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
