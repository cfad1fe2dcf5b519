"""Every story of a small world: which choices there are, a turn at a time, until nothing new is reached.

The world of `fold.py` takes a number wherever something may go wrong. Here a turn is played once for each number that
it could have taken there: with no trouble, then with each single one at each place, then with each second one after
it. A *budget* says how many troubles (faults, orders, changes of the configuration, pushes of the clock) a story may
hold; the number of turns is not bounded. That ends all the same, for worlds that go on alike are one (`canon.py`):
a policy that rotates for years in peace is a ring of some ten worlds.

Stories are taken up by their number of troubles, then by their number of turns. So every world is reached with the
fewest troubles that lead to it, and the story of a finding is a shortest one. A world in which the policy has more
than seven keys is not gone on from.

In every step the world asserts what must hold. From every world that is reached the trouble then stops, and the
policy must come to rest: it must neither return to a world that it was in nor take longer than some days, nor ask a
person where no rule says so. Worlds that were seen to end well end later runs.

A policy that fires and polls on the hour, and wakes from a sleep of minutes at a multiple of five, keeps the worlds
few: times off that grid die out.
"""

from __future__ import annotations

import heapq
import itertools
import time as clock
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import time

from builders import APP, CI, DAY, HOUR, MINUTE, NAME, VAULT, a_hold

from rotator.model import Check, Cron, Do, OnMissing, Policy, Then, Window
from rotator.standing import live, older

from .canon import canonical
from .fold import World
from .invariants import TO_ADOPT

MOST_KEYS = 7
_LONGEST = 6 * DAY
_POLICY = Policy(
    NAME,
    Cron("0 */6 * * *", "UTC"),
    (APP, CI),
    grace_period=90 * MINUTE,
    hold=a_hold(at_most=6 * HOUR),
)


def _world(**changes: object) -> World:
    return World([], replace(_POLICY, **changes), poll=HOUR, grid=5 * MINUTE)  # type: ignore[arg-type]


def _crowded(world: World) -> World:
    """The process died again and again after a sink had been sent the key: four orphans."""
    for _ in range(30):
        if len(older(world.record)) < 4:
            go_wrong(world, "dies after sending")
    return world


def _lived_in() -> World:
    """A live key that every sink has."""
    world = _world()
    turn(world)
    return world


def _late() -> World:
    """Two answers were lost, and the keys have not shown yet."""
    world = _world()
    go_wrong(world, "answer lost, key comes later")
    turn(world)
    return world


def go_wrong(world: World, what: str) -> None:
    """One turn, and the pause after it, with this trouble wherever it may happen."""
    choices: list[int] = []
    while True:
        trial = world.copy()
        trial.troubles = list(choices)
        turn(trial)
        places = (place for place, (_, kinds, _) in enumerate(trial.taken) if what in kinds and place >= len(choices))
        place = next(places, None)
        if place is None:
            break
        choices = [number for number, _, _ in trial.taken[:place]] + [1 + trial.taken[place][1].index(what)]
    world.troubles = choices
    turn(world)


def turn(world: World) -> None:
    world.turn()
    world.pause()


WORLDS: dict[str, Callable[[], World]] = {
    "two-sinks": _world,
    "adopted": lambda: _world(adopt=TO_ADOPT.id),
    "crowded": lambda: _crowded(_world()),
    "crowded-later": lambda: _crowded(_lived_in()),
    "late": _late,
    "three-sinks": lambda: _world(deliver_to=(CI, APP, VAULT)),
    "one-webhook": lambda: _world(deliver_to=(CI,)),
    "revoked-at-last": lambda: _world(hold=a_hold(until_new_key_used=True, at_most=3 * HOUR, then=Then.REVOKE)),
    "replaced-when-missing": lambda: _world(on_missing=OnMissing.REPLACE),
    "window": lambda: _world(window=Window(frozenset(range(7)), time(13), time(17), "UTC")),
}


class Finding(Exception):
    """A story that does not end well."""

    def __init__(self, story: list[int], error: Exception) -> None:
        super().__init__(str(error) if isinstance(error, AssertionError) else repr(error))
        self.story = story


@dataclass
class Explored:
    """How much was seen.

    `depth` is the largest number of turns, `quiet_turns` are those of the runs to rest, `beyond` are the worlds with
    too many keys. `stopped` tells where the time was up: at so many troubles, of which so many turns were not played.
    """

    worlds: int = 0
    turns: int = 0
    quiet_turns: int = 0
    depth: int = 0
    most_keys: int = 0
    beyond: int = 0
    stopped: tuple[int, int] | None = None
    by_troubles: Counter[int] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)
    steps: Counter[Do] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Origin:
    """How a world was reached: from where, by which choices."""

    before: _Origin | None
    choices: tuple[int, ...]

    def story(self) -> list[int]:
        parts = [self.choices]
        at = self.before
        while at is not None:
            parts.append(at.choices)
            at = at.before
        return [number for choices in reversed(parts) for number in choices]


