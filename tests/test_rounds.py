"""What is forgotten at a poll, and what is not: only a list that was read and is believed says that a key is gone."""

from __future__ import annotations

import gc
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from world import World

from rotator.model import Order, OrderKind

TWO_ACCOUNTS = """
state: sqlite:///state.db
sinks:
  one: {type: file, path: one.key}
  two: {type: file, path: two.key}
policies:
  ours: {rotate: {every: 30d}, deliver_to: [one]}
  theirs: {rotate: {every: 30d}, deliver_to: [two], scope: {organization: org-sandbox}}
"""
CLOSED_ORDERS_KEPT = 1000
TABLES = ("records", "orders", "notices", "outlooks", "flags", "uses", "meta")
PRODUCT = (
    "rotator.model",
    "rotator.engine",
    "rotator.outside",
    "rotator.lists",
    "rotator.secret",
    "rotator.transitions",
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    small = World(tmp_path, TWO_ACCOUNTS)
    yield small
    small.close()


def use(world: World, key_id: int) -> None:
    """Somebody uses a key, and a later poll sees it."""
    world.push(minutes=5)
    assert world.neon.use(world.neon.secret_of(key_id))
    world.push(minutes=5)
    world.settle()


def test_the_use_of_a_key_is_forgotten_with_the_key(world: World) -> None:
    stays, goes = world.neon.create_key("stays").id, world.neon.create_key("goes").id
    use(world, stays)
    use(world, goes)
    assert {stays, goes} <= world.store.newest_uses().keys()

    world.neon.revoke_key(goes)
    world.settle()
    assert stays in world.store.newest_uses()
    assert world.store.samples(goes) == []


def kept_in_memory() -> Counter[str]:
    """The product's objects by class, without those that this file's world collects to look at."""
    gc.collect()
    found = Counter(
        type(each).__qualname__ for each in gc.get_objects() if str(type(each).__module__).startswith(PRODUCT)
    )
    del found["Event"]
    return found


def test_rotation_after_rotation_leaves_nothing_behind(world: World) -> None:
    """Neither rows nor objects in memory, of which a secret would be the worst."""
    rows, objects = [], []
    for _ in range(4):
        world.settle()
        for key_id in world.ours():
            use(world, key_id)
        world.push(days=30)
        world.settle()
        world.live_through(2 * 86400, step=6 * 3600)
        state = sqlite3.connect(world.folder / "state.db")
        with closing(state):
            rows.append([state.execute(f"SELECT count(*) FROM {table}").fetchone() for table in TABLES])
        objects.append(kept_in_memory())
    assert (len(world.ours()), len(world.neon.revoked())) == (2, 8)
    assert rows[1:] == rows[:1] * 3
    assert objects[0]["Secret"] == 1
    assert objects[1:] == objects[:1] * 3


def test_the_use_of_a_key_that_a_policy_remembers_is_kept(world: World) -> None:
    world.settle()
    (key_id, _) = world.ours()
    use(world, key_id)
    world.neon.revoke_key(key_id)
    world.settle()
    assert world.store.samples(key_id)


@pytest.mark.parametrize("after", ["the process started", "it was read before"])
def test_while_a_list_cannot_be_read_no_use_and_no_flag_is_forgotten(world: World, after: str) -> None:
    """And a key is not reported as unused a second time."""
    old = world.neon.create_key("old", organization="org-sandbox").id
    use(world, old)
    world.push(days=100)
    world.settle()
    assert old in world.store.flags()

    world.neon.fault("error_before", on="list", times=3)  # the organization's list comes first
    if after == "the process started":
        world.restart()
    world.rounds.poll()
    assert set(world.engine.outside.lists.troubles()) == {"org-sandbox"}
    assert old in world.store.flags()
    assert world.store.samples(old)
    world.push(minutes=5)
    world.settle()
    assert len([event for event in world.told("api_key.unused") if event.key_id == old]) == 1


@pytest.mark.fault(
    "People",
    "An order to revoke an unmanaged key was not taken for more than an hour",
    "The order lapses, and the key lives.",
)
def test_an_order_to_revoke_an_unmanaged_key_lapses_after_an_hour(
    world: World, person_sees: Callable[[str], None]
) -> None:
    stranger = world.neon.create_key("terraform").id
    world.settle()
    world.order(OrderKind.REVOKE, key_id=stranger, unmanaged=True)
    world.push(hours=1, seconds=1)

    world.settle()

    assert stranger in world.ours()
    assert world.store.open_orders() == []
    (lapsed,) = world.told("order.lapsed")
    assert lapsed.notify
    person_sees(lapsed.why)


@pytest.mark.fault(
    "People",
    "A policy adopted the key that an order names as unmanaged, before the order was taken",
    "The order lapses, and the key lives.",
)
@pytest.mark.parametrize("configured", [True, False], ids=["its policy is configured", "its policy was taken out"])
def test_an_order_for_an_unmanaged_key_lapses_when_the_key_has_become_a_policy_s(
    world: World, configured: bool, person_sees: Callable[[str], None]
) -> None:
    stranger = world.neon.create_key("terraform").id
    world.settle()
    world.order(OrderKind.REVOKE, key_id=stranger, unmanaged=True)
    adopting = f"  terraform: {{adopt: {stranger}, rotate: {{every: 30d}}, deliver_to: [three]}}\n"
    world.configure(
        TWO_ACCOUNTS.replace("policies:\n", "  three: {type: file, path: three.key}\npolicies:\n") + adopting
    )
    world.settle_turn("terraform")
    if not configured:
        world.configure(TWO_ACCOUNTS)

    world.settle()

    assert stranger in world.ours()
    assert world.store.open_orders() == []
    person_sees(world.told("order.lapsed")[0].why)


@pytest.mark.fault(
    "Keys",
    "neon.api_key_id is that of a key which is gone",
    "It counts as if it were left out: a key that may be the management key is not revoked, by rule or by order.",
)
def test_a_wrong_id_of_the_management_key_protects_it_as_well_as_none_and_is_told(
    world: World, person_sees: Callable[[str], None]
) -> None:
    ours = world.neon.management_key_id
    gone = world.neon.create_key("gone").id
    world.neon.revoke_key(gone)
    world.engine.configure(replace(world.engine.setup, api_key_id=gone))
    world.settle()
    world.order(OrderKind.REVOKE, key_id=ours, unmanaged=True)

    world.settle()
    world.settle()

    assert any(key.id == ours for key in world.neon.keys())
    assert "it is the management key (it was used when" in world.told("order.lapsed")[0].why
    (told,) = world.told("management_key.id_wrong")
    world.engine.configure(replace(world.engine.setup, api_key_id=ours))
    world.settle()
    assert len(world.told("management_key.id_right")) == 1
    person_sees(told.why)


def test_check_tells_a_wrong_id_of_the_management_key(world: World) -> None:
    ours, gone = world.neon.management_key_id, world.neon.create_key("gone").id
    world.neon.revoke_key(gone)
    file = world.folder / "config.yaml"
    file.write_text(file.read_text().replace(str(ours), str(gone)))
    ended = world.command("check", "--online")
    assert ended.return_value == 1
    assert f"neon.api_key_id: {gone} is in no list of the account" in ended.stderr
    assert "take the id that rotator keys shows" in ended.stderr

    file.write_text(file.read_text().replace(str(gone), str(ours)))
    assert world.command("check", "--online").return_value == 0


def test_apply_takes_the_orders_for_unmanaged_keys_too(world: World) -> None:
    stranger = world.neon.create_key("terraform").id
    world.settle()
    world.order(OrderKind.REVOKE, key_id=stranger, unmanaged=True)
    world.command("apply")
    assert stranger not in world.ours()
    assert world.store.open_orders() == []


def test_what_is_kept_no_longer_is_removed_by_apply(world: World) -> None:
    with closing(sqlite3.connect(world.folder / "state.db")) as connection, connection:
        connection.executemany(
            "INSERT INTO orders (policy, kind, at, leaked, now, unmanaged, closed_at) VALUES (?, ?, ?, 0, 0, 0, ?)",
            [("ours", "rotate", world.clock.now().isoformat(), world.clock.now().isoformat())] * 1500,
        )
    world.command("apply")
    with closing(sqlite3.connect(world.folder / "state.db")) as connection:
        (left,) = connection.execute("SELECT count(*) FROM orders").fetchone()
    assert left == CLOSED_ORDERS_KEPT
    assert world.store.add_order(Order(0, OrderKind.ROTATE, world.clock.now(), "ours")) == 1501
