"""How many calls of Neon's API a rotation costs, counted by the local Neon while the service runs.

Each of the keys is due once, and its grace period is short, so that every rotation runs from its beginning to
the revocation.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

from stage import a_service, a_stage

BEGINS_AFTER = 10.0
GRACE = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=60, help="the stretch over which the keys come due")
    options = parser.parse_args()
    begins = datetime.now(UTC) + timedelta(seconds=BEGINS_AFTER)

    def due(number: int) -> datetime:
        return begins + timedelta(seconds=options.seconds * number / options.policies)

    settings = {"grace_period": f"{GRACE:.0f}s"}
    with a_stage(options.policies, due, **settings) as stage, a_service(stage):
        deadline = time.monotonic() + BEGINS_AFTER + options.seconds + 60
        while len(stage.neon.revoked()) < options.policies and time.monotonic() < deadline:
            time.sleep(1)
        calls = Counter((seen.method, seen.path.partition("?")[0].split("/")[1]) for seen in stage.neon.requests)
    print(f"{options.policies} rotations within {options.seconds:.0f} s")
    print("| call | in all | for each rotation |\n|---|---|---|")
    for (method, path), count in sorted(calls.items()):
        print(f"| {method} /{path} | {count} | {count / options.policies:.2f} |")


if __name__ == "__main__":
    main()
