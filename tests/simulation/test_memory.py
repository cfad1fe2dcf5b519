"""The state in memory does what the real one does, whatever it is asked in whatever order."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.engine import outlook_of
from rotator.errors import StateUnavailable
from rotator.model import (
    ClosedName,
    Do,
    Event,
    Generation,
    Intent,
    Offer,
    Order,
    OrderKind,
    Orphan,
    Record,
    Scope,
    Step,
)
from rotator.ports import Transition
from rotator.rhythm import Sample
from rotator.store import Store
from rotator.transitions import Change

from .memory import Memory

NOW = datetime(2026, 11, 23, 4, tzinfo=UTC)
NAMES = ("ci", "app", "new")
SECRET = "napi_" + "x7" * 32


def _events(lots: random.Random, policy: str | None) -> tuple[Event, ...]:
    words = ("it was due", f"somebody wrote {SECRET} into an error", "Größe und 🔑")
    return tuple(
        Event(
            lots.choice(("key.created", "rotation.live")),
            lots.choice(words),
            policy,
            key_id=lots.choice((None, 11)),
            generation=lots.choice((None, 7)),
            key_name=lots.choice((None, "ci-7")),
            notify=lots.random() < 0.5,
        )
        for _ in range(lots.randrange(3))
    )


def _transition(lots: random.Random) -> Transition:
    """Something that a transition may do; the same for both states."""
    kind, number = lots.randrange(6), lots.randrange(1, 9)
    moment = NOW + timedelta(seconds=lots.randrange(10**6), microseconds=lots.randrange(10**6))
    generation = Generation(
        number=number,
        key_id=number,
        name=f"ci-{number}",
        scope=lots.choice((Scope(), Scope("org-a", "proj-1"))),
        created_at=moment,
        recorded_at=moment,
        offers={"file:a": Offer(moment, number, moment, "it failed")} if number % 2 else {},
        receipts={"file:a": moment},
        superseded={"file:b": moment},
        excused=("file:a",) if number % 3 else (),
        orphan=Orphan(moment, "lost") if number % 4 == 0 else None,
        longest_gap=timedelta(seconds=number, microseconds=5),
    )
    closed = ClosedName(f"ci-{number}", Scope("org-a"), moment, moment, number, ("file:a",))
    events, told = _events(lots, "ci"), lots.random() < 0.5

    def transition(record: Record) -> Change | None:
        changed = {
            0: replace(record, generations=(*record.generations[-3:], generation), next_generation=number + 1),
            1: replace(record, intent=Intent(f"ci-{number}", number, Scope(), moment, None)),
            2: replace(record, closed=(closed,), offered={"file:a": moment}, gone={"file:b": "x"}),
            3: replace(record, paused=not record.paused, spent=("sha256:1",)),
            4: record,
        }.get(kind)
        if changed is None:
            return None
        orders = tuple(order.id for order in record.orders[:1]) if told else ()
        return Change(changed, events, orders)

    return transition


def _call(lots: random.Random, at: datetime) -> Callable[[Any], object]:
    """One call of the state, to be made of each."""
    name, other = lots.choice(NAMES), lots.choice(NAMES)
    many = {each: _transition(lots) for each in lots.sample(NAMES, lots.randrange(1, 4))}
    order = Order(
        0,
        lots.choice(list(OrderKind)),
        at,
        lots.choice((name, None)),
        lots.choice((None, 5)),
        leaked=lots.random() < 0.5,
        unmanaged=lots.random() < 0.5,
    )
    samples = [Sample(lots.randrange(3), at - timedelta(minutes=lots.randrange(400)), ("203.0.113.7",))]
    events, one = _events(lots, None), _transition(lots)
    number, flags = lots.randrange(1, 30), lots.sample(range(5), 3)
    step = Step(Do.WAIT, f"it waits, {SECRET}", until=lots.choice((None, at)), coming=Do.MINT)
    outlook = {name: outlook_of(step, at)}
    calls: list[Callable[[Any], object]] = [
        lambda state: state.change(name, at, one),
        lambda state: state.change(name, at, one),
        lambda state: state.change_many(at, many),
        lambda state: state.record(name),
        lambda state: state.records(),
        lambda state: state.rename(name, other, at) if name != other else None,
        lambda state: state.tell(events, at),
        lambda state: state.add_order(order),
        lambda state: state.open_orders(),
        lambda state: state.close_order(number, events, at),
        lambda state: state.notices("ops"),
        lambda state: state.confirm_notice(number),
        lambda state: state.set_outlooks(outlook),
        lambda state: state.outlooks(),
        lambda state: state.set_meta("as_of", str(number)),
        lambda state: (state.meta("as_of"), state.meta("nothing")),
        lambda state: state.flags(),
        lambda state: state.set_flags(flags[:2], flags[1:], events, at),
        lambda state: state.add_samples(samples * lots.randrange(1, 2)),
        lambda state: (state.samples(samples[0].key_id), state.newest_uses()),
        lambda state: state.drop_samples([samples[0].key_id, 7]),
        lambda state: state.prune(at),
        lambda state: (state.newest_time(), state.head()),
    ]
    return lots.choice(calls)


@pytest.mark.parametrize("seed", range(2))
def test_a_random_sequence_of_calls_has_the_same_answers(tmp_path: Path, seed: int) -> None:
    lots = random.Random(seed)
    store, memory = Store(f"sqlite:///{tmp_path}/state.db", ("ops", "other")), Memory(("ops", "other"))
    try:
        for step in range(250):
            call = _call(lots, NOW + timedelta(minutes=step))
            assert call(memory) == call(store), f"call {step}"
        assert memory.history() == store.history()
        assert len(memory.history()) > 50
        assert memory.records() == store.records()
        assert (memory.broken_at(), store.broken_at()) == (None, None)
        assert not any(SECRET in text for text in memory.texts())
    finally:
        store.close()


def test_of_many_samples_and_notices_it_keeps_and_gives_as_many_as_the_real_one(tmp_path: Path) -> None:
    store, memory = Store(f"sqlite:///{tmp_path}/state.db", ("ops",)), Memory(("ops",))
    try:
        for state in (store, memory):
            state.add_samples([Sample(1, NOW + timedelta(hours=n)) for n in range(130)])
            state.tell([Event("api_key.unused", f"number {n}", notify=True) for n in range(130)], NOW)
        assert memory.samples(1) == store.samples(1)
        assert memory.notices("ops") == store.notices("ops")
    finally:
        store.close()


def test_what_its_gate_refuses_changes_nothing() -> None:
    def refuse(writing: bool, done: bool) -> None:
        if writing and not done:
            raise StateUnavailable("the disk is full")

    memory = Memory(gate=refuse)
    with pytest.raises(StateUnavailable):
        memory.change("ci", NOW, lambda record: Change(replace(record, paused=True)))
    assert memory.records() == {}
    assert memory.entries == []
