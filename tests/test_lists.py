"""Neon's lists are read once for everybody, failures back off, and a list that cannot be true is doubted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from builders import NOW, SECOND, a_foreign, a_list

from rotator.errors import KeyRefused, NeedsPerson, RotatorError, TryLater
from rotator.lists import Lists
from rotator.model import KeyList


@dataclass
class Account:
    """Neon as `Lists` sees it: which keys there are, and what goes wrong."""

    keys: set[int] = field(default_factory=lambda: set(range(1, 21)))
    known: frozenset[int] = frozenset(range(1, 11))
    own: int | None = None
    problem: RotatorError | None = None
    accepted: bool = True
    reads: list[str] = field(default_factory=list)
    vouched: int = 0
    seconds: float = 0.0
    gate: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.lists = Lists(self.read, lambda _: self.known, lambda _: self.own, self.vouch)

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    def read(self, account: str) -> KeyList:
        self.reads.append(account)
        self.gate()
        if self.problem is not None:
            raise self.problem
        return a_list(*(a_foreign(key_id) for key_id in self.keys), account=account, age=NOW - self.now)

    def vouch(self) -> bool:
        self.vouched += 1
        if not self.accepted:
            raise KeyRefused("Neon refused the management key")
        return True

    def poll(self, *, after: float = 300) -> KeyList:
        self.seconds += after
        return self.lists.poll("personal", self.now)


def test_a_list_is_read_when_there_is_none_newer() -> None:
    neon = Account()
    first = neon.lists.look("personal", None, neon.now)
    assert neon.lists.look("personal", None, neon.now) is first
    neon.seconds += 1
    second = neon.lists.look("personal", first, neon.now)
    assert second.requested_at > first.requested_at
    assert neon.lists.look("personal", first, neon.now) is second
    assert neon.lists.newest() == {"personal": second}
    assert len(neon.reads) == 2


def test_accounts_are_read_apart() -> None:
    neon = Account()
    neon.lists.look("personal", None, neon.now)
    neon.lists.look("org-a", None, neon.now)
    assert neon.reads == ["personal", "org-a"]
    assert neon.lists.newest().keys() == {"personal", "org-a"}


def test_what_was_read_between_two_polls_is_not_a_poll() -> None:
    neon = Account()
    assert not neon.lists.look("personal", None, neon.now).polled
    assert neon.poll().polled


def at_once(count: int, work: Callable[[], object]) -> list[object]:
    """What `count` threads get that begin at the same time; an exception is an answer too."""
    answers: list[object] = []
    begin = threading.Barrier(count)

    def run() -> None:
        begin.wait()
        try:
            answers.append(work())
        except RotatorError as error:
            answers.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_of_many_threads_that_ask_at_once_one_reads() -> None:
    neon = Account()
    old = neon.lists.look("personal", None, neon.now)
    neon.seconds += 60

    answers = at_once(16, lambda: neon.lists.look("personal", old, neon.now))

    assert len(neon.reads) == 2
    assert set(map(id, answers)) == {id(neon.lists.newest()["personal"])}


def test_of_many_threads_that_ask_at_once_one_meets_a_failure_and_the_others_take_it() -> None:
    neon = Account(problem=TryLater("Neon is unavailable (HTTP 503)"))

    answers = at_once(16, lambda: neon.lists.look("personal", None, neon.now))

    assert len(neon.reads) == 1
    assert all(isinstance(answer, TryLater) and "HTTP 503" in str(answer) for answer in answers)


def test_a_slow_account_delays_no_other() -> None:
    neon = Account()
    reading, go_on = threading.Event(), threading.Event()

    def gate() -> None:
        if neon.reads[-1] == "org-slow":
            reading.set()
            go_on.wait(30)

    neon.gate = gate
    thread = threading.Thread(target=neon.lists.look, args=("org-slow", None, neon.now))
    thread.start()
    reading.wait(30)
    assert neon.lists.look("personal", None, neon.now).account == "personal"
    go_on.set()
    thread.join()
    assert neon.lists.newest().keys() == {"personal", "org-slow"}


def test_a_list_that_cannot_be_read_is_not_asked_for_before_a_growing_pause() -> None:
    neon = Account(problem=TryLater("Neon is unavailable"))
    for _ in range(3600):
        with pytest.raises(TryLater, match="Neon is unavailable"):
            neon.lists.look("personal", None, neon.now)
        neon.seconds += 1
    assert len(neon.reads) == 12  # after 2 s, 4 s, … 512 s, and then every 15 min


def test_who_asks_during_the_pause_is_told_how_long_it_is() -> None:
    neon = Account(problem=TryLater("Neon is unavailable", retry_after=timedelta(minutes=3)))
    with pytest.raises(TryLater):
        neon.poll(after=0)
    neon.seconds += 60

    with pytest.raises(TryLater) as refused:
        neon.lists.look("personal", None, neon.now)

    assert refused.value.retry_after == timedelta(minutes=2)
    assert neon.lists.troubles() == {"personal": ("Neon is unavailable", NOW + timedelta(minutes=3))}


def test_a_refusal_pauses_too_and_keeps_its_kind_for_who_met_it() -> None:
    neon = Account(problem=NeedsPerson("Neon refused", "look there"))
    with pytest.raises(NeedsPerson):
        neon.lists.look("personal", None, neon.now)
    with pytest.raises(TryLater, match="Neon refused; look there"):
        neon.lists.look("personal", None, neon.now)


@pytest.mark.parametrize("way", ["a success", "a new configuration"])
def test_what_ends_a_pause(way: str) -> None:
    neon = Account(problem=TryLater("Neon is unavailable"))
    with pytest.raises(TryLater):
        neon.lists.look("personal", None, neon.now)
    neon.problem = None
    if way == "a success":
        neon.poll(after=0)  # a poll waits for no pause
    else:
        neon.lists.renew()
    assert neon.lists.troubles() == {}
    assert neon.lists.look("personal", None, neon.now).account == "personal"


def test_a_list_that_was_read_before_stays_while_the_next_cannot_be() -> None:
    neon = Account()
    before = neon.poll()
    neon.problem = TryLater("Neon is unavailable")
    with pytest.raises(TryLater):
        neon.poll()
    assert neon.lists.newest() == {"personal": before}


# Doubt


def test_a_list_with_every_known_key_is_believed_without_asking() -> None:
    neon = Account()
    assert neon.poll().doubt == ""
    assert neon.vouched == 0


def test_a_list_that_lacks_one_of_many_is_believed() -> None:
    neon = Account(keys=set(range(2, 21)))
    listing = neon.poll()
    assert (listing.doubt, listing.confirms) == ("", 1)


def test_a_list_that_lacks_several_is_believed_when_three_polls_agree_and_our_key_is_accepted() -> None:
    neon = Account(keys=set(range(4, 21)))
    assert "lacks 3 of 10 known keys" in neon.poll().doubt
    assert neon.poll().doubt
    assert neon.vouched == 0
    listing = neon.poll()
    assert (listing.doubt, listing.confirms, neon.vouched) == ("", 3, 1)


def test_it_is_not_believed_while_our_key_is_refused_and_then_at_once() -> None:
    neon = Account(keys=set(range(4, 21)), accepted=False)
    assert all(neon.poll().doubt for _ in range(5))
    assert neon.vouched == 3
    neon.accepted = True
    assert neon.poll().doubt == ""


def test_lists_that_lack_different_keys_do_not_agree() -> None:
    neon = Account()
    for missing in ({1, 2}, {3, 4}, {5, 6}, {1, 2}):
        neon.keys = set(range(1, 21)) - missing
        assert neon.poll().doubt


def test_a_full_list_ends_the_doubt() -> None:
    neon = Account()
    for keys in (range(4, 21), range(4, 21), range(1, 21), range(4, 21), range(4, 21)):
        neon.keys = set(keys)
        listing = neon.poll()
    assert listing.doubt
    assert neon.poll().doubt == ""


def test_what_is_read_between_polls_does_not_count_as_one() -> None:
    neon = Account(keys=set(range(4, 21)))
    neon.poll()
    for _ in range(5):
        neon.seconds += 1
        assert neon.lists.look("personal", neon.lists.newest()["personal"], neon.now).doubt
    neon.poll()
    assert neon.poll().doubt == ""


@pytest.mark.parametrize(
    ("neon", "doubt"),
    [
        pytest.param(Account(own=99), "lacks the management key itself", id="without our own key"),
        pytest.param(Account(keys=set(), known=frozenset()), "is empty", id="empty"),
        pytest.param(Account(keys={50}, known=frozenset({1})), "lacks 1 of 1 known keys", id="without the only one"),
    ],
)
def test_a_list_that_cannot_be_true_is_doubted(neon: Account, doubt: str) -> None:
    assert doubt in neon.poll().doubt
    assert neon.lists.newest()["personal"].requested_at == NOW + 300 * SECOND
