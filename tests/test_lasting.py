"""A trouble that lasts does not fill the log, and its end is told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from builders import NOW
from world import World

from rotator.lasting import Lasting
from rotator.model import Event

AN_HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("course", "told"),
    [
        ([("down", 0)], ["down"]),
        ([("down", 0), ("down", 1), ("down", 59)], ["down"]),
        ([("down", 0), ("refused", 1), ("refused", 2), ("down", 3)], ["down", "refused", "down"]),
        ([("down", 0), ("down", 30), ("down", 60), ("down", 61), ("down", 120)], ["down", "down", "down"]),
        ([("down", 0), ("", 1), ("", 2)], ["down", "over"]),
        ([("down", 0), ("", 1), ("down", 2)], ["down", "over", "down"]),
        ([("", 0)], []),
        ([("down", 0), ("down", -300)], ["down", "down"]),
    ],
    ids=["at first", "not again", "another reason", "hourly", "its end", "anew", "never was", "the clock went back"],
)
def test_it_is_told_when_it_is_news_and_every_hour(course: list[tuple[str, int]], told: list[str]) -> None:
    said: list[Event] = []
    lasting = Lasting(said.append, "begun", "over")
    for why, minute in course:
        if why:
            lasting.lasts("it", why, NOW + timedelta(minutes=minute))
        else:
            lasting.ends("it", "over")
    assert [event.why for event in said] == told
    assert [event.name for event in said] == ["over" if why == "over" else "begun" for why in told]


def test_each_thing_has_its_own_trouble() -> None:
    said: list[Event] = []
    lasting = Lasting(said.append, "begun", "over")
    lasting.lasts("one", "down", NOW)
    lasting.lasts("other", "down", NOW)
    lasting.ends("one", "one is up")
    lasting.lasts("other", "down", NOW)
    assert [event.why for event in said] == ["down", "down", "one is up"]


def test_a_list_that_cannot_be_read_for_hours_is_told_hourly_and_that_it_can_be_read_again(tmp_path: Path) -> None:
    """Polled every five minutes."""
    world = World(
        tmp_path,
        "sinks: {a: {type: file, path: a.key}}\npolicies: {ci: {rotate: {every: 30d}, deliver_to: [a]}}\n",
    )
    try:
        world.settle()
        world.neon.stop()
        for _ in range(37):
            world.push(minutes=5)
            world.settle()
        assert len(world.told("list.unreadable")) == 4
        world.neon.start()
        world.settle()
        world.settle()
        assert [event.why for event in world.told("list.readable")] == ["the keys of personal can be listed again"]
    finally:
        world.close()
