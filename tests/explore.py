"""Explore small worlds exhaustively: `python tests/explore.py --budget 2`. See `core/explore.py`.

Exit status 1 if a story does not end well; its last line tells the story again.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import sys
import time

from core.explore import WORLDS, Finding, explore, tell


def main() -> int:
    parser = argparse.ArgumentParser(description="Every story of a small world.")
    parser.add_argument("--world", choices=[*WORLDS, "all"], default="all")
    parser.add_argument("--budget", type=int, default=1, help="how many troubles a story may hold")
    parser.add_argument("--faults", action="store_true", help="only faults: no orders, no changes of the configuration")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="how long at most, for each world")
    parser.add_argument("--facts", action="store_true", help="also say what was reached, and in how many worlds")
    parser.add_argument("--story", help="tell this one story, as a finding shows it")
    asked = parser.parse_args()
    if asked.story is not None:
        tell(WORLDS[asked.world](), _read(asked.story), print)
        return 0
    for name in WORLDS if asked.world == "all" else [asked.world]:
        before, start = time.process_time(), WORLDS[name]()
        start.left_alone = asked.faults
        try:
            found = explore(start, asked.budget, asked.minutes * 60)
        except Finding as finding:
            print(f"{name}: {finding}")
            print(f"python tests/explore.py --world {name} --story {_written(finding.story)}")
            return 1
        what = "faults" if asked.faults else "troubles"
        end = "nothing is left to explore"
        if found.stopped is not None:
            troubles, turns = found.stopped
            end = f"stopped: nothing is left below {troubles} troubles, and with {troubles} below {turns} turns"
        print(
            f"{name}: {found.worlds} worlds by {found.turns} turns with at most {asked.budget} {what}, "
            f"{found.depth} turns deep, at most {found.most_keys} keys ({found.beyond} worlds beyond seven); "
            f"all come to rest ({found.quiet_turns} turns); {end}; "
            f"{time.process_time() - before:.0f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB"
        )
        print("  worlds by troubles:", ", ".join(f"{n}: {count}" for n, count in sorted(found.by_troubles.items())))
        if asked.facts:
            for fact, count in found.facts.most_common():
                print(f"  {count:8} {fact}")
            print("  steps:", ", ".join(f"{step}: {count}" for step, count in sorted(found.steps.items())))
    return 0


def _written(story: list[int]) -> str:
    """`0*12,3`: twelve times nothing, then the third trouble."""
    runs = [(number, len(list(run))) for number, run in itertools.groupby(story)]
    return ",".join(f"{number}*{count}" if count > 1 else str(number) for number, count in runs)


def _read(story: str) -> list[int]:
    parts = [part.split("*") for part in story.split(",")]
    return [number for part in parts for number in [int(part[0])] * int(part[-1] if len(part) > 1 else 1)]


if __name__ == "__main__":
    sys.exit(main())