def explore(
    start: World,
    budget: int,
    seconds: float = float("inf"),
    met: Callable[[World, World], None] | None = None,
) -> Explored:
    """Play every story with at most `budget` troubles, for at most so long. Raises Finding.

    `met` is called with every world that was reached again, and the one that it is taken for.
    """
    explored, seen, good = Explored(), dict[bytes, World](), set[bytes]()
    root = _Origin(None, tuple(number for number, _, _ in start.taken))
    ticket, ends = itertools.count(), clock.monotonic() + seconds
    todo: list[tuple[int, int, int, _Origin, World, list[int]]] = [(0, 1, next(ticket), root, start, [])]
    while todo:
        if clock.monotonic() > ends:
            explored.stopped = todo[0][:2]
            break
        used, depth, _, origin, before, prefix = heapq.heappop(todo)
        world = before.copy()
        world.troubles = list(prefix)
        explored.turns += 1
        try:
            turn(world)
        except Exception as error:
            raise Finding([*origin.story(), *(number for number, _, _ in world.taken)], error) from error
        for choices, price in _other(world, len(prefix)):
            if used + price <= budget:
                heapq.heappush(todo, (used + price, depth, next(ticket), origin, before, choices))
        mark = canonical(world)
        if mark in seen:
            if met is not None:
                met(world, seen[mark])
            continue
        seen[mark] = start if met is None else world
        here = _Origin(origin, tuple(number for number, _, _ in world.taken))
        _note(explored, world, used, depth)
        try:
            explored.quiet_turns += _come_to_rest(world.copy(), good)
        except Exception as error:
            raise Finding(here.story(), error) from error
        if len(_keys(world)) > MOST_KEYS:
            explored.beyond += 1
        else:
            heapq.heappush(todo, (used, depth + 1, next(ticket), here, world, []))
    return explored


def _other(world: World, free: int) -> Iterator[tuple[list[int], int]]:
    """The choices that could have been made instead of the first that was not prescribed, or a later one."""
    taken = [number for number, _, _ in world.taken]
    for place in range(free, len(taken)):
        _, kinds, price = world.taken[place]
        for number in range(1, len(kinds)) if not price else range(1, 1 + len(kinds)):
            yield [*taken[:place], number], price


def _come_to_rest(world: World, good: set[bytes]) -> int:
    """How many turns it took until a world that ends well."""
    world.calm()
    passed: dict[bytes, None] = {}
    ends = world.now + _LONGEST
    while world.now < ends:
        mark = canonical(world)
        if mark in good:
            break
        assert mark not in passed, f"it goes round for ever: {world.step}"
        passed[mark] = None
        world.turn()
        if world.is_quiet():
            break
        world.answer()
        world.pause()
    else:
        raise AssertionError(f"it did not come to rest: {world.step}")
    good.update(passed)
    return len(passed)


def _keys(world: World) -> set[int]:
    return {key_id for keys in world.neon.values() for key_id in keys} & world.made


def _note(explored: Explored, world: World, used: int, depth: int) -> None:
    explored.worlds += 1
    explored.depth = max(explored.depth, depth)
    explored.most_keys = max(explored.most_keys, len(_keys(world)))
    explored.by_troubles[used] += 1
    record, step = world.record, world.step
    orphans = [g for g in record.generations if g.orphan is not None]
    facts = {
        "an orphan that a sink was offered": any(g.offers for g in orphans),
        "an orphan that every sink has": any(
            all(s.target in g.receipts for s in world.policy.deliver_to) for g in orphans
        ),
        "a held key": any(g.held for g in record.generations),
        "a key held past its time": any(g.held and g.held.overdue for g in record.generations),
        "a refused key": any(g.check is Check.REFUSED for g in record.generations),
        "an adopted key that retires": any(g.adopted and g.retiring_since for g in record.generations),
        "a recovered key": any(g.fingerprint is None and g.orphan is not None for g in record.generations),
        "an open intent": record.intent is not None,
        "two names remembered": len(record.closed) > 1,
        "a condemned key": any(g.condemned for g in record.generations),
        "a revocation without an answer": any(g.revocation for g in record.generations),
        "no live key": live(record) is None,
        "four generations or more": len(record.generations) >= 4,
        "a missing live key": (current := live(record)) is not None and current.absence is not None,
        "a doubted list": any(listing.doubt for listing in world.lists.values()),
        "a sink that is gone": bool(record.gone),
        "a former sink": len(world.sinks.keys() - {s.target for s in world.policy.deliver_to}) > 0,
        "keys of two accounts": len({g.scope.account for g in record.generations}) > 1,
        "a person is asked": step is not None and step.do is Do.REFUSE,
        "a pause": record.paused,
        "a policy that is not configured": not world.configured,
        "a back-off": record.lost_retry_at is not None,
    }
    explored.steps.update(world.did)
    explored.facts.update(fact for fact, holds in facts.items() if holds)


def tell(world: World, story: list[int], say: Callable[[str], None]) -> None:
    """Play one story and say what happens; a start that has a story of its own has told it already."""
    world.troubles = list(story[len(world.taken) :])
    try:
        while world.troubles:
            turn(world)
            _say(world, say)
        say("the trouble stops")
        world.run_until_quiet(_LONGEST)
        say("it came to rest")
    finally:
        _say(world, say)


def _say(world: World, say: Callable[[str], None]) -> None:
    for line in world.story:
        say(line)
    world.story.clear()
