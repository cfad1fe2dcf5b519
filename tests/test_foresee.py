"""What `plan` says is what the service does: foreseen first, then lived through on real parts, and compared."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from builders import (
    APP,
    CI,
    DAY,
    HOUR,
    MINUTE,
    NOW,
    a_failure,
    a_live,
    a_policy,
    a_record,
    a_retiring,
    an_order,
    an_orphan,
    held,
    seen,
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from world import World

from rotator.foresee import MOST, Planned, foresee
from rotator.model import Cron, Hold, OrderKind, Policy, Record, Scope, Window

SECOND_EACH = timedelta(seconds=1)  # Neon's times are whole seconds, so a rotation may come out that much later
STEPS = {"key.intended": "mint", "sink.offered": "deliver", "key.revoking": "revoke", "key.adopted": "adopt"}
HEAD = """
state: sqlite:///state.db
sinks:
  app: {type: file, path: app.key}
  other: {type: file, path: other.key}
policies:
  ci:
"""
TWO = "    deliver_to: [app, other]\n"
ONE = "    deliver_to: [app]\n"

Prepare = Callable[[World], None]
Done = list[tuple[str, datetime]]


def foreseen(world: World, days: float) -> Done:
    """What foresee says of the policy, of those things that are done."""
    world.rounds.poll()
    policy, record, now = world.config.policies["ci"], world.record("ci"), world.clock.now()
    keys = world.engine.outside.keys(world.engine.setup, policy, record, set(), {})
    planned = foresee(policy, record, keys, now, now + timedelta(days=days))
    return [(entry.step, entry.at) for entry in planned if entry.step in STEPS.values()]


def lived(world: World, days: float) -> Done:
    """What the engine did, woken when it asked for it and polled twice a day."""
    before, ends = world.store.head(), world.seconds + days * 86400
    while world.seconds < ends:
        world.rounds.poll()
        wake = world.engine.turn("ci")
        while wake is not None and wake <= world.clock.now():
            wake = world.engine.turn("ci")
        use(world)
        naps = [ends - world.seconds, 43200.0]
        if wake is not None:
            naps.append((wake - world.clock.now()).total_seconds())
        world.push(seconds=min(naps))
    entries = world.store.history("ci")
    first = next((n for n, entry in enumerate(entries, start=1) if entry.hash == before), 0)
    return [(STEPS[entry.event], entry.at) for entry in entries[first:] if entry.event in STEPS]


def use(world: World) -> None:
    """The consumer that takes up a new key as soon as it is there, where something waits for that."""
    file = world.folder / "app.key"
    if world.config.policies["ci"].hold.until_new_key_used and file.exists():
        world.push(seconds=3)
        world.neon.use(file.read_text().strip())


def assert_alike(plan: Done, done: Done) -> None:
    assert [step for step, _ in plan] == [step for step, _ in done]
    for number, ((step, planned), (_, at)) in enumerate(zip(plan, done, strict=True), start=1):
        assert abs(at - planned) <= 5 * SECOND_EACH + number * SECOND_EACH, (number, step, planned, at)


def compare(folder: Path, policy: str, prepare: Prepare = lambda _: None, days: float = 50) -> Done:
    world = World(folder, HEAD + policy)
    try:
        prepare(world)
        plan = foreseen(world, days)
        assert_alike(plan, lived(world, days))
        assert world.store.broken_at() is None
        return plan
    finally:
        world.close()


def a_key_is_live(world: World) -> None:
    world.settle()
    world.push(days=2)


def a_key_is_retiring(world: World) -> None:
    world.settle()
    world.push(days=30)
    world.settle()
    world.push(hours=5)


def an_old_key_was_just_used(world: World) -> None:
    a_key_is_retiring(world)
    old = min(world.ours())
    world.push(hours=17)
    assert world.neon.use(world.neon.secret_of(old))
    world.settle()


def a_rotation_was_ordered(world: World) -> None:
    a_key_is_live(world)
    world.rounds.poll()
    world.order(OrderKind.ROTATE, "ci")


def a_leak_was_told(world: World) -> None:
    a_key_is_live(world)
    world.rounds.poll()
    world.order(OrderKind.ROTATE, "ci", leaked=True)


def it_was_down_for_long(world: World) -> None:
    a_key_is_live(world)
    world.push(days=75)


def a_file_was_emptied(world: World) -> None:
    a_key_is_live(world)
    (world.folder / "app.key").unlink()


def a_file_was_overwritten(world: World) -> None:
    a_key_is_retiring(world)
    (world.folder / "app.key").write_text("somebody-else")


def the_process_died_with_a_secret(world: World) -> None:
    a_key_is_live(world)
    world.push(days=28)
    world.boundaries.watch = lambda name: world.stop.set() if name == "after create_key" else None
    world.rounds.poll()
    world.engine.turn("ci")
    world.boundaries.watch = lambda _: None
    world.push(seconds=2)
    world.restart()


def the_scope_changed(world: World) -> None:
    a_key_is_live(world)
    world.configure(world.text + "    scope: {organization: org-sandbox}\n")


def a_key_is_to_be_adopted(world: World) -> None:
    old = world.neon.create_key("by-hand").id
    world.push(days=12)
    world.configure(world.text + f"    adopt: {old}\n")


EVERY = "    rotate: {every: 30d}\n"
CRON = '    rotate: {cron: "0 3 * * 1", timezone: Europe/Berlin}\n'
WINDOW = '    window: {days: mon-thu, from: "09:00", to: "16:00", timezone: America/New_York}\n'


@pytest.mark.parametrize(
    ("policy", "prepare", "steps"),
    [
        pytest.param(EVERY + ONE, lambda _: None, "mint deliver mint deliver revoke", id="from the beginning"),
        pytest.param(EVERY + TWO, a_key_is_live, "", id="two sinks"),
        pytest.param(EVERY + ONE + "    jitter: 2d\n", a_key_is_live, "", id="jitter"),
        pytest.param(EVERY + ONE + WINDOW, a_key_is_live, "", id="a window"),
        pytest.param(CRON + ONE, a_key_is_live, "", id="cron"),
        pytest.param(CRON + TWO + WINDOW, a_key_is_live, "", id="cron and a window"),
        pytest.param(EVERY + ONE, a_key_is_retiring, "revoke", id="an old key in its grace period"),
        pytest.param(EVERY + ONE, an_old_key_was_just_used, "revoke", id="an old key that was just used"),
        pytest.param(EVERY + ONE, it_was_down_for_long, "", id="down for long"),
        pytest.param(EVERY + ONE, a_rotation_was_ordered, "", id="an order"),
        pytest.param(EVERY + ONE, a_leak_was_told, "mint deliver revoke", id="a leak"),
        pytest.param(EVERY + ONE + WINDOW, a_leak_was_told, "mint deliver revoke", id="a leak outside the window"),
        pytest.param(EVERY + ONE, a_key_is_to_be_adopted, "adopt mint deliver revoke", id="a key to adopt"),
        pytest.param(CRON + ONE, a_key_is_to_be_adopted, "adopt mint deliver", id="a key to adopt, cron"),
        pytest.param(EVERY + TWO, a_file_was_emptied, "mint deliver deliver revoke", id="a file was emptied"),
        pytest.param(EVERY + ONE, a_file_was_overwritten, None, id="a file was overwritten"),
        pytest.param(EVERY + ONE, the_process_died_with_a_secret, "revoke mint deliver", id="a crash"),
        pytest.param(EVERY + ONE, the_scope_changed, "mint deliver revoke", id="another scope"),
        pytest.param(EVERY + ONE + "    paused: true\n", a_key_is_retiring, None, id="paused"),
        pytest.param(
            EVERY + ONE + "    hold: {until_new_key_used: true}\n",
            a_key_is_live,
            "mint deliver revoke",
            id="until used",
        ),
        pytest.param(
            "    rotate: {every: 10d}\n    grace_period: 7d\n" + ONE, a_key_is_live, "", id="a long grace period"
        ),
    ],
)
def test_what_is_foreseen_is_what_is_done(tmp_path: Path, policy: str, prepare: Prepare, steps: str | None) -> None:
    plan = " ".join(step for step, _ in compare(tmp_path, policy, prepare))
    if steps is None:
        assert plan == ""
    else:
        assert plan.startswith(steps or "mint deliver")


DAYS = ["mon-sun", "mon-thu", "sat,sun", "wed"]
CADENCES = st.one_of(
    st.builds(
        lambda days, jitter: f"    rotate: {{every: {days}d}}\n    jitter: {jitter}\n",
        st.integers(8, 20),
        st.sampled_from(["0s", "5h", "2d"]),
    ),
    st.builds(
        lambda minute, hour, day, zone: f'    rotate: {{cron: "{minute} {hour} * * {day}", timezone: {zone}}}\n',
        st.integers(0, 59),
        st.integers(0, 23),
        st.integers(0, 6),
        st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    ),
)
WINDOWS = st.builds(
    lambda days, begin, length: (
        f'    window: {{days: "{days}", from: "{begin:02}:00", to: "{(begin + length) % 24:02}:30"}}\n'
    ),
    st.sampled_from(DAYS),
    st.integers(0, 23),
    st.integers(1, 22),
)
GRACES = st.sampled_from(["10m", "2h", "1d", "5d"]).map(lambda grace: f"    grace_period: {grace}\n")
HOLDS = st.sampled_from(["", "    hold: {while_old_key_used_within: 0s}\n"])


@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(CADENCES, st.just("") | WINDOWS, GRACES, HOLDS, st.sampled_from([ONE, TWO]), st.integers(0, 7 * 86400))
def test_it_is_so_for_any_cadence_window_and_grace(
    tmp_path_factory: pytest.TempPathFactory, cadence: str, window: str, grace: str, hold: str, sinks: str, seconds: int
) -> None:
    def begin(world: World) -> None:
        world.push(seconds=seconds)

    compare(tmp_path_factory.mktemp("world"), cadence + window + grace + hold + sinks, begin, days=25)


# The plan by itself


def plan(record: Record, policy: Policy | None = None, days: float = 90, **outside: Any) -> list[Planned]:
    policy = policy or a_policy()
    return foresee(policy, record, seen(record, **outside), NOW, NOW + timedelta(days=days))


def test_a_plan_is_in_order_and_ends_where_it_was_asked_to() -> None:
    planned = plan(a_record(a_live(2)))
    assert [entry.at for entry in planned] == sorted(entry.at for entry in planned)
    assert all(entry.at <= NOW + 90 * DAY for entry in planned)
    assert {entry.policy for entry in planned} == {"ci"}


def test_a_plan_with_nothing_in_it_says_what_is_waited_for() -> None:
    (entry,) = plan(a_record(a_live(2)), days=1)
    assert (entry.step, entry.at) == ("wait", NOW)
    assert "is due at 2026-12-15 12:00:00 UTC" in entry.why


def test_a_refusal_stands_once_and_what_happens_all_the_same_follows() -> None:
    record = a_record(a_retiring(1, since=NOW - HOUR), a_live(2), gone={CI.target: CI.settings})
    planned = plan(record)
    assert [entry.step for entry in planned] == ["revoke", "refuse"]
    assert "answered 410 Gone" in planned[1].why


def test_a_plan_for_a_paused_policy_says_why_there_is_none() -> None:
    planned = plan(a_record(a_live(2), paused=True))
    assert [entry.step for entry in planned] == ["wait"]


def test_a_retry_is_planned_for_when_it_is_due() -> None:
    planned = plan(a_record(failure=a_failure(retry_at=NOW + 7 * MINUTE)), days=1)
    assert planned[0].step == "mint"
    assert planned[0].at == NOW + 7 * MINUTE


def test_a_key_that_nobody_has_goes_at_once() -> None:
    (first, *_) = plan(a_record(an_orphan(1), a_live(2)))
    assert (first.step, first.at) == ("revoke", NOW)


def test_a_held_key_goes_when_it_was_silent_for_long_enough() -> None:
    retiring = a_retiring(1, since=NOW - 2 * DAY, held=held(), last_used_at=NOW - 20 * MINUTE)
    (first, *_) = plan(a_record(retiring, a_live(2)))
    assert (first.step, first.at) == ("revoke", NOW + 40 * MINUTE)


def test_an_order_is_carried_out_at_once_and_once() -> None:
    planned = plan(a_record(a_live(2), orders=(an_order(),)), days=10)
    assert [entry.step for entry in planned] == ["mint", "deliver", "revoke"]


def test_a_plan_has_an_end() -> None:
    policy = a_policy(rotate=Cron("* * * * *", "UTC"), grace=30 * MINUTE / 60, hold=Hold(timedelta(0)))
    assert len(plan(a_record(a_live(2)), policy, days=3650)) == MOST


def test_a_window_that_is_closed_moves_what_is_planned_into_it() -> None:
    window = Window(frozenset({0}), NOW.time().replace(hour=9), NOW.time().replace(hour=10), "UTC")
    planned = plan(a_record(a_live(2, APP)), a_policy(APP, window=window))
    assert [entry.step for entry in planned[:3]] == ["mint", "deliver", "revoke"]
    assert all(entry.at.weekday() == 0 and entry.at.hour == 9 for entry in planned)


def test_a_list_that_was_not_read_is_no_ground_for_a_plan() -> None:
    policy = a_policy(scope=Scope("org-unread"))
    planned = foresee(policy, a_record(), seen(a_record()), NOW, NOW + DAY)
    assert [entry.step for entry in planned] == ["wait"]
    assert "it was not read for this plan" in planned[0].why
