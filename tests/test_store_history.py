"""What goes when there is too much: the oldest of the history, in a way that the chain still shows any change."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from builders import NOW
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rotator.cli import cli
from rotator.errors import StateUnavailable
from rotator.model import Event, Order, OrderKind
from rotator.rhythm import Sample
from rotator.store import GENESIS, Limits, Store
from rotator.store_history import append, prune, verify
from rotator.store_tables import metadata

HEARD = Event("test.heard", "somebody said so", "ci", 1, 101, "ci-1")
LIMITS = Limits(history=6, portion=3, notices=2, orders=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = a_store(path)
    yield opened
    opened.close()


def a_store(path: Path, *notify: str) -> Store:
    return Store(f"sqlite:///{path}", notify)


def tell(store: Store, count: int) -> None:
    """One entry at a time: about the key 101 first, then 102 and so on."""
    for number in range(store.newest() + 1, store.newest() + 1 + count):
        store.tell([replace(HEARD, key_id=100 + number)], NOW + timedelta(seconds=number))


def prune_all(store: Store, limits: Limits = LIMITS) -> list[Event]:
    told: list[Event] = []
    while events := store.prune(NOW, limits):
        told += events
    return told


def sql(path: Path, statements: str) -> None:
    """What another program that can write the file might do."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(statements)


def numbers(store: Store) -> list[int]:
    return [entry.seq for entry in store.history()]


# The rule


@pytest.mark.parametrize(
    ("told", "left"),
    [
        pytest.param(0, [], id="nothing at all"),
        pytest.param(6, [*range(1, 7)], id="as many as are kept"),
        pytest.param(8, [*range(1, 9)], id="less than a portion more"),
        pytest.param(9, [*range(4, 11)], id="just a portion more"),
        pytest.param(10, [*range(4, 12)], id="one more than that"),
        pytest.param(12, [*range(7, 15)], id="two portions more"),
        pytest.param(30, [*range(34, 42)], id="many portions more"),
    ],
)
def test_the_oldest_go_by_the_portion_when_there_are_more_than_are_kept(
    store: Store, told: int, left: list[int]
) -> None:
    tell(store, told)
    prune_all(store)
    assert numbers(store) == left
    assert store.broken_at() is None
    assert store.verify().pruned_to == (left[0] - 1 if left else 0)
    assert store.verify().entries == len(left)


def test_the_entry_about_it_says_what_went_and_what_the_next_one_follows_from(store: Store) -> None:
    tell(store, 9)
    last = store.history()[2]
    (event,) = store.prune(NOW, LIMITS)
    assert event.why == f"entries 1 to 3 are removed, as the newest 6 are kept; entry 3 had the hash {last.hash}"
    newest = store.history()[-1]
    assert (newest.seq, newest.event, newest.why) == (10, "history.pruned", event.why)
    assert store.head() == newest.hash
    assert store.prune(NOW, LIMITS) == []


def test_no_number_is_given_twice_and_the_newest_time_stays(store: Store) -> None:
    tell(store, 9)
    store.prune(NOW + timedelta(days=1), LIMITS)
    tell(store, 1)
    assert store.newest() == 11
    assert store.newest_time() == NOW + timedelta(seconds=11)


def test_a_head_that_was_kept_elsewhere_is_found_while_its_entry_is_there(store: Store) -> None:
    tell(store, 8)
    kept = store.head()
    tell(store, 1)
    prune_all(store)
    assert kept in [entry.hash for entry in store.history()]
    tell(store, 3)
    prune_all(store)
    tell(store, 2)
    (told,) = prune_all(store)
    assert told.why.startswith("entries 7 to 9 ")
    assert kept not in [entry.hash for entry in store.history()]


def test_what_is_left_is_told_of_a_policy_of_a_key_and_from_a_number_on(store: Store) -> None:
    tell(store, 9)
    prune_all(store)
    assert [entry.seq for entry in store.history("ci")] == [4, 5, 6, 7, 8, 9]
    assert [entry.seq for entry in store.history(key_id=105)] == [5]
    assert store.history(key_id=102) == []
    assert [entry.seq for entry in store.history(after=8)] == [9, 10]


# Tampering


