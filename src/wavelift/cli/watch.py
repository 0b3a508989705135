"""What a command shows while it waits for a DAG run.

:func:`wait` is the one way to wait. It tells on standard error which task the run is at and what that waits for:
:class:`Waiting`. Where the servers of a wave are shown, a table takes its place (:func:`shown`): server, phase, bytes,
rate and ETA. On a terminal both redraw themselves; in a pipe or a log they are one line per change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn, Protocol

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.status import Status
from rich.table import Table

from wavelift.airflow.rest import ASKS, RETRY, UNDER_WAY, ApiClient, ApiError, path_of
from wavelift.base.printable import printable
from wavelift.base.rates import seconds_left
from wavelift.base.tries import FailedTry
from wavelift.base.units import human_bytes, human_seconds
from wavelift.cli.output import plain
from wavelift.console.answers import ServerStep
from wavelift.rules.flows import ADMIT, CUTOVER, EVERY_FLOW, PREFLIGHT, REPORT, flow_of, server_step

DONE: Final = "done"
QUEUED: Final = "queued"
STATES: Final = {
    "running": "",
    "queued": QUEUED,
    "scheduled": QUEUED,
    "up_for_reschedule": "waits",
    "failed": "failed",
    "upstream_failed": "not reached",
}
LINE_SECONDS: Final = 2.0
"""In a log, progress within a phase gets at most one line per server in this time."""
LONG_SECONDS: Final = 30.0
"""A task that nothing hinders begins within seconds. After this time the reader is told what may be missing."""
PAUSE_SECONDS: Final = 10.0
"""How often a run that makes no progress is asked whether its DAG is paused."""
OUTAGE_SECONDS: Final = 300.0
"""For how long Airflow's API may be away while a command waits: a restart takes a minute."""
GONE_SECONDS: Final = 20.0
"""For how long a run may be missing before it counts as deleted."""
DEFAULT_QUEUE: Final = "default"
INTERRUPTED: Final = 130
"""The exit status of a program that Ctrl-C ended, as shells count it."""
MOST_TASKS: Final = 5
"""Tasks that are told at a time, one line each."""


@dataclass(frozen=True, slots=True)
class Row:
    """How far one server is. Sizes in bytes, ``rate`` in bytes per second, 0 when unknown.

    :param failed: the last try, while the next one is waited for.
    """

    server: str
    phase: str
    note: str = ""
    done: int = 0
    total: int = 0
    rate: float = 0.0
    failed: FailedTry | None = None

    @property
    def short(self) -> str:
        """Without the reason of a failed try."""
        if self.failed:
            return f"{self.phase}: {self.failed.short}"
        return f"{self.phase} ({self.note})" if self.note else self.phase

    @property
    def words(self) -> str:
        return f"{self.phase}: {self.failed.words}" if self.failed else self.short

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
    _tries: dict[tuple[str, int, int], FailedTry] = field(default_factory=dict)
    """What each failed try left, by task, map index and number."""

    def rows(self) -> list[Row]:
        """One row per server; one without a server while the run is before its servers."""
        tasks = self.api.task_instances(self.dag_id, self.run_id)
        if not self._servers:
            found = self.api.xcom(self.dag_id, self.run_id, PREFLIGHT) or []
            self._servers = [(server["name"], server["bytes"]) for server in found]
        if not self._servers:
            return [self._before_servers(tasks)]
        by_index: dict[int, dict[str, dict[str, Any]]] = {}
        for task in tasks:
            by_index.setdefault(task["map_index"], {})[task["task_id"]] = task
        return [
            self._row(index, name, total, by_index.get(index, {})) for index, (name, total) in enumerate(self._servers)
        ]

    def _before_servers(self, tasks: list[dict[str, Any]]) -> Row:
        for name in (ADMIT, PREFLIGHT):
            task = next((task for task in tasks if task["task_id"] == name), {})
            if task.get("state") != "success":
                return self._unfinished("", name, task, waits="")
        return Row("", REPORT)

    def _row(self, index: int, name: str, total: int, tasks: dict[str, dict[str, Any]]) -> Row:
        chain = flow_of(self.dag_id).chain
        step = next((step for step in chain if not step.is_passed(tasks.get(step.task_id, {}).get("state"))), None)
        if step is None:
            return Row(name, DONE, done=total, total=total)
        task = tasks.get(step.task_id, {})
        row = self._unfinished(name, step.name, task, waits=step.waits)
        if not step.moves or task.get("state") != "running":
            return row
        moved = self.api.progress(self.dag_id, self.run_id, step.task_id, map_index=index)
        return replace(row, done=moved.done if moved else 0, total=total, rate=moved.rate if moved else 0.0)

    def _unfinished(self, server: str, phase: str, task: dict[str, Any], *, waits: str) -> Row:
        """A task that is not through; empty: Airflow has not made it yet."""
        state = task.get("state") or "scheduled"
        failed = self._failed(task) if state == RETRY else None
        return Row(server, phase, note_of(state, task.get("try_number", 0), waits=waits), failed=failed)

    def _failed(self, task: dict[str, Any]) -> FailedTry:
        key = task["task_id"], task["map_index"], task.get("try_number", 0)
        if not self._tries.get(key, FailedTry()).what:
            self._tries[key] = self.api.failed_try(self.dag_id, self.run_id, key[0], map_index=key[1])
        return self._tries[key]


