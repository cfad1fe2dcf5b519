"""From the moment that a key is due to the arrival of the POST at Neon, with 1,000 policies.

One or two keys come due every second. Neon's times are whole seconds, and so are these due times; the service
knows Neon's clock by its answers alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from stage import HEADER, Stage, a_service, a_stage, later, row

BEGINS_AFTER = 20.0
APART = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=330, help="how long; a poll comes after 300")
    options = parser.parse_args()
    begins = datetime.now(UTC) + timedelta(seconds=BEGINS_AFTER)
    measured = min(options.policies, int(options.seconds / APART))

    def due(number: int) -> datetime:
        return begins + timedelta(seconds=APART * number) if number < measured else later(number)

    with a_stage(options.policies, due) as stage, a_service(stage):
        ends = begins + timedelta(seconds=APART * measured + 3)
        time.sleep((ends - datetime.now(UTC)).total_seconds())
        late = sorted(lateness(stage))
    assert len(late) == measured, f"{len(late)} of {measured} keys were created"
    print(HEADER)
    print(row(f"due to POST, {measured} rotations, {options.policies} policies", late, "s", "", 3))
    print(f"| its 99th percentile | | {percentile(late, 0.99):.3f} | | s | 1 |")


def lateness(stage: Stage) -> list[float]:
    """How long after its due time each key was asked for: ids are given in the order of arrival."""
    monotonic_to_wall = time.time() - time.monotonic()
    arrivals = [seen.at + monotonic_to_wall for seen in stage.neon.requests if seen.method == "POST"]
    names = {f"{name}-": due.timestamp() for name, due in stage.due.items()}
    created = sorted(stage.neon.keys(), key=lambda key: key.id)[-len(arrivals) :] if arrivals else []
    return [at - names[key.name[: len("policy-0000-")]] for at, key in zip(arrivals, created, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    main()
