"""The command line of the simulation."""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor

from .run import YEAR, Tally, run


def main() -> int:
    """Run, print what came of it; 1 if something was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--steps", type=int, help="how many steps in all (default: no limit)")
    parser.add_argument("--worlds", type=int, help="how many worlds at most")
    parser.add_argument("--seed", type=int, default=1, help="the first world's seed; the next ones follow it")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes")
    parser.add_argument("--alone", action="store_true", help="in this process, for a debugger")
    asked = parser.parse_args()
    began = time.monotonic()
    share = None if asked.steps is None else -(-asked.steps // asked.jobs)
    if asked.alone:
        tally = run(asked.seed, steps=asked.steps, worlds=asked.worlds)
        show(tally, time.monotonic() - began)
        return 1 if tally.violations else 0
    with ProcessPoolExecutor(asked.jobs) as pool:
        runs = [
            pool.submit(run, asked.seed + job * 10**6, steps=share, worlds=asked.worlds) for job in range(asked.jobs)
        ]
        tally = Tally()
        for each in runs:
            tally.join(each.result())
    show(tally, time.monotonic() - began)
    return 1 if tally.violations else 0


def show(tally: Tally, took: float) -> None:
    """A line a number."""
    for violation in tally.violations:
        print(violation)
    print(f"steps                 {tally.steps:>12,}   {tally.steps / took:,.0f} a second")
    print(f"worlds                {tally.worlds:>12,}")
    print(f"simulated years       {tally.seconds / YEAR:>12,.1f}")
    print(f"keys created          {tally.created:>12,}")
    print(f"keys revoked          {tally.revoked:>12,}")
    print(f"deaths                {tally.deaths:>12,}")
    print(f"lost answers          {sum(n for kind, n in tally.troubles.items() if ' lost, ' in kind):>12,}")
    print(f"consumer calls        {tally.calls:>12,}")
    print(f"failed, by a trouble  {tally.failed - tally.failed_healthy:>12,}")
    print(f"failed otherwise      {tally.failed_healthy:>12,}")
    print(f"violations            {len(tally.violations):>12,}")
    print(f"troubles              {sum(tally.troubles.values()):>12,}")
    for kind, number in sorted(tally.troubles.items()):
        print(f"  {kind:<28}{number:>10,}")