def note_of(state: str, number: int, *, waits: str) -> str:
    """What to say beside the name of a task in this state; empty: it simply runs.

    :param number: of the try.
    :param waits: what it waits for when it is deferred.
    """
    if state in ("deferred", ASKS):
        return waits or "waits"
    note = STATES.get(state, state)
    return note or (f"try {number}" if number > 1 else "")


def step_row(server: str, at: ServerStep) -> Row:
    """Where a server is, as a row of the REST API says it."""
    failed = None
    if at.step_state == RETRY:
        failed = FailedTry(what=at.retry_reason, number=at.step_try, of=at.step_tries, next_at=at.retry_at)
    waits = at.waiting or _waits_of(at.step, getattr(at, "dag_id", ""))
    return Row(server, at.step, note_of(at.step_state, at.step_try, waits=waits), failed=failed)


@contextmanager
def shown(watch: Watched, out: Console) -> Iterator[Callable[[], None]]:
    """A function to call after every look at the run: it shows what changed."""
    if not out.is_terminal:
        lines = _Lines(watch, out)
        yield lines.show
        return
    with Live(console=out, refresh_per_second=2) as live:
        yield lambda: live.update(live_view(watch.rows(), watch.dag_id))


def live_view(rows: list[Row], title: str) -> RenderableType:
    """The live table, and below it what would be as high as the screen in a column.

    That is what concerns the run as a whole, and why a try failed.
    """
    servers = [row for row in rows if row.server]
    below = [row.words for row in rows if not row.server]
    reasons = [f"{row.server}: {row.failed.what}" for row in servers if row.failed and row.failed.what]
    return Group(table(servers, title), *(plain(printable(line)) for line in [*below, *reasons[:MOST_TASKS]]))


