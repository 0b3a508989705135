"""``wavelift live …``: plan, start, watch, approve and cancel live migrations with VMware HCX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal

import typer

from wavelift.airflow.rest import ApiClient, path_of
from wavelift.cli import queue
from wavelift.cli.connect import api_errors_told, client, ended, wake
from wavelift.cli.family import (
    Family,
    Note,
    RequestName,
    RowsWatch,
    RunRows,
    Waits,
    ask,
    follow,
    leave,
    show_one,
    tell_run,
)
from wavelift.cli.output import AsJson, Limit, Times, add_row, say, show, show_facts, table
from wavelift.cli.planned import RunName, answer_run, tell_plan, window
from wavelift.cli.watch import Row
from wavelift.console.answers import RunStarted
from wavelift.console.live_answers import LiveCancelled, LiveDetails, LivePage, LiveRow, LiveStarted
from wavelift.rules.flows import LIVE, REPORT

app = typer.Typer(no_args_is_help=True)
PLAN: Final = LIVE.task_id("plan")
FIRST: Final = "`wavelift live plan WAVE` tells what one would do; `wavelift live start WAVE` begins it"

Wave = Annotated[str, typer.Argument(metavar="WAVE")]
ServerNames = Annotated[list[str] | None, typer.Argument(metavar="SERVER", help="Only these. Without: all.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a live migration: liv-…")]
From = Annotated[str, typer.Option("--from", help="No switchover before this time: '2026-12-05 22:00'.")]
To = Annotated[str, typer.Option("--to", help="No switchover after this time.")]
Accepts = Annotated[bool, typer.Option("--accept-warnings", help="Start although HCX's validation has warnings.")]


@app.command()
@api_errors_told()
def plan(wave: Wave, servers: ServerNames = None, start: From = "", end: To = "", as_json: AsJson = False) -> None:
    """Where every server would go, and what is in the way. It only reads."""
    api = client()
    run = ended(api, RunStarted.model_validate(_asked(api, wave, "plan", servers, start, end)))
    run.result(PLAN, explained_by=REPORT)
    report = run.xcom(PLAN, "report")
    tell_plan(run, PLAN, report, as_json=as_json)
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
    note: Note = "",
    request_id: RequestName = "",
    priority: Annotated[queue.Choice, typer.Option(help=queue.PRIORITY_HELP)] = queue.Choice.NORMAL,
    wait: Waits = False,
    as_json: AsJson = False,
) -> None:
    """Let HCX migrate servers: their ids are printed at once. To try servers again that failed, name them."""
    api = client()
    more = {"note": note, "request_id": request_id, "priority": priority.value, "accept_warnings": accept_warnings}
    answer = _asked(api, wave, "migrate", servers, begin, end, **more)
    run = LiveStarted.model_validate(answer)
    tell_run(run, [f"{row.id} {row.server}" for row in run.migrations], made_before=run.made_before)
    if not wait:
        approve = f"`wavelift live approve {wave} {run.dag_run_id}` approves its plan, once it is made"
        leave(answer, [approve, f"`wavelift live list --wave {wave}` shows how they get on"], as_json=as_json)
        return
    rows = RunRows(api, LIVES, run, {"wave": wave})
    stop = [f"stop {row.server} alone: wavelift live cancel {row.id}" for row in run.migrations]
    follow(rows, RowsWatch(rows, _line), answer, afterwards=stop, as_json=as_json)


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
    LIVES.list_rows(client(), asked, as_json=as_json)


@app.command("show")
@api_errors_told()
def show_(id: Id, as_json: AsJson = False) -> None:
    """Everything about one live migration: where it goes, how far HCX is, what was verified."""
    show_one(client().call("GET", path_of("wavelift", "live", id)), LiveDetails, print_migration, as_json=as_json)


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
        done.require_success(REPORT)
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


LIVES: Final = Family(
    "/wavelift/live", "migrations", LivePage, LiveRow, print_migrations, words="live migrations", first=FIRST
)


def print_migration(row: LiveDetails) -> None:
    """Everything about one live migration."""
    times = Times()
    show_facts(f"{row.id}  {row.wave}/{row.server}", _facts(row, times))
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
    given = {"mode": mode, "servers": servers, **window(begin, end), **more}
    return ask(api, dag_id, _none(wave, dag_id), path_of("wavelift", "waves", wave, "live"), given)


def _answer(wave: str, run: str, answer: Literal["approve", "reject"]) -> None:
    path = path_of("wavelift", "waves", wave, "live", run, "approval")
    answer_run(client(), path, answer, {LIVE.task_id("approve_switchover"): "the switchover"})


def _none(wave: str, dag_id: str) -> str:
    return (
        f"Airflow has no DAG {dag_id}, or you may not see it: only a wave of 'method: hcx' has one. "
        f"`wavelift wave validate` checks the file of {wave}"
    )


def _line(row: LiveRow) -> Row:
    return Row(row.server, str(row.state), row.error or _progress(row).replace("\n", ", "))
