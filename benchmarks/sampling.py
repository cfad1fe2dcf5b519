"""A service seen from the outside: what `/proc`, its files and its metrics say, as rows of a table.

Nothing here asks the service for anything that it does not give to everybody.
"""

from __future__ import annotations

import csv
import os
import re
import sqlite3
import statistics
import urllib.request
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

MIB = 2**20
TICKS = os.sysconf("SC_CLK_TCK")
TABLES = ("history", "records", "uses", "notices", "orders", "outlooks", "flags", "meta")
PLOT_WIDTH = 60


@dataclass(frozen=True)
class Sample:
    """`seconds` since the beginning; memory and files in MiB, CPU in seconds, with that of children that ended."""

    seconds: float
    rss: float
    pss: float
    anonymous: float
    descriptors: int
    threads: int
    children: int
    database: float
    wal: float
    cpu: float
    rotations: int
    requests: int
    first_entry: int
    newest_entry: int
    history: int
    records: int
    uses: int
    notices: int
    orders: int
    outlooks: int
    flags: int
    meta: int


def sample(pid: int, state: Path, metrics: str, seconds: float) -> Sample:
    """Look once. `metrics` is the URL of the service's metrics."""
    memory = _memory(pid)
    counts, first, newest = _rows(state)
    calls = _requests(metrics)
    return Sample(
        seconds=round(seconds, 1),
        rss=memory["Rss"],
        pss=memory["Pss"],
        anonymous=memory["Anonymous"],
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
        children=_children(pid),
        database=state.stat().st_size / MIB,
        wal=_size(state.with_name(state.name + "-wal")),
        cpu=_cpu(pid),
        rotations=calls.get("DELETE", 0),
        requests=sum(calls.values()),
        first_entry=first,
        newest_entry=newest,
        **counts,
    )


def _memory(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(value.split()[0]) / 1024 for name, value in (line.split(":") for line in lines)}


def _children(pid: int) -> int:
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found += len((task / "children").read_text().split())
    return found


def _cpu(pid: int) -> float:
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in after_name[11:15]) / TICKS


def _size(path: Path) -> float:
    try:
        return path.stat().st_size / MIB
    except FileNotFoundError:
        return 0.0


def _rows(state: Path) -> tuple[dict[str, int], int, int]:
    """Rows by table, the first and the newest entry of the history."""
    with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True, timeout=10)) as connection:
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}
        first, newest = connection.execute("SELECT min(seq), max(seq) FROM history").fetchone()
    return counts, first or 0, newest or 0


def _requests(metrics: str) -> dict[str, int]:
    """The service's successful calls of Neon's API by method."""
    with urllib.request.urlopen(metrics, timeout=30) as answer:
        text = answer.read().decode()
    calls: dict[str, int] = {}
    for labels, value in re.findall(r"^rotator_neon_requests_total{(.*?)} (\S+)$", text, re.MULTILINE):
        method = dict(re.findall(r'(\w+)="(.*?)"', labels))["method"]
        calls[method] = calls.get(method, 0) + int(float(value))
    return calls


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares: by how much the second grows in an hour, the first being seconds."""
    return 3600 * statistics.linear_regression(*zip(*points, strict=True)).slope


def write_csv(samples: Sequence[Sample], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Sample)])
        writer.writeheader()
        writer.writerows(asdict(each) for each in samples)


def plot(title: str, samples: Sequence[Sample], name: str, lines: int = 20) -> str:
    """One column as bars over time, from zero on."""
    chosen = samples[:: max(1, len(samples) // lines)]
    values = [float(getattr(each, name)) for each in chosen]
    scale = PLOT_WIDTH / (max(values) or 1.0)
    bars = (
        f"{each.seconds / 60:5.1f} min {'#' * round(scale * value):<{PLOT_WIDTH}} {value:.1f}"
        for each, value in zip(chosen, values, strict=True)
    )
    return "\n".join([title, *bars])