@pytest.mark.parametrize(
    "tampering",
    [
        pytest.param("UPDATE history SET why = 'nothing' WHERE seq = 2", id="one changed"),
        pytest.param("UPDATE history SET key_id = 7 WHERE seq = 2", id="another key"),
        pytest.param("DELETE FROM history WHERE seq = 2", id="one removed"),
        pytest.param("UPDATE history SET seq = 0 WHERE seq = 2", id="one moved"),
    ],
)
def test_what_was_tampered_with_is_never_pruned(store: Store, path: Path, tampering: str) -> None:
    tell(store, 9)
    sql(path, tampering)
    before = numbers(store)
    (event,) = store.prune(NOW, LIMITS)
    assert event.name == "history.broken"
    assert numbers(store) == before
    assert store.broken_at() is not None


@pytest.mark.fault(
    "State",
    "An entry of the history was changed, and has come to where it would be pruned",
    "Nothing of the history is removed any more, so the traces stay; everything else goes on.",
)
def test_a_changed_entry_that_would_be_pruned_is_told(
    store: Store, path: Path, person_sees: Callable[[str], None]
) -> None:
    tell(store, 9)
    sql(path, "UPDATE history SET why = 'nothing' WHERE seq = 2")
    (event,) = store.prune(NOW, LIMITS)
    assert event.why.startswith("the history breaks at entry 2: ")
    person_sees(event.why)
    tell(store, 1)


def test_pruning_before_a_changed_entry_goes_on_and_does_not_hide_it(store: Store, path: Path) -> None:
    tell(store, 12)
    sql(path, "UPDATE history SET why = 'nothing' WHERE seq = 5")
    events = [store.prune(NOW, LIMITS)[0].name for _ in range(2)]
    assert events == ["history.pruned", "history.broken"]
    assert store.broken_at() == 5


@pytest.mark.parametrize(
    ("tampering", "found_at"),
    [
        pytest.param("DELETE FROM history WHERE seq = 7", 7, id="the first left removed"),
        pytest.param("DELETE FROM history WHERE seq < 10", 7, id="several of the first removed"),
        pytest.param("UPDATE history SET why = 'nothing' WHERE seq = 7", 7, id="the first left changed"),
        pytest.param("UPDATE history SET hash = 'sha256:0' WHERE seq = 7", 8, id="the hash of the first left changed"),
        pytest.param("UPDATE history SET why = 'nothing' WHERE seq = 9", 9, id="one in the middle changed"),
        pytest.param("DELETE FROM history WHERE seq = 11", 11, id="one in the middle removed"),
        pytest.param(
            "UPDATE history SET why = replace(why, '4 to 6', '1 to 3') WHERE seq = 14", 14, id="an anchor moved back"
        ),
        pytest.param(
            "UPDATE history SET why = replace(why, 'sha256:', 'sha256:0') WHERE seq = 14", 14, id="no anchor any more"
        ),
        pytest.param("UPDATE history SET event = 'test.heard' WHERE seq = 14", 14, id="an anchor hidden"),
        pytest.param("DELETE FROM history WHERE seq = 14", 14, id="the newest anchor removed"),
        pytest.param("DELETE FROM history WHERE seq >= 14", 4, id="the end cut with the newest anchor"),
        pytest.param("DELETE FROM history WHERE seq >= 13", 1, id="the end cut with every anchor"),
        pytest.param(
            "INSERT INTO history SELECT 6, at, policy, event, key_id, key_name, generation, why, hash FROM history "
            "WHERE seq = 7",
            7,
            id="one put before",
        ),
        pytest.param(
            "INSERT INTO history SELECT 1, at, policy, event, key_id, key_name, generation, why, hash FROM history "
            "WHERE seq = 7",
            1,
            id="one put at the very beginning",
        ),
    ],
)
def test_what_is_done_to_a_pruned_history_shows(store: Store, path: Path, tampering: str, found_at: int) -> None:
    tell(store, 12)
    prune_all(store)  # 1 to 3, told by 13, then 4 to 6, told by 14
    tell(store, 1)
    assert store.broken_at() is None
    sql(path, tampering)
    assert store.broken_at() == found_at


