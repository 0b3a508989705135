"""``wavelift live …``: plan, start, watch, approve and cancel live migrations with VMware HCX."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from wavelift.airflow.rest import ApiClient, path_of
from wavelift.cli import queue
from wavelift.cli.connect import EndedRun, api_errors_told, client, ended, fail, query, wake
from wavelift.cli.local_time import typed_time
from wavelift.cli.output import (
    AsJson,
    Limit,
    Times,
    add_row,
    print_json,
    say,
    show,
    show_facts,
    stdout_console,
    table,
    told_empty,
)
from wavelift.cli.watch import Row, Waiting, shown, tell, wait
from wavelift.console.answers import RunStarted
from wavelift.console.cutover_answers import CutoverAnswered
from wavelift.console.live_answers import LiveCancelled, LiveDetails, LivePage, LiveRow, LiveStarted
from wavelift.rules.flows import LIVE, REPORT

app = typer.Typer(no_args_is_help=True)
WAIT_SECONDS: Final = 7 * 24 * 3600.0
"""Replication and a window may take days; who waits longer looks at the list."""
LOOK_SECONDS: Final = 2.0
MOST: Final = 500
PLAN: Final = LIVE.task_id("plan")
FIRST: Final = "`wavelift live plan WAVE` tells what one would do; `wavelift live start WAVE` begins it"

Wave = Annotated[str, typer.Argument(metavar="WAVE")]
ServerNames = Annotated[list[str] | None, typer.Argument(metavar="SERVER", help="Only these. Without: all.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Id of the DAG run that asks.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a live migration: liv-…")]
From = Annotated[str, typer.Option("--from", help="No switchover before this time: '2026-12-05 22:00'.")]
To = Annotated[str, typer.Option("--to", help="No switchover after this time.")]
RequestName = Annotated[str, typer.Option("--request-id", help="Your own name of this request: repeat it safely.")]
Accepts = Annotated[bool, typer.Option("--accept-warnings", help="Start although HCX's validation has warnings.")]


@app.command()
@api_errors_told()
def plan(wave: Wave, servers: ServerNames = None, start: From = "", end: To = "", as_json: AsJson = False) -> None:
    """Where every server would go, and what is in the way. It only reads."""
    api = client()
    run = ended(api, RunStarted.model_validate(_asked(api, wave, "plan", servers, start, end)))
    run.result(PLAN, explained_by=REPORT)
    report = run.xcom(PLAN, "report")
    if as_json:
        print_json(report)
    else:
        for line in str(run.xcom(PLAN, "words") or "").splitlines():
            say(line)
    if any(each["why"] for each in report["servers"]):
        raise typer.Exit(1)


@app.command()
@api_errors_told()
def start(  # noqa: PLR0913  # one parameter per option
    wave: Wave,
    servers: ServerNames = None,
    begin: From = "",
    end: To = "",
    accept_warnings: Accepts = False,
    note: Annotated[str, typer.Option(help="Kept with the run.")] = "",
    request_id: RequestName = "",
    priority: Annotated[queue.Choice, typer.Option(help=queue.PRIORITY_HELP)] = queue.Choice.NORMAL,
    follow: Annotated[bool, typer.Option("--wait/--no-wait", help="Show progress until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let HCX migrate servers: their ids are printed at once. To try servers again that failed, name them."""
    api = client()
    more = {"note": note, "request_id": request_id, "priority": priority.value, "accept_warnings": accept_warnings}
    answer = _asked(api, wave, "migrate", servers, begin, end, **more)
    run, told = LiveStarted.model_validate(answer), Console(stderr=True)
    again = ": this request was made before, nothing was started" if run.made_before else ""
    tell(told, f"{run.dag_id}, run {run.dag_run_id}{again}")
    for row in run.migrations:
        tell(told, f"{row.id} {row.server}")
    if not follow:
        if as_json:
            print_json(answer)
        tell(told, f"`wavelift live approve {wave} {run.dag_run_id}` approves its plan, once it is made")
        tell(told, f"`wavelift live list --wave {wave}` shows how they get on")
        return
    state = _watched(api, wave, run, told, as_json=as_json)
    rows = _migrations(api, wave, run.dag_run_id)
    if as_json:
        print_json({**answer, "state": state, "migrations": rows})
    else:
        print_migrations([LiveRow.model_validate(row) for row in rows])
    if state != "success":
        fail(EndedRun(api, run.dag_id, run.dag_run_id, state).why_failed(REPORT))


