"""How long commands take, when the service is ready, and how much memory it needs then: 1,000 policies."""

from __future__ import annotations

import argparse

from stage import HEADER, ROTATOR, a_service, a_stage, later, row, timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=1000)
    parser.add_argument("--times", type=int, default=7, help="how often each is measured")
    options = parser.parse_args()
    many = f"{options.policies} policies"
    print(HEADER)
    asked = [1000 * timed([*ROTATOR, "--help"]) for _ in range(2 * options.times)]
    print(row("`rotator --help`", asked, "ms", "120"))
    with a_stage(options.policies, later) as stage:
        checks = [timed(stage.command("check")) for _ in range(options.times)]
        print(row(f"`rotator check`, {many}", checks, "s", "1.5", 2))
        ready, memory = [], []
        for _ in range(options.times):
            with a_service(stage) as service:
                ready.append(service.ready_after)
                memory.append(service.memory())
        print(row(f"`rotator run` until READY=1, {many}", ready, "s", "3", 2))
        print(row("its resident memory then", memory, "MiB", "90"))


if __name__ == "__main__":
    main()
