"""Watching a wave run: server, phase, bytes, rate and ETA, read by REST from the task state store.

On a terminal a table that redraws itself; in a pipe or a log one line per change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from wavelift.airflow.rest import ApiClient
from wavelift.base.printable import printable
from wavelift.base.rates import seconds_left
from wavelift.base.units import human_bytes, human_seconds
from wavelift.cli.output import plain
from wavelift.rules.flows import ADMIT, PREFLIGHT, REPORT, Step, flow_of

DONE: Final = "done"
QUEUED: Final = "queued"
STATES: Final = {
    "running": "",
    "queued": QUEUED,
    "scheduled": QUEUED,
    "up_for_retry": "will retry",
    "failed": "failed",
    "upstream_failed": "not reached",
}
LINE_SECONDS: Final = 2.0
"""In a log, progress within a phase gets at most one line per server in this time."""


@dataclass(frozen=True, slots=True)
class Row:
    """How far one server is. Sizes in bytes, ``rate`` in bytes per second, 0 when unknown."""

    server: str
    phase: str
    note: str = ""
    done: int = 0
    total: int = 0
    rate: float = 0.0

    @property
    def words(self) -> str:
        return f"{self.phase} ({self.note})" if self.note else self.phase

    @property
    def bytes(self) -> str:
        return f"{human_bytes(self.done)} of {human_bytes(self.total)}" if self.total else ""

    @property
    def speed(self) -> str:
        return f"{human_bytes(self.rate)}/s" if self.rate > 0 else ""

    @property
    def eta(self) -> str:
        left = seconds_left(self.done, self.total, self.rate)
        return "" if left is None else human_seconds(left)


class Watched(Protocol):
    """What :func:`shown` shows."""

    dag_id: str

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds, from any start."""

    def rows(self) -> list[Row]:
        """One row per server, asked anew each time."""


@dataclass
class Watch:
    """One run's servers; :meth:`rows` asks Airflow anew each time."""

    api: ApiClient
    dag_id: str
    run_id: str
    clock: Callable[[], float] = time.monotonic
    _servers: list[tuple[str, int]] = field(default_factory=list)
    """Name and bytes of each, in the order of the map index."""

    def rows(self) -> list[Row]:
        """One row per server; one without a server while the run is before its servers."""
        tasks = self.api.task_instances(self.dag_id, self.run_id)
        if not self._servers:
            found = self.api.xcom(self.dag_id, self.run_id, PREFLIGHT) or []
            self._servers = [(server["name"], server["bytes"]) for server in found]
        if not self._servers:
            return [self._before_servers(tasks)]
        by_index: dict[int, dict[str, str | None]] = {}
        for task in tasks:
            by_index.setdefault(task["map_index"], {})[task["task_id"]] = task["state"]
        return [
            self._row(index, name, total, by_index.get(index, {})) for index, (name, total) in enumerate(self._servers)
        ]

    @staticmethod
    def _before_servers(tasks: list[dict[str, Any]]) -> Row:
        for name in (ADMIT, PREFLIGHT):
            state = next((task["state"] for task in tasks if task["task_id"] == name), None)
            if state != "success":
                return Row("", name, STATES.get(state or "scheduled", state or ""))
        return Row("", REPORT)

    def _row(self, index: int, name: str, total: int, tasks: dict[str, str | None]) -> Row:
        chain = flow_of(self.dag_id).chain
        step = next((step for step in chain if not _passed(step, tasks.get(step.task_id))), None)
        if step is None:
            return Row(name, DONE, done=total, total=total)
        state = tasks.get(step.task_id) or "scheduled"
        note = (step.waits or "waits") if state == "deferred" else STATES.get(state, state)
        if not step.moves or state != "running":
            return Row(name, step.name, note)
        moved = self.api.progress(self.dag_id, self.run_id, step.task_id, map_index=index)
        return Row(name, step.name, note, moved.done if moved else 0, total, moved.rate if moved else 0.0)


def _passed(step: Step, state: str | None) -> bool:
    return state == "success" or (state == "skipped" and step.optional)


@contextmanager
def shown(watch: Watched, out: Console) -> Iterator[Callable[[], None]]:
    """A function to call after every look at the run: it shows what changed."""
    if not out.is_terminal:
        lines = _Lines(watch, out)
        yield lines.show
        return
    with Live(console=out, refresh_per_second=2) as live:
        yield lambda: live.update(table(watch.rows(), watch.dag_id))


def table(rows: list[Row], title: str) -> Table:
    """The live table; fits 80 columns."""
    made = Table(title=plain(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column("server", no_wrap=True)
    made.add_column("phase")
    made.add_column("bytes", no_wrap=True)
    for name in ("rate", "ETA"):
        made.add_column(name, no_wrap=True, justify="right")
    for row in rows:
        made.add_row(*map(plain, (row.server, row.words, row.bytes, row.speed, row.eta)))
    return made


class _Lines:
    """One line per change, for logs."""

    def __init__(self, watch: Watched, out: Console) -> None:
        self._watch = watch
        self._out = out
        self._start = watch.clock()
        self._shown: dict[str, tuple[float, Row]] = {}

    def show(self) -> None:
        for row in self._watch.rows():
            now = self._watch.clock()
            if self._worth(row, now):
                self._shown[row.server] = now, row
                self._print(row, now - self._start)

    def _worth(self, row: Row, now: float) -> bool:
        if row.note == QUEUED:  # the next line says what it became
            return False
        if row.server not in self._shown:
            return True
        when, before = self._shown[row.server]
        if row.words != before.words:
            return True
        return row.done != before.done and now - when >= LINE_SECONDS

    def _print(self, row: Row, seconds: float) -> None:
        eta = f"ETA {row.eta}" if row.eta else ""
        line = f"{seconds:4.0f} s  {row.server:<8} {row.words:<27} {row.bytes:<23} {row.speed:<12} {eta}"
        self._out.print(printable(line.rstrip()), markup=False, emoji=False, highlight=False, soft_wrap=True)