@app.command("list")
@api_errors_told()
def list_(
    wave: Annotated[str, typer.Option(help="Only this wave.")] = "",
    state: Annotated[str, typer.Option(help="Only this state, e.g. moving.")] = "",
    search: Annotated[str, typer.Option(help="Part of an id, server, wave, note or id in HCX.")] = "",
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Live migrations: how far HCX is with each; newest first."""
    asked = {"wave": wave, "state": state, "search": search, "limit": limit}
    answer = client().call("GET", query("/wavelift/live", asked))
    if as_json:
        print_json(answer)
        return
    page = LivePage.model_validate(answer)
    if not page.migrations:
        told_empty("live migrations", FIRST, wave=wave, state=state, search=search)
        return
    print_migrations(page.migrations)
    if page.total > len(page.migrations):
        say(f"{len(page.migrations)} of {page.total}; raise --limit to see more")


@app.command("show")
@api_errors_told()
def show_one(id: Id, as_json: AsJson = False) -> None:
    """Everything about one live migration: where it goes, how far HCX is, what was verified."""
    answer = client().call("GET", path_of("wavelift", "live", id))
    if as_json:
        print_json(answer)
        return
    row, times = LiveDetails.model_validate(answer), Times()
    show_facts(f"{row.id}  {row.wave}/{row.server}", _facts(row, times))
    times.tell()


@app.command()
@api_errors_told()
def approve(wave: Wave, run: RunName) -> None:
    """Approve what a run asks: its plan, or that HCX may switch over."""
    _answer(wave, run, "approve")


@app.command()
@api_errors_told()
def reject(wave: Wave, run: RunName) -> None:
    """Reject what a run asks: a plan is not begun; what has not begun to switch over is cancelled in HCX."""
    _answer(wave, run, "reject")


@app.command()
@api_errors_told()
def cancel(id: Id) -> None:
    """End a migration that has not begun to switch over, in HCX too."""
    api = client()
    known = LiveRow.model_validate(api.call("GET", path_of("wavelift", "live", id)))
    wake(api, known.dag_id, _none(known.wave, known.dag_id))
    row = LiveCancelled.model_validate(api.call("POST", path_of("wavelift", "live", id, "cancel")))
    if row.state.terminal:
        say(f"{id} ({row.server}) is cancelled: HCX was not asked for it")
    elif not row.cancel_run:
        say(f"{id} ({row.server}) goes no further; it ends when {row.dag_id}, run {row.dag_run_id} comes to it")
    else:
        done = ended(api, RunStarted(dag_id=row.dag_id, dag_run_id=row.cancel_run))
        if done.state != "success":
            fail(done.why_failed(REPORT))
        now = LiveRow.model_validate(api.call("GET", path_of("wavelift", "live", id)))
        say(f"{id} ({row.server}) is {now.state}: {now.phase}")


def print_migrations(rows: Sequence[LiveRow]) -> None:
    """Live migrations as a table, and under it what went wrong."""
    times = Times()
    found = table("id, asked", "wave/server", "state", "progress", ids=("id, asked",))
    for row in rows:
        asked = f"{row.id}\n{times.of(row.requested_at)}"
        add_row(found, asked, f"{row.wave}/{row.server}", f"{row.state}\n{row.kind}", _progress(row))
    show(found)
    for row in rows:
        if row.error:
            say(f"{row.id} {row.server}: {row.error}")
    times.tell()


def _progress(row: LiveRow) -> str:
    share = f"{row.percent} %" if row.percent and not row.state.terminal else ""
    asked = "is being cancelled" if row.cancel_requested and not row.state.terminal else ""
    return "\n".join(filter(None, (share, row.phase, asked)))


def _facts(row: LiveDetails, times: Times) -> Iterator[tuple[str, str]]:
    yield "state", f"{row.state}{f' ({row.phase})' if row.phase else ''}"
    yield "type", row.kind
    if row.percent:
        yield "progress", f"{row.percent} %"
    yield "asked", f"{times.of(row.requested_at)} by {row.requested_by}"
    if row.window_start and row.window_end:
        yield "window", f"{times.of(row.window_start)} to {times.of(row.window_end)}"
    if row.approval is not None:
        yield row.approval.answer, f"{times.of(row.approval.answered_at)} by {row.approval.answered_by}"
    if row.group_name:
        yield "group in HCX", row.group_name
    if row.migration_id:
        yield "migration in HCX", row.migration_id
    for name, at in row.times.items():
        yield name, times.of(at)
    for side, told in (row.found or {}).items():
        yield f"verified at the {side}", "; ".join(told.get("verified") or ()) or "nothing"
        for words in (*(told.get("wrong") or ()), *(told.get("unverified") or ())):
            yield f"not so at the {side}", str(words)
    if row.error:
        yield "error", row.error
    yield "run", f"{row.dag_id}, {row.dag_run_id}"


def _asked(
    api: ApiClient, wave: str, mode: str, servers: Sequence[str] | None, begin: str, end: str, **more: str | bool
) -> dict[str, Any]:
    dag_id = LIVE.dag_id(wave)
    wake(api, dag_id, _none(wave, dag_id))
    given = {
        "servers": list(servers or ()),
        "window_start": typed_time(begin).isoformat() if begin else "",
        "window_end": typed_time(end).isoformat() if end else "",
        **more,
    }
    body = {"mode": mode, **{key: value for key, value in given.items() if value}}
    return dict(api.call("POST", path_of("wavelift", "waves", wave, "live"), body))


def _answer(wave: str, run: str, answer: str) -> None:
    path = path_of("wavelift", "waves", wave, "live", run, "approval")
    given = CutoverAnswered.model_validate(client().call("POST", path, {"answer": answer}))
    did = {"approve": "approved", "reject": "rejected"}[given.answer]
    what = "the switchover" if given.task_id == LIVE.task_id("approve_switchover") else "the plan"
    say(f"{given.dag_id}, run {given.dag_run_id}: {given.answered_by} {did} {what}")


def _none(wave: str, dag_id: str) -> str:
    return (
        f"Airflow has no DAG {dag_id}, or you may not see it: only a wave of 'method: hcx' has one. "
        f"`wavelift wave validate` checks the file of {wave}"
    )


def _migrations(api: ApiClient, wave: str, run_id: str) -> list[dict[str, Any]]:
    found = api.call("GET", query("/wavelift/live", {"wave": wave, "dag_run_id": run_id, "limit": MOST}))["migrations"]
    return sorted(found, key=lambda row: str(row["server"]))


def _watched(api: ApiClient, wave: str, run: LiveStarted, told: Console, *, as_json: bool) -> str:
    # With --json standard output is for the result alone.
    watch = LiveWatch(api, wave, run.dag_id, run.dag_run_id)
    with shown(watch, told if as_json else stdout_console()) as look:
        return wait(
            api,
            run.dag_id,
            run.dag_run_id,
            timeout=WAIT_SECONDS,
            interval=LOOK_SECONDS,
            show=look,
            afterwards=[f"stop {row.server} alone: wavelift live cancel {row.id}" for row in run.migrations],
        )


@dataclass
class LiveWatch:
    """The migrations of one DAG run, for :func:`wavelift.cli.watch.shown`."""

    api: ApiClient
    wave: str
    dag_id: str
    run_id: str
    clock: Callable[[], float] = time.monotonic
    _waiting: Waiting = field(init=False)

    def __post_init__(self) -> None:
        self._waiting = Waiting(self.api, self.dag_id, self.run_id, clock=self.clock, servers_shown=True)

    def rows(self) -> list[Row]:
        """One row per server; one of the run as a whole while its own tasks are under way."""
        lines = self._waiting.lines()
        found = [LiveRow.model_validate(row) for row in _migrations(self.api, self.wave, self.run_id)]
        return [*([Row("", "; ".join(lines))] if lines else []), *map(self._row, found)]

    @staticmethod
    def _row(row: LiveRow) -> Row:
        return Row(row.server, str(row.state), row.error or _progress(row).replace("\n", ", "))
