"""PURE: how often a policy rotates, and what its window leaves of that.

Answers come from the expression and the zone alone, never from today's date: a configuration that
was accepted yesterday is accepted today. So gaps are measured over 400 days from a fixed date that
has a 29 February ahead. A thousand policies may have a thousand expressions, and `cronsim` needs
some milliseconds to walk a year; so the gaps come from the days and the times of day that an
expression matches, which many expressions share, and `cronsim` walks only where the clocks are changed
and only if the answer hangs on those hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WEEK = timedelta(days=7)
CRON_EXPECTED = 'expected five fields (minute, hour, day, month, weekday) in quotes, such as "0 3 * * 1"'

_START = date(2028, 1, 1)
_DAYS = 400
_LARGEST_CHANGE = timedelta(hours=3)
_AFTER_CHANGE = timedelta(hours=4)
_WORDS = {
    "@yearly": '"0 0 1 1 *"',
    "@annually": '"0 0 1 1 *"',
    "@monthly": '"0 0 1 * *"',
    "@weekly": '"0 0 * * 0"',
    "@daily": '"0 0 * * *"',
    "@midnight": '"0 0 * * *"',
    "@hourly": '"0 * * * *"',
}


def parse_days(text: str) -> frozenset[int]:
    """`mon`, `tue-fri`, `fri-mon` (over the weekend) or several with commas; Monday is 0. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if first not in WEEKDAYS or (dash and last not in WEEKDAYS):
            raise ValueError('expected days such as mon, tue-fri or "mon,wed"')
        begin = WEEKDAYS.index(first)
        length = (WEEKDAYS.index(last) - begin) % 7 if dash else 0
        found.update((begin + day) % 7 for day in range(length + 1))
    return frozenset(found)


def find_zone(name: str) -> tzinfo:
    """The time zone of this name. Raises ValueError if there is none."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("this time zone is not known; expected a name such as Europe/Berlin or UTC") from None


@lru_cache(maxsize=4096)
def check_cron(expression: str) -> str | None:
    """What is wrong with a cron expression and what to write instead, or None."""
    words = expression.split()
    if words and words[0].startswith("@"):
        if instead := _WORDS.get(words[0].lower()):
            return f"words such as {words[0]} are not taken; write {instead}"
        return f"words that begin with @ are not taken; {CRON_EXPECTED}, or {{every: 30d}}"
    if len(words) != 5:
        return f"{len(words)} fields; {CRON_EXPECTED}"
    if len(expression) > 200:
        return f"too long; {CRON_EXPECTED}"
    for position, name in enumerate(("minute", "hour", "day", "month", "weekday")):
        alone = ["*"] * 5
        alone[position] = words[position]
        if _sim(" ".join(alone)) is None:
            return f"the field for the {name} is not understood; {CRON_EXPECTED}"
    sim = _sim(expression)
    if sim is None or (not _days(*words[2:]) and next(sim, None) is None):
        return "never fires: no such day comes; expected days and months that exist together"
    return None


def _sim(expression: str, start: datetime | None = None, *, reverse: bool = False) -> CronSim | None:
    try:
        return CronSim(expression, start or datetime(_START.year, 1, 1, tzinfo=UTC), reverse=reverse)
    except (CronSimError, ValueError):
        return None


@lru_cache(maxsize=1024)
def _days(day: str, month: str, weekday: str) -> tuple[int, ...]:
    """The days, counted from the fixed date, that an expression with these fields matches."""
    sim = _sim(f"0 0 {day} {month} {weekday}")
    if sim is None:
        return ()
    dates = ((number, _START + timedelta(days=number)) for number in range(_DAYS))
    return tuple(number for number, that in dates if that.month in sim.months and sim.match_day(that))


@lru_cache(maxsize=4096)
def _local_gaps(expression: str) -> tuple[timedelta, timedelta]:
    """The shortest and the longest time between two fire times, as the clock on the wall shows it."""
    words = expression.split()
    sim = _sim(expression)
    days = _days(*words[2:])
    if sim is None or not days:
        return timedelta(days=_DAYS), timedelta(days=_DAYS)
    times = sorted(hour * 60 + minute for hour in sim.hours for minute in sim.minutes)
    gaps = {later - earlier for earlier, later in pairwise(times)}
    gaps |= {distance * 1440 - times[-1] + times[0] for distance in {later - day for day, later in pairwise(days)}}
    if not gaps:
        return timedelta(days=_DAYS), timedelta(days=_DAYS)
    return timedelta(minutes=min(gaps)), timedelta(minutes=max(gaps))


@lru_cache(maxsize=64)
def _clock_changes(timezone: str) -> tuple[datetime, ...]:
    """When, in the days looked at, the clocks are changed, to within an hour before."""
    zone = find_zone(timezone)
    days = (datetime(_START.year, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(_DAYS))
    changes = []
    for earlier, later in pairwise(days):
        if _offset(later, zone) != _offset(earlier, zone):
            moments = [earlier + timedelta(hours=hour) for hour in range(25)]
            changes += [a for a, b in pairwise(moments) if _offset(b, zone) != _offset(a, zone)]
    return tuple(changes)


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def shortest_gap(expression: str, timezone: str, *, down_to: timedelta = timedelta(0)) -> timedelta:
    """The shortest time between two fire times; if it is certainly more than `down_to`, a time between the two."""
    local, _ = _local_gaps(expression)
    minute, hour, *_ = expression.split()
    # With a star, as cron(8) has it, an hour that comes twice counts twice.
    if local - _LARGEST_CHANGE > down_to and not minute.startswith("*") and not hour.startswith("*"):
        return local - _LARGEST_CHANGE
    return min([local, *_gaps_over_changes(expression, timezone)])


@lru_cache(maxsize=4096)
def _gaps_over_changes(expression: str, timezone: str) -> tuple[timedelta, ...]:
    return tuple(gap for change in _clock_changes(timezone) for gap in _gaps_around(expression, timezone, change))


def _gaps_around(expression: str, timezone: str, change: datetime) -> Iterator[timedelta]:
    """The gaps between the fire times from the last one before a change until some hours after it."""
    zone = find_zone(timezone)
    back = _sim(expression, change.astimezone(zone), reverse=True)
    last = next(back, None) if back else None
    forth = _sim(expression, last) if last else None
    if last is None or forth is None:
        return
    for fires in forth:
        yield fires.astimezone(UTC) - last.astimezone(UTC)
        if fires.astimezone(UTC) > change + _AFTER_CHANGE:
            return
        last = fires


def longest_gap(expression: str) -> timedelta:
    """The longest time between two fire times, as the clock on the wall shows it."""
    return _local_gaps(expression)[1]


def shortest_closed(days: frozenset[int], start: timedelta, end: timedelta) -> timedelta:
    """The shortest time for which a weekly window stays closed. `start` and `end` count from midnight."""
    length = end - start if end > start else end - start + timedelta(days=1)
    opens = sorted(days)
    return min(
        (timedelta(days=(later - day - 1) % 7 + 1) - length for day, later in pairwise([*opens, opens[0]])),
        default=WEEK,
    )
