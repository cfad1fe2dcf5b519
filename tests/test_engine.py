"""The engine on real parts: HTTP, files, SQLite; only time is pushed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from world import Death, World

from rotator.clock import carried_on
from rotator.errors import StateUnavailable
from rotator.model import OrderKind
from rotator.secret import fingerprint

TWO_FILES = """
state: sqlite:///state.db
sinks:
  app: {type: file, path: app.env, format: dotenv, variable: NEON_API_KEY}
  raw: {type: file, path: raw.key}
policies:
  ci:
    rotate: {every: 30d}
    grace_period: 24h
    deliver_to: [app, raw]
"""
DAY = 86400.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    small = World(tmp_path, TWO_FILES)
    yield small
    small.close()


def app(world: World) -> str:
    """What the first consumer reads."""
    return (world.folder / "app.env").read_text().strip().removeprefix("NEON_API_KEY=").strip("\"'")


def raw(world: World) -> str:
    """What the second consumer reads."""
    return (world.folder / "raw.key").read_text().strip()


def test_a_new_policy_gets_a_key_at_once(world: World) -> None:
    world.settle()

    (key,) = world.ours()
    assert app(world) == raw(world) == world.neon.secret_of(key)
    assert world.status("ci")["state"] == "ok"
    assert world.status("ci")["live"]["id"] == key


def test_a_rotation_replaces_the_key_and_revokes_the_old_one_after_the_grace_period(world: World) -> None:
    world.settle()
    (old,) = world.ours()

    world.push(days=30)
    world.settle()
    assert len(world.ours()) == 2
    assert world.status("ci")["state"] == "retiring"

    world.push(hours=23, minutes=59)
    world.settle()
    assert old in world.ours()

    world.push(minutes=2)
    world.settle()
    (new,) = world.ours()
    assert new != old
    assert app(world) == raw(world) == world.neon.secret_of(new)


def test_a_rotation_costs_three_calls_beside_the_shared_lists(world: World) -> None:
    world.settle()
    before = [world.calls(*call) for call in (("POST", "/api_keys"), ("GET", "/auth"), ("DELETE", "/api_keys"))]

    world.live_through(32 * DAY, step=DAY / 2)

    after = [world.calls(*call) for call in (("POST", "/api_keys"), ("GET", "/auth"), ("DELETE", "/api_keys"))]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]


def test_many_policies_share_one_list(tmp_path: Path) -> None:
    policies = "".join(f"  p{n}: {{rotate: {{every: 30d}}, deliver_to: [s{n}]}}\n" for n in range(20))
    sinks = "".join(f"  s{n}: {{type: file, path: {n}.key}}\n" for n in range(20))
    world = World(tmp_path, f"sinks:\n{sinks}policies:\n{policies}")
    try:
        world.settle()
        assert len(world.ours()) == 20
        assert world.calls("GET", "/api_keys") == 1
    finally:
        world.close()


@pytest.mark.fault(
    "Neon",
    "Neon creates a key, and its answer is lost",
    "The list tells that there is a key; it is revoked, and another is made.",
)
def test_an_answer_that_is_lost_leaves_no_key_behind(world: World, person_sees: Callable[[str], None]) -> None:
    world.neon.fault("lost_answer", on="create", times=1)

    world.settle()
    world.live_through(120)

    (key,) = world.ours()
    assert app(world) == world.neon.secret_of(key)
    assert len(world.neon.revoked()) == 1
    assert [event.name for event in world.events if event.name == "key.orphaned"]
    person_sees(world.told("key.orphaned")[0].why)


@pytest.mark.fault(
    "Neon",
    "Neon creates keys for hours, and every answer is lost",
    "It makes ever fewer attempts, at most one in six hours, and revokes what came of each.",
)
def test_answers_that_are_lost_again_and_again_do_not_litter_the_account(
    world: World, person_sees: Callable[[str], None]
) -> None:
    world.neon.fault("lost_answer", on="create", times=None)

    world.live_through(6 * 3600, step=30)

    assert world.calls("POST", "/api_keys") <= 12
    assert world.ours() == []
    world.neon.clear_faults()
    world.live_through(7 * 3600, step=300)
    assert len(world.ours()) == 1
    person_sees(world.told("rotation.failed")[-1].why)


@pytest.mark.fault(
    "Neon",
    "The request to create a key is lost on the way",
    "The list tells that there is none; another attempt gets another name.",
)
def test_a_key_that_was_never_created_is_not_waited_for(world: World, person_sees: Callable[[str], None]) -> None:
    world.neon.fault("lost_request", on="create", times=1)

    world.settle()
    world.live_through(120)

    assert len(world.ours()) == 1
    assert world.neon.revoked() == []
    person_sees(world.told("intent.closed")[0].why)


def test_a_poll_that_shows_a_key_under_a_remembered_name_wakes_its_policy(world: World) -> None:
    world.neon.fault("lost_request", on="create", times=1)
    world.live_through(600)
    (closed,) = world.record("ci").closed
    world.push(minutes=5)
    assert "ci" not in world.rounds.poll(), "it waits for a time, and nothing is new"
    late = world.neon.create_key(closed.name).id
    world.push(minutes=5)
    assert "ci" in world.rounds.poll()
    world.engine.turn("ci")
    assert late not in world.ours()


@pytest.mark.fault(
    "Neon", "Neon revokes a key, and its answer is lost", "The list tells that the key is gone; it is not asked twice."
)
def test_a_revocation_whose_answer_is_lost_is_settled_by_the_list(
    world: World, person_sees: Callable[[str], None]
) -> None:
    world.settle()
    world.push(days=30)
    world.settle()
    world.neon.fault("lost_answer", on="revoke", times=1)

    world.live_through(26 * 3600, step=600)

    assert len(world.ours()) == 1
    assert world.calls("DELETE", "/api_keys") == 1
    assert world.status("ci")["state"] == "ok"
    person_sees(world.told("revocation.failed")[0].why)


@pytest.mark.fault(
    "Neon", "Neon answers 500 to everything for two days", "Nothing is revoked; afterwards all that was due is done."
)
def test_while_neon_answers_with_errors_nothing_is_revoked_and_then_all_is_caught_up(
    world: World, person_sees: Callable[[str], None]
) -> None:
    world.settle()
    world.push(days=30)
    world.settle()
    world.neon.fault("error_before", on="any", times=None)

    world.live_through(48 * 3600, step=3600)
    assert len(world.ours()) == 2

    world.neon.clear_faults()
    world.live_through(3600, step=300)
    assert len(world.ours()) == 1
    assert app(world) == world.neon.secret_of(world.ours()[0])
    person_sees(world.told("list.unreadable")[0].why)


def test_a_list_without_the_management_key_is_not_believed_however_often_it_comes(world: World) -> None:
    world.settle()
    world.push(days=30)
    world.settle()
    world.neon.fault("partial_list", on="list", times=None, omit=[world.neon.management_key_id])

    world.live_through(2 * DAY, step=3600)
    assert len(world.ours()) == 2
    assert "lacks the management key itself" in world.status("ci")["next"]["why"]

    world.neon.clear_faults()
    world.live_through(3600, step=900)
    assert len(world.ours()) == 1


@pytest.mark.fault(
    "Keys",
    "The old key is still used after its grace period",
    "It is not revoked before nobody has used it for a while; it is told who did.",
)
def test_a_straggler_holds_the_revocation_until_it_stops(world: World, person_sees: Callable[[str], None]) -> None:
    world.settle()
    (old,) = world.ours()
    secret = world.neon.secret_of(old)
    world.push(days=30)
    world.settle()

    for _ in range(30):
        assert world.neon.use(secret, "203.0.113.7")
        world.live_through(3600, step=1800)
    status = world.status("ci")
    assert status["state"] == "held"
    assert status["older"][0]["held"]["addresses"] == ["203.0.113.7"]
    assert "203.0.113.7" in status["next"]["why"]
    assert len(world.told("revocation.held")) == 1

    world.live_through(3 * 3600, step=300)
    assert old not in world.ours()
    person_sees(world.told("revocation.held")[0].why)


def test_a_key_in_steady_use_is_kept_between_two_polls_too(world: World) -> None:
    world.configure(
        TWO_FILES.replace("grace_period: 24h", "grace_period: 30s\n    hold: {while_old_key_used_within: 20s}")
    )
    world.settle()
    secret = app(world)
    world.order(OrderKind.ROTATE, "ci")
    world.settle()

    for count in range(60):
        world.push(seconds=8)
        world.engine.turn("ci")
        assert world.neon.use(secret, "203.0.113.7"), f"revoked in the middle of its use, after {count} calls"
        if count % 3 == 0:
            world.settle()
    world.live_through(120)
    assert not world.works(secret)


@pytest.mark.fault(
    "Sinks",
    "A file sink's file is deleted by somebody",
    "A new key is made at once and written there: the secret of the old one is nowhere else.",
)
def test_a_file_that_lost_the_live_key_gets_a_new_one_at_once(world: World, person_sees: Callable[[str], None]) -> None:
    world.settle()
    world.push(days=2)
    (world.folder / "raw.key").unlink()

    world.settle()

    assert raw(world) == app(world)
    assert world.works(raw(world))
    person_sees(world.told("key.intended")[-1].why)


@pytest.mark.fault(
    "Sinks",
    "Somebody writes something else into a file sink's file",
    "It is left alone; nothing is rotated or revoked until a person decides.",
)
def test_a_file_that_holds_something_else_is_left_alone_until_a_person_decides(
    world: World, person_sees: Callable[[str], None]
) -> None:
    world.settle()
    world.push(days=31)
    (world.folder / "raw.key").write_text("somebody-else")

    world.settle()
    assert world.status("ci")["state"] == "drifted"
    assert raw(world) == "somebody-else"
    assert len(world.told("sink.drifted")) == 1

    world.order(OrderKind.ROTATE, "ci")
    world.settle()
    assert world.works(raw(world))
    person_sees(world.told("sink.drifted")[0].why)


@pytest.mark.fault("Keys", "Somebody revokes the live key", "It is told; a new one is made when a person orders it.")
def test_a_live_key_that_somebody_revoked_is_told_and_by_default_not_replaced(
    world: World, person_sees: Callable[[str], None]
) -> None:
    world.settle()
    (key,) = world.ours()
    world.neon.revoke_key(key)

    world.live_through(3600, step=300)

    assert world.status("ci")["state"] == "missing"
    assert len(world.told("api_key.missing")) == 1
    assert world.ours() == []
    world.order(OrderKind.ROTATE, "ci")
    world.settle()
    assert world.works(raw(world))
    person_sees(world.told("api_key.missing")[0].why)


@pytest.mark.fault(
    "Keys", "Somebody revokes the live key of a policy with on_missing: replace", "A new one is made at once."
)
def test_a_live_key_that_somebody_revoked_is_replaced_if_the_policy_says_so(
    tmp_path: Path, person_sees: Callable[[str], None]
) -> None:
    world = World(tmp_path, TWO_FILES + "    on_missing: replace\n")
    try:
        world.settle()
        world.neon.revoke_key(world.ours()[0])
        world.live_through(3600, step=300)
        assert world.works(raw(world))
        assert world.status("ci")["state"] in ("ok", "retiring")
        person_sees(world.told("key.intended")[-1].why)
    finally:
        world.close()


@pytest.mark.fault(
    "People",
    "A key leaked, and --leaked is ordered",
    "The old key is revoked at the last receipt of the new one, and no sooner.",
)
def test_a_leaked_key_is_revoked_as_soon_as_its_successor_is_live(
    world: World, person_sees: Callable[[str], None]
) -> None:
    world.settle()
    (old,) = world.ours()
    world.push(days=1)

    world.order(OrderKind.ROTATE, "ci", leaked=True)
    world.settle()

    (new,) = world.ours()
    assert new != old
    assert app(world) == raw(world) == world.neon.secret_of(new)
    person_sees(world.told("key.revoking")[-1].why)


@pytest.mark.fault(
    "People", "A key leaked, and --leaked --now is ordered", "The old key is revoked before there is a new one."
)
def test_a_leaked_key_is_revoked_before_anything_else_if_that_is_ordered(
    world: World, person_sees: Callable[[str], None]
) -> None:
    world.settle()
    world.push(days=1)
    world.order(OrderKind.ROTATE, "ci", leaked=True, now=True)

    world.settle()

    methods = [seen.method for seen in world.neon.requests if seen.method in ("POST", "DELETE")]
    assert methods == ["POST", "DELETE", "POST"]
    assert world.works(raw(world))
    person_sees(world.told("key.revoking")[-1].why)


@pytest.mark.fault("People", "An operator revokes the live key", "A new one is made at once.")
def test_an_operator_may_revoke_the_live_key_and_a_new_one_follows(
    world: World, person_sees: Callable[[str], None]
) -> None:
    world.settle()
    (old,) = world.ours()
    world.push(days=1)
    world.order(OrderKind.REVOKE, "ci", key_id=old)

    world.settle()

    (new,) = world.ours()
    assert new != old
    assert world.works(app(world))
    person_sees(world.told("key.intended")[-1].why)


@pytest.mark.fault("People", "A key that no policy owns is to be revoked, without --unmanaged", "It is not touched.")
def test_a_key_of_nobody_is_revoked_only_by_an_order_that_says_so(
    world: World, person_sees: Callable[[str], None]
) -> None:
    stranger = world.neon.create_key("terraform").id
    world.settle()
    world.live_through(200 * DAY, step=5 * DAY)
    assert stranger in world.ours()

    world.order(OrderKind.REVOKE, key_id=stranger)
    world.settle()
    assert stranger in world.ours()

    world.order(OrderKind.REVOKE, key_id=stranger, unmanaged=True)
    world.settle()
    assert stranger not in world.ours()
    person_sees(world.told("order.lapsed")[0].why)


def test_an_order_that_was_carried_out_while_the_state_was_gone_is_told_so_and_not_carried_out_again(
    world: World,
) -> None:
    stranger = world.neon.create_key("terraform").id
    world.settle()
    world.order(OrderKind.REVOKE, key_id=stranger, unmanaged=True)
    state, away = world.store.path, world.store.path.with_name("away")

    def lose_the_state(boundary: str) -> None:
        if boundary == "after revoke_key":
            state.rename(away)

    world.boundaries.watch = lose_the_state
    with pytest.raises(StateUnavailable):
        world.rounds.obey()
    assert not state.exists()
    away.rename(state)

    world.settle()

    assert world.calls("DELETE", "/api_keys") == 1
    assert [e.event for e in world.store.history(key_id=stranger)] == ["key.revoking", "api_key.revoked"]
    assert world.store.open_orders() == []
    assert world.told("order.lapsed") == []


@pytest.mark.fault("People", "The management key is to be revoked by order", "It is not touched.")
def test_the_management_key_is_not_revoked_by_order(world: World, person_sees: Callable[[str], None]) -> None:
    world.settle()
    world.order(OrderKind.REVOKE, key_id=world.neon.management_key_id, unmanaged=True)

    world.settle()

    assert any(key.id == world.neon.management_key_id for key in world.neon.keys())
    assert "management key" in world.told("order.lapsed")[0].why
    person_sees(world.told("order.lapsed")[0].why)


def test_while_nobody_knows_which_key_is_ours_none_is_revoked_by_order(world: World) -> None:
    world.engine.configure(replace(world.engine.setup, api_key_id=None))
    world.settle()
    world.neon.fault("usage_frozen", on="list", times=None)
    world.live_through(3600, step=600)
    world.order(OrderKind.REVOKE, key_id=world.neon.management_key_id, unmanaged=True)

    world.settle()

    assert any(key.id == world.neon.management_key_id for key in world.neon.keys())
    assert "set neon.api_key_id" in world.told("order.lapsed")[0].why


def test_a_key_is_adopted_without_being_issued_anew(tmp_path: Path) -> None:
    world = World(tmp_path, TWO_FILES)
    try:
        old = world.neon.create_key("ci-by-hand").id
        world.configure(TWO_FILES + f"    adopt: {old}\n")
        world.push(days=2)
        world.settle()
        assert world.ours() == [old]
        assert world.status("ci")["live"]["id"] == old

        world.push(days=28, minutes=1)
        world.settle()
        assert len(world.ours()) == 2
        world.live_through(26 * 3600, step=1800)
        assert old not in world.ours()
        assert world.works(app(world))
    finally:
        world.close()


def test_a_lost_state_is_noticed_and_nothing_is_minted(world: World) -> None:
    world.settle()
    (key,) = world.ours()
    world.store.close()
    for file in world.folder.glob("state.db*"):
        file.unlink()
    from rotator.store import Store

    world.store = Store(world.config.state, ())
    world.restart()

    world.live_through(3600, step=600)

    assert world.ours() == [key]
    status = world.status("ci")
    assert status["state"] == "refused"
    assert f"adopt: {key}" in status["next"]["why"]
    world.order(OrderKind.ROTATE, "ci")
    world.settle()
    assert len(world.ours()) == 2


@pytest.mark.fault(
    "People", "A policy is taken out of the configuration", "Its keys are left alone and listed as abandoned."
)
def test_a_policy_that_is_taken_out_leaves_its_key_alone(world: World, person_sees: Callable[[str], None]) -> None:
    world.settle()
    (key,) = world.ours()
    world.configure(TWO_FILES.replace("  ci:", "  other:"))

    world.live_through(60 * DAY, step=DAY)

    assert key in world.ours()
    assert world.status("ci")["state"] == "abandoned"
    person_sees(world.status("ci")["next"]["why"])


def test_a_key_that_is_taken_over_is_in_a_record_wherever_the_process_dies(world: World) -> None:
    world.settle()
    (key,) = world.ours()
    world.configure(TWO_FILES.replace("  ci:", f"  other:\n    adopt: {key}"))
    world.rounds.poll()
    for boundary in range(20):
        world.boundaries.deadly = len(world.boundaries.passed) + boundary
        try:
            world.settle()
        except Death:
            owners = [r.policy for r in world.store.records().values() for g in r.generations if g.key_id == key]
            assert len(owners) == 1, world.boundaries.passed[-1]
        world.restart()
    assert world.status("other")["live"]["id"] == key


def test_a_renamed_policy_keeps_its_record(world: World) -> None:
    world.settle()
    (key,) = world.ours()
    world.configure(TWO_FILES.replace("  ci:", "  other:\n    renamed_from: ci"))

    world.settle()

    assert world.ours() == [key]
    assert world.status("other")["live"]["id"] == key


def test_a_change_of_scope_mints_there_and_revokes_here(world: World) -> None:
    world.settle()
    world.configure(TWO_FILES + "    scope: {organization: org-sandbox}\n")

    world.settle()
    world.live_through(26 * 3600, step=1800)

    (key,) = world.neon.keys()[1:] if world.neon.keys()[0].id == world.neon.management_key_id else world.neon.keys()[:1]
    assert key.organization == "org-sandbox"
    assert world.works(raw(world))


def test_while_the_state_cannot_be_written_nothing_happens_outside(world: World) -> None:
    world.settle()
    _break_state(world)
    world.push(days=31)

    for name in world.config.policies:
        world.engine.turn(name)
        world.push(seconds=20)
        world.engine.turn(name)

    assert len(world.ours()) == 1
    _mend_state(world)
    world.settle()
    assert len(world.ours()) == 2


def test_an_outcome_that_could_not_be_written_down_is_kept_with_its_secret(world: World) -> None:
    world.boundaries.watch = lambda name: _break_state(world) if name == "after create_key" else None
    world.settle_turn("ci")
    assert len(world.ours()) == 1
    assert world.record("ci").generations == ()

    world.boundaries.watch = lambda _: None
    _mend_state(world)
    world.push(seconds=20)
    world.settle()

    (key,) = world.ours()
    assert app(world) == world.neon.secret_of(key)
    assert world.neon.revoked() == []


def _hand_off_that_waits(world: World) -> int:
    """A new key that the first sink has and the second does not take; its id."""
    world.boundaries.watch = lambda name: _block_raw(world) if name == "before deliver" else None
    world.settle_turn("ci")
    world.boundaries.watch = lambda _: None
    (key,) = world.ours()
    assert world.engine.in_hand("ci")
    return key


def _block_raw(world: World) -> None:
    (world.folder / "raw.key").mkdir(exist_ok=True)


RENAMED = TWO_FILES.replace("  ci:", "  other:\n    renamed_from: ci")


@pytest.mark.parametrize("dies", [False, True])
def test_a_policy_that_is_renamed_twice_before_it_had_a_turn_keeps_its_record(world: World, dies: bool) -> None:
    world.settle()
    (before,) = world.ours()
    world.configure(RENAMED)
    third = TWO_FILES.replace("  ci:", "  third:\n    renamed_from: other")
    if dies:  # and the next process starts with a configuration that knows nothing of the first name
        world.text = third
        world.config = world.load()
        world.restart()
    else:
        world.configure(third)

    world.settle()

    assert world.ours() == [before]
    assert [g.key_id for g in world.record("third").generations] == [before]


@pytest.mark.parametrize("first", ["ci", "other"])
def test_of_the_name_that_a_policy_had_nothing_is_said_any_more(world: World, first: str) -> None:
    """Its keys are not left alone, but taken along."""
    world.settle()
    world.configure(RENAMED)
    before = len(world.told("policy.waiting"))

    for name in (first, "ci"):
        world.engine.turn(name)
    world.settle()

    assert {event.policy for event in world.told("policy.waiting")[before:]} == {"other"}
    assert world.store.outlooks().keys() == {"other"}
    assert "ci" not in world.engine.waiting_for_poll()


def test_a_policy_that_is_renamed_during_a_hand_off_keeps_its_secret_in_hand(world: World) -> None:
    key = _hand_off_that_waits(world)

    world.configure(RENAMED)
    world.engine.turn("ci")  # whichever name has the first turn
    (world.folder / "raw.key").rmdir()
    world.push(minutes=20)
    world.settle()

    assert world.ours() == [key]
    assert app(world) == raw(world) == world.neon.secret_of(key)


def test_an_outcome_that_is_not_written_down_yet_follows_its_policy_to_the_new_name(world: World) -> None:
    world.boundaries.watch = lambda name: _break_state(world) if name == "after create_key" else None
    world.settle_turn("ci")
    world.boundaries.watch = lambda _: None
    (key,) = world.ours()

    world.configure(RENAMED)
    world.engine.turn("other")
    _mend_state(world)
    world.push(seconds=20)
    world.settle()

    assert world.ours() == [key]
    assert raw(world) == world.neon.secret_of(key)
    assert world.status("other")["live"]["id"] == key


def test_a_configuration_that_cannot_be_taken_up_changes_nothing(world: World) -> None:
    key = _hand_off_that_waits(world)
    before = world.engine.setup
    with sa.create_engine(f"sqlite:///{world.folder}/state.db").begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )

    with pytest.raises(StateUnavailable):
        world.configure(RENAMED)

    assert world.engine.setup is before
    _mend_state(world)
    (world.folder / "raw.key").rmdir()
    world.push(minutes=20)
    world.settle_turn("ci")
    assert world.status("ci")["live"]["id"] == key


def test_a_turn_under_way_ends_when_the_configuration_is_loaded_again(world: World) -> None:
    loaded = False

    def load(name: str) -> None:
        nonlocal loaded
        if name == "after create_key" and not loaded:
            loaded = True
            world.configure(TWO_FILES.replace("[app, raw]", "[raw]"))

    world.boundaries.watch = load
    world.settle()

    (key,) = world.ours()
    assert raw(world) == world.neon.secret_of(key)
    assert not (world.folder / "app.env").exists()


def _break_state(world: World) -> None:
    with sa.create_engine(f"sqlite:///{world.folder}/state.db").begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON history BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )


def _mend_state(world: World) -> None:
    with sa.create_engine(f"sqlite:///{world.folder}/state.db").begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER full")


def test_the_history_tells_every_effect_before_and_after(world: World) -> None:
    world.live_through(32 * DAY, step=DAY / 2)

    told = [entry.event for entry in world.store.history("ci")]
    rotation = ["key.intended", "key.created", "key.checked", *["sink.offered", "sink.receipted"] * 2, "rotation.live"]
    assert told == [*rotation, *rotation, "key.revoking", "api_key.revoked"]
    assert world.store.broken_at() is None


def test_no_secret_is_in_the_state_or_the_events(world: World) -> None:
    world.live_through(32 * DAY, step=DAY / 2)

    secrets = [world.neon.secret_of(key.id) for key in (*world.neon.keys(), *world.neon.revoked())]
    state = b"".join(file.read_bytes() for file in world.folder.glob("state.db*"))
    for secret in secrets:
        assert secret.encode() not in state
        assert all(secret not in repr(event) for event in world.events)
    assert fingerprint(raw(world)).encode() in state


BOUNDARIES = 32


def test_a_rotation_has_as_many_boundaries_as_are_tried(world: World) -> None:
    world.settle()
    before = len(world.boundaries.passed)

    world.live_through(31.5 * DAY, step=DAY / 2)

    assert len(world.boundaries.passed) - before == BOUNDARIES


@pytest.mark.parametrize("deadly", range(BOUNDARIES))
def test_dying_at_any_boundary_of_a_rotation_breaks_no_consumer_and_loses_no_key(world: World, deadly: int) -> None:
    world.settle()
    world.push(days=29.5)
    world.boundaries.watch = lambda name: _consumers_work(world, name)
    world.boundaries.deadly = len(world.boundaries.passed) + deadly
    with pytest.raises(Death):
        world.live_through(2.5 * DAY, step=DAY / 2)
    world.restart()
    world.live_through(3600, step=600)
    world.live_through(3 * DAY, step=DAY / 4)

    (key,) = world.ours()
    assert app(world) == raw(world) == world.neon.secret_of(key)
    assert world.status("ci")["state"] == "ok"
    assert world.store.broken_at() is None


def _consumers_work(world: World, name: str) -> None:
    assert world.works(app(world)), f"the first consumer fails {name}"
    assert world.works(raw(world)), f"the second consumer fails {name}"


def test_the_use_of_keys_is_sampled_when_it_changes(world: World) -> None:
    world.settle()
    (key,) = world.ours()
    secret = world.neon.secret_of(key)
    stranger = world.neon.create_key("terraform").id
    for _ in range(3):
        world.push(days=1)
        assert world.neon.use(secret, "203.0.113.7, 198.51.100.2")
        world.live_through(3600, step=600)

    uses = [(sample.used_at.day, sample.addresses) for sample in world.store.samples(key)][-3:]
    assert uses == [(day, ("203.0.113.7", "198.51.100.2")) for day in (24, 25, 26)]
    assert world.store.samples(stranger) == []
    assert world.store.samples(world.neon.management_key_id) == []


def test_of_many_samples_the_newest_hundred_are_kept(world: World) -> None:
    from datetime import timedelta

    from rotator.rhythm import Sample

    now = world.clock.now()
    world.store.add_samples([Sample(1, now + timedelta(hours=n)) for n in range(130)])

    kept = world.store.samples(1)
    assert len(kept) == 100
    assert kept[-1].used_at == now + timedelta(hours=129)
    assert world.store.newest_uses() == {1: now + timedelta(hours=129)}


def test_why_tells_how_a_held_key_is_used_and_who_has_moved(world: World) -> None:
    from rotator.explain import explain_policy

    world.settle()
    (old,) = world.ours()
    for address in ("203.0.113.7", "198.51.100.4") * 6:
        world.push(days=2.4)
        assert world.neon.use(world.neon.secret_of(old), address)
        world.settle()
    world.live_through(2 * DAY, step=DAY / 2)
    new = world.status("ci")["live"]["id"]
    world.neon.use(world.neon.secret_of(old), "203.0.113.7")
    world.settle()
    world.push(hours=1)
    world.neon.use(world.neon.secret_of(new), "198.51.100.4")
    world.settle()

    samples = {key: world.store.samples(key) for key in (old, new)}
    policy, record = world.config.policies["ci"], world.record("ci")
    told = " ".join(explain_policy("ci", policy, record, {}, world.clock.now(), samples))

    assert "used about every 2d 9h (" in told
    assert "198.51.100.4 has moved to the new key; 203.0.113.7 has not been seen with the new key yet" in told


@pytest.mark.fault("Neon", "Neon's last_used_at does not change any more", "No old key is revoked on the word of it.")
def test_with_usage_frozen_the_hold_says_that_the_signal_cannot_be_trusted(
    world: World, person_sees: Callable[[str], None]
) -> None:
    world.live_through(29 * DAY, step=DAY / 2)
    world.neon.fault("usage_frozen", on="list", times=None)

    world.live_through(3 * DAY, step=3600)

    status = world.status("ci")
    assert status["state"] == "held"
    assert "last_used_at cannot be trusted" in status["older"][0]["held"]["why"]
    assert len(world.told("revocation.held")) == 1
    assert len(world.ours()) == 2

    world.neon.clear_faults()
    world.live_through(3 * 3600, step=900)
    assert len(world.ours()) == 1
    person_sees(world.told("revocation.held")[0].why)


@pytest.mark.fault(
    "Neon",
    "Neon's last_used_at does not change for longer than hold.at_most",
    "The policy's hold.then decides: the old key is kept, or revoked.",
)
def test_with_usage_frozen_for_good_the_key_is_kept_at_most_as_long_as_the_policy_says(
    tmp_path: Path, person_sees: Callable[[str], None]
) -> None:
    world = World(tmp_path, TWO_FILES + "    hold: {at_most: 2d, then: revoke}\n")
    try:
        world.live_through(29 * DAY, step=DAY / 2)
        world.neon.fault("usage_frozen", on="list", times=None)
        world.live_through(3.5 * DAY, step=3 * 3600)
        assert len(world.ours()) == 2
        world.live_through(1.5 * DAY, step=3 * 3600)
        assert len(world.ours()) == 1
        person_sees(world.told("key.revoking")[-1].why)
    finally:
        world.close()


def test_usage_that_lags_less_than_the_quiet_period_only_delays_a_revocation(world: World) -> None:
    world.neon.fault("usage_lag", seconds=1800, on="list", times=None)
    world.settle()
    world.live_through(29.9 * DAY, step=DAY / 4)
    (old,) = world.ours()
    world.live_through(0.2 * DAY, step=300)
    assert world.neon.use(world.neon.secret_of(old), "203.0.113.7")

    world.live_through(1.3 * DAY, step=300)

    assert old not in world.ours()


def test_what_is_told_is_as_old_as_the_list_that_it_rests_on(world: World) -> None:
    world.settle()
    told = world.store.meta("as_of")
    world.neon.fault("error_before", on="list", times=None)

    world.live_through(3 * 3600, step=600)
    assert world.store.meta("as_of") == told

    world.neon.clear_faults()
    world.settle()
    assert world.store.meta("as_of") != told


def test_what_is_told_is_not_as_old_as_the_list_of_an_account_that_is_not_used_any_more(world: World) -> None:
    world.configure(TWO_FILES + "    scope: {organization: org-sandbox}\n")
    world.settle()
    world.configure(TWO_FILES)
    world.live_through(3 * DAY, step=3600)
    told = world.store.meta("as_of")
    world.live_through(DAY, step=3600)
    assert world.store.meta("as_of") != told


def test_an_order_beside_the_service_is_of_this_moment_however_long_ago_the_last_list_was_read(world: World) -> None:
    world.settle()
    world.neon.fault("error_before", on="list", times=None)
    world.live_through(5 * 3600, step=600)
    world.push(hours=2)

    left = world.store.clock_reading()
    assert left is not None
    at = carried_on(*left, world.clock.monotonic())
    assert abs((world.clock.now() - at).total_seconds()) < 1


def test_a_restart_does_not_make_a_frozen_signal_credible(world: World) -> None:
    world.live_through(29 * DAY, step=DAY / 2)
    world.neon.fault("usage_frozen", on="list", times=None)

    for _ in range(6):
        world.live_through(DAY / 2, step=DAY / 8)
        world.restart()
        world.settle()

    assert len(world.ours()) == 2
    assert "last_used_at cannot be trusted" in world.status("ci")["older"][0]["held"]["why"]