def test_entries_that_were_pruned_and_come_back_from_a_backup_show(store: Store, path: Path) -> None:
    tell(store, 9)
    sql(path, "CREATE TABLE backup AS SELECT * FROM history")
    prune_all(store)
    sql(path, "INSERT INTO history SELECT * FROM backup WHERE seq <= 3")
    assert store.broken_at() == 1


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Entries told, then the limits of a pruning, again and again."""
    return draw(st.lists(st.tuples(st.integers(0, 9), st.integers(2, 9), st.integers(2, 4)), min_size=1, max_size=8))


@pytest.fixture(scope="module")
def connection() -> Iterator[sa.Connection]:
    """The tables in memory, for the examples of one test after the other."""
    with closing(sa.create_engine("sqlite://").connect()) as opened:
        metadata.create_all(opened)
        yield opened


def begin_anew(connection: sa.Connection) -> None:
    connection.exec_driver_sql("DELETE FROM history")


def live(connection: sa.Connection, steps: list[tuple[int, int, int]]) -> None:
    for told, kept, portion in steps:
        append(connection, [HEARD] * told, NOW)
        while prune(connection, kept, portion, NOW) is not None:
            pass


def seqs(connection: sa.Connection) -> list[int]:
    return list(connection.exec_driver_sql("SELECT seq FROM history ORDER BY seq").scalars())


@settings(max_examples=50, deadline=None)
@given(lives())
def test_however_often_it_is_pruned_what_is_left_is_whole(
    connection: sa.Connection, steps: list[tuple[int, int, int]]
) -> None:
    begin_anew(connection)
    for step in steps:
        before = seqs(connection)
        live(connection, [step])
        left, found = seqs(connection), verify(connection)
        assert found.broken_at is None
        assert left == [*range(left[0], left[-1] + 1)] if left else not before
        assert found.pruned_to == (left[0] - 1 if left else 0)
        told, kept, portion = step
        assert min(kept, len(before) + told) <= len(left) < kept + portion


COLUMNS = {
    "at": "2020-01-01T00:00:00+00:00",
    "policy": None,
    "event": "history.pruned",
    "key_id": 7,
    "key_name": "x",
    "generation": 9,
    "why": "entries 1 to 2 are removed, as the newest 9 are kept; entry 2 had the hash " + GENESIS,
    "hash": GENESIS,
}


@settings(max_examples=60, deadline=None)
@given(lives(), st.data())
def test_whatever_one_entry_is_tampered_with_it_shows(
    connection: sa.Connection, steps: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    begin_anew(connection)
    live(connection, [(3, 9, 2), *steps])
    left, head = seqs(connection), verify(connection).head
    seq = data.draw(st.sampled_from(left), "entry")
    column = data.draw(st.sampled_from([None, *COLUMNS]), "column")
    if column is None:
        connection.exec_driver_sql("DELETE FROM history WHERE seq = ?", (seq,))
    else:
        value = COLUMNS[column]
        changed = connection.exec_driver_sql(
            f"UPDATE history SET {column} = ? WHERE seq = ? AND {column} IS NOT ?", (value, seq, value)
        )
        assume(changed.rowcount)
    found = verify(connection)
    cut = column is None and seq == left[-1]
    assert found.broken_at is not None or (cut and found.head != head)


def test_the_state_of_the_first_version_is_pruned_on(path: Path) -> None:
    """The file was written once, before there was any pruning, and is never written again."""
    sql(path, (Path(__file__).parent / "data" / "state-v1.sql").read_text(encoding="utf-8"))
    with closing(a_store(path)) as store:
        before = store.history()
        assert (len(before), store.verify().pruned_to, store.broken_at()) == (10, 0, None)
        prune_all(store, replace(LIMITS, orders=0))
        assert store.history()[:-1] == before[3:]
        assert (store.verify().pruned_to, store.broken_at()) == (3, None)
        assert len(store.notices("ops")) == 1


# Death, a full disk, other processes


def test_a_process_that_dies_while_it_prunes_has_removed_nothing(path: Path) -> None:
    with closing(a_store(path)) as store:
        tell(store, 9)
    program = """
        import signal, sys
        from datetime import UTC, datetime
        from rotator.store import Store
        from rotator.store_history import prune
        with Store(sys.argv[1])._transaction(writing=True) as connection:
            print(prune(connection, 6, 3, datetime.now(UTC)).name, flush=True)
            signal.pause()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), f"sqlite:///{path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "history.pruned\n"
        process.send_signal(signal.SIGKILL)
    with closing(a_store(path)) as store:
        assert numbers(store) == [*range(1, 10)]
        assert store.broken_at() is None
        prune_all(store)
        assert numbers(store) == [*range(4, 11)]