def table(rows: list[Row], title: str) -> Table:
    """The live table; fits 80 columns."""
    made = Table(title=plain(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column("server", no_wrap=True)
    made.add_column("phase")
    made.add_column("bytes", no_wrap=True)
    for name in ("rate", "ETA"):
        made.add_column(name, no_wrap=True, justify="right")
    for row in rows:
        made.add_row(*map(plain, (row.server, row.short, row.bytes, row.speed, row.eta)))
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
        tell(self._out, line.rstrip())


def tell(out: Console, words: str) -> None:
    """One line as it is."""
    out.print(printable(words), markup=False, emoji=False, highlight=False, soft_wrap=True)


# Any DAG run


@dataclass
class Waiting:
    """The tasks that a DAG run is at, in words; :meth:`lines` asks Airflow anew each time."""

    api: ApiClient
    dag_id: str
    run_id: str
    clock: Callable[[], float] = time.monotonic
    servers_shown: bool = False
    """A table shows where the servers are: their tasks are told only when they wait for long."""
    long: bool = False
    """Something of the last look did not begin for long, or never will by itself."""
    _since: dict[str, float] = field(default_factory=dict)
    """When each state of a task was first seen, by its words."""
    _seen: set[str] = field(default_factory=set)
    """Those of this look."""
    _pause: tuple[float, bool] | None = None
    """When it was last asked whether the DAG is paused, and the answer."""
    _names: list[str] = field(default_factory=list)
    """The servers, in the order of the map index, as soon as pre-flight told them."""

    def lines(self) -> list[str]:
        """One line per task under way; what may be missing, when nothing moves; none between two tasks."""
        self._seen.clear()
        self.long = False
        tasks = self.api.task_instances(self.dag_id, self.run_id, states=UNDER_WAY)
        if not any(task["state"] in ("running", "deferred", ASKS) for task in tasks) and self._paused():
            self.long = True
            return [paused_words(self.dag_id)]
        told = [(task["task_id"], self._task(task)) for task in tasks[:MOST_TASKS]]
        nothing = [] if tasks else self._nothing()
        self._since = {words: when for words, when in self._since.items() if words in self._seen}
        if not tasks:
            return nothing
        if self.servers_shown and not self.long:
            return [line for task_id, line in told if not server_step(task_id)]
        more = [f"and {len(tasks) - MOST_TASKS} more tasks"] if len(tasks) > MOST_TASKS else []
        return [*(line for _, line in told), *more]

    def _task(self, task: dict[str, Any]) -> str:
        name, index, state = task["task_id"], task["map_index"], task["state"]
        label = f"{name} of {task.get('rendered_map_index') or self._server(index)}" if index >= 0 else name
        if state == RETRY:
            return f"{label}: {self.api.failed_try(self.dag_id, self.run_id, name, map_index=index).words}"
        if state in ("queued", "scheduled"):
            return self._not_begun(label, task)
        note = note_of(state, task.get("try_number", 0), waits=_waits_of(name, self.dag_id))
        if state == ASKS and (wave := CUTOVER.wave_of(self.dag_id)):
            note = f"{note}; `wavelift cutover approve {wave} {self.run_id}` gives it"
        return f"{label}: running ({note})" if state == "running" and note else f"{label}: {note or 'running'}"

    def _server(self, index: int) -> str:
        """The server of a mapped task that has not begun, and so has not told it."""
        if not self._names:
            found = self.api.xcom(self.dag_id, self.run_id, PREFLIGHT)
            self._names = [str(each["name"]) for each in found] if _is_list_of_servers(found) else []
        return self._names[index] if index < len(self._names) else str(index)

    def _not_begun(self, label: str, task: dict[str, Any]) -> str:
        state, queue = task["state"], task.get("queue") or DEFAULT_QUEUE
        elsewhere = f" on queue {queue}" if queue != DEFAULT_QUEUE else ""
        age = self._age(f"{label}{state}")
        if age < LONG_SECONDS:
            return f"{label}{elsewhere}: queued"
        if state == "scheduled":
            full = f"pool {task.get('pool')} is full, or Airflow runs as many tasks as it may ([core] parallelism)"
            return f"{label}{elsewhere} waits for a free slot ({age:.0f} s): {self._scheduler() or full}"
        if elsewhere:
            start = f"start one with: airflow celery worker --queues {queue}"
            return f"{label} waits for a worker of the queue {queue} ({age:.0f} s): {start}"
        busy = "none serves Airflow's default queue, or all are busy"
        return f"{label} waits for a worker ({age:.0f} s): {self._scheduler() or busy}"

    def _nothing(self) -> list[str]:
        """A run without a task under way: it is queued, or between two tasks."""
        state = self.api.run_state(self.dag_id, self.run_id)
        age = self._age(state)
        if state not in ("queued", "running") or age < LONG_SECONDS:
            return ["the run is queued"] if state == "queued" else []
        busy = "the scheduler is busy"
        if state == "queued":
            busy += ", or as many runs of the DAG are under way as it allows (max_active_runs)"
        return [f"nothing of the run has begun for {age:.0f} s: {self._scheduler() or busy}"]

    def _scheduler(self) -> str:
        """That it does not run; empty, when it does or Airflow doesn't tell."""
        if self.api.scheduler_runs() is not False:
            return ""
        return "Airflow's scheduler does not run; start it with: airflow scheduler"

    def _age(self, words: str) -> float:
        """For how long this has been so, in steps that double: a log gets few lines of it."""
        self._seen.add(words)
        now = self.clock()
        age = now - self._since.setdefault(words, now)
        step = LONG_SECONDS
        while step * 2 <= age:
            step *= 2
        if age < LONG_SECONDS:
            return 0.0
        self.long = True
        return step

    def _paused(self) -> bool:
        now = self.clock()
        if self._pause is None or now - self._pause[0] >= PAUSE_SECONDS:
            self._pause = now, bool(self.api.is_paused(self.dag_id))
        return self._pause[1]


def _is_list_of_servers(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(each, dict) and "name" in each for each in found)


def paused_words(dag_id: str, way_out: str = "") -> str:
    """That nothing of a DAG starts.

    :param way_out: a command that unpauses it.
    """
    by = f"`{way_out}`, or " if way_out else ""
    return f"{dag_id} is paused: nothing starts until it is unpaused ({by}the switch of the DAG in the web UI)"


def _waits_of(task_id: str, dag_id: str) -> str:
    """What a step waits for; of a DAG that no spec has, by the first flow that has such a step."""
    name = server_step(task_id) or task_id
    own = [flow for flow in EVERY_FLOW if flow.wave_of(dag_id)]
    return next((step.waits for flow in own or EVERY_FLOW for step in flow.steps if step.name == name), "")


class _Told:
    """Lines that replace each other: on a terminal one place that is redrawn, else one line per change."""

    def __init__(self, out: Console, status: Status | None) -> None:
        self._out, self._status = out, status
        self._shown: list[str] = []

    def show(self, lines: list[str]) -> None:
        if not lines:  # between two tasks: what was shown stays
            return
        if self._status is not None:
            self._status.update(plain("\n".join(map(printable, lines))))
        else:
            for line in lines:
                if line not in self._shown:
                    tell(self._out, line)
        self._shown = lines


@contextmanager
def told(out: Console, *, redrawn: bool = True) -> Iterator[Callable[[list[str]], None]]:
    """A function that shows lines in the place of those before.

    :param redrawn: not, where a table redraws itself: the two would overwrite each other.
    """
    status = out.status("") if redrawn and out.is_terminal else None
    with status or nullcontext():
        yield _Told(out, status).show


@dataclass
class _Patience:
    """Bears an API that is away, and a run that is missing, for a bounded time."""

    what: str
    show: Callable[[list[str]], None]
    clock: Callable[[], float]
    _since: float | None = None

    def well(self) -> None:
        self._since = None

    def bear(self, error: ApiError) -> None:
        """:raises ApiError: it lasts too long, or no time would cure it."""
        away = not error.status or error.status >= 500
        if not away and error.status != 404:
            raise error
        now = self.clock()
        self._since = now if self._since is None else self._since
        if now - self._since > (OUTAGE_SECONDS if away else GONE_SECONDS):
            raise error if away else ApiError(f"{self.what} was deleted in Airflow: there is nothing to wait for")
        waits = f"waits up to {human_seconds(OUTAGE_SECONDS)} for it" if away else "looks again"
        self.show([f"{error if away else f'{self.what} is not there'}; {waits}"])


def wait(  # noqa: PLR0913  # what differs between the commands
    api: ApiClient,
    dag_id: str,
    run_id: str,
    *,
    timeout: float,
    interval: float = 1.0,
    show: Callable[[], None] | None = None,
    afterwards: Sequence[str] = (),
    out: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Wait for the end of a DAG run, and tell on standard error what it waits for; its final state.

    :param show: shows the run elsewhere, after each look; the tasks are not told then.
    :param afterwards: what a person who stops waiting may do with the run: lines.
    :raises ApiError: after ``timeout`` seconds; if the run was deleted; if Airflow stays away.
    """
    out = out or Console(stderr=True)
    what = f"{dag_id}, run {run_id}"
    if show is None:
        tell(out, what)
    try:
        with told(out, redrawn=show is None) as say:
            waiting, patience = Waiting(api, dag_id, run_id, clock), _Patience(what, say, clock)

            def look() -> None:
                if show is None:
                    say(waiting.lines())
                else:
                    show()
                patience.well()

            return api.wait_for_run(dag_id, run_id, timeout=timeout, every=look, interval=interval, bear=patience.bear)
    except KeyboardInterrupt:
        _leave(out, api, dag_id, run_id, afterwards)


def _leave(out: Console, api: ApiClient, dag_id: str, run_id: str, afterwards: Sequence[str]) -> NoReturn:
    """Ctrl-C ends the wait alone."""
    tell(out, f"no longer waiting; {dag_id}, run {run_id} goes on")
    tell(out, f"look at it, or stop it (mark it as failed): {api.url}{path_of('dags', dag_id, 'runs', run_id)}")
    for line in afterwards:
        tell(out, line)
    raise typer.Exit(INTERRUPTED)