def test_a_portion_that_cannot_be_told_is_not_removed(store: Store, path: Path) -> None:
    tell(store, 12)
    store.prune(NOW, LIMITS)
    sql(path, "CREATE TRIGGER full BEFORE INSERT ON history BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(StateUnavailable, match="disk full"):
        store.prune(NOW, LIMITS)
    assert numbers(store) == [*range(4, 14)]
    assert store.broken_at() is None
    sql(path, "DROP TRIGGER full")
    prune_all(store)
    assert numbers(store) == [*range(7, 15)]


def test_who_reads_meanwhile_sees_the_history_as_it_was(store: Store, path: Path) -> None:
    tell(store, 9)
    with closing(a_store(path)) as reader:
        with reader._transaction(writing=False) as connection:
            before = verify(connection)
            prune_all(store)
            tell(store, 1)
            assert verify(connection) == before
        assert reader.verify().pruned_to == 3
        assert reader.verify().broken_at is None


# Beside the history


def test_of_closed_orders_the_newest_stay_and_of_open_ones_all(store: Store, path: Path) -> None:
    ids = [store.add_order(Order(0, OrderKind.ROTATE, NOW, "ci")) for _ in range(6)]
    for number in ids[1:5]:
        store.close_order(number, [], NOW)
    assert store.prune(NOW, LIMITS) == []
    with closing(sqlite3.connect(path)) as connection:
        assert [row[0] for row in connection.execute("SELECT id FROM orders")] == [ids[0], *ids[3:]]
    assert [order.id for order in store.open_orders()] == [ids[0], ids[5]]
    assert store.add_order(Order(0, OrderKind.ROTATE, NOW, "ci")) == ids[-1] + 1


@pytest.mark.fault(
    "Sinks",
    "A receiver of events takes none for so long that more wait for it than are kept",
    "The oldest are dropped, and only for this receiver; the history has them all.",
)
def test_of_the_events_that_a_sink_does_not_take_the_newest_stay(
    path: Path, person_sees: Callable[[str], None]
) -> None:
    with closing(a_store(path, "ops", "chat")) as store:
        for number in range(5):
            store.tell([replace(HEARD, generation=number, notify=True)], NOW)
        for notice in store.notices("chat")[1:]:
            store.confirm_notice(notice.id)
        (event,) = store.prune(NOW, replace(LIMITS, history=100))
        assert event.why.startswith("sink ops has not taken 2 events; 3 older ones are not sent any more")
        assert [notice.event.generation for notice in store.notices("ops")] == [3, 4]
        assert [notice.event.generation for notice in store.notices("chat")] == [0]
        assert len(store.history()) == 5
        assert store.prune(NOW, LIMITS) == []
        person_sees(event.why)


def test_the_use_of_a_key_is_forgotten_on_demand(store: Store) -> None:
    store.add_samples([Sample(1, NOW), Sample(2, NOW), Sample(2, NOW + timedelta(days=1)), Sample(3, NOW)])
    store.drop_samples([2, 3, 4])
    assert store.newest_uses() == {1: NOW}


# What people see


@pytest.fixture
def config(path: Path, tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(
        "neon: {api_key: {file: key}}\nstate: sqlite:///state.db\nsinks: {a: {type: file, path: a.key}}\n"
        "policies: {ci: {rotate: {every: 30d}, deliver_to: [a]}}\n"
    )
    (tmp_path / "key").write_text("napi_test")
    return file


def rotator(config: Path, *words: str) -> Any:
    return CliRunner().invoke(cli, ["--config", str(config), *words], standalone_mode=False)


def test_the_commands_say_from_where_on_the_history_goes(store: Store, config: Path) -> None:
    tell(store, 9)
    prune_all(store)
    ended = rotator(config, "history", "--verify")
    assert ended.output.startswith("7 entries (those up to 3 were pruned), and each follows from the one before")
    document = json.loads(rotator(config, "history", "--verify", "--json").output)
    assert (document["ok"], document["entries"], document["pruned_to"]) == (True, 7, 3)
    unknown = rotator(config, "why", "102").output
    assert "the history, which begins at 2026-11-23 12:00:04 UTC, does not know it" in unknown
    assert "test.heard" in rotator(config, "why", "105").output


@pytest.mark.fault(
    "State",
    "Somebody removes the oldest entries of the history that are left, as if they had been pruned",
    "It goes on; `rotator history --verify` and `rotator check --online` exit with 1 and say where the chain breaks.",
)
def test_entries_removed_by_another_hand_are_told(
    store: Store, path: Path, config: Path, person_sees: Callable[[str], None]
) -> None:
    tell(store, 12)
    prune_all(store)
    sql(path, "DELETE FROM history WHERE seq < 9")
    ended = rotator(config, "history", "--verify")
    assert ended.return_value == 1
    person_sees(ended.output)


def test_a_history_that_was_never_pruned_is_not_said_to_begin_late(store: Store, config: Path) -> None:
    tell(store, 3)
    assert rotator(config, "history", "--verify").output.startswith("3 entries, and each follows")
    assert "and the history does not know it" in rotator(config, "why", "4711").output
