"""``wavelift cutover …``: plan, prepare, start, watch, approve, revert and finalize cutovers; test instances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import typer

from wavelift.airflow.rest import ApiClient, path_of
from wavelift.cli import queue
from wavelift.cli.connect import EndedRun, api_errors_told, client, ended, fail, query, tell_user, wake
from wavelift.cli.cutover_details import print_cutover, print_cutovers, print_tests
from wavelift.cli.family import (
    DAYS_SECONDS,
    MOST,
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
    tell_result,
    tell_run,
)
from wavelift.cli.local_time import typed_time
from wavelift.cli.output import AsJson, Limit, print_json, say
from wavelift.cli.planned import RunName, StepName, answer_run, confirm_step, tell_plan, window
from wavelift.cli.watch import Row, step_row
from wavelift.console.answers import RunStarted
from wavelift.console.cutover_answers import (
    CutoverCancelled,
    CutoverDetails,
    CutoverPage,
    CutoverRow,
    CutoverRunStarted,
    CutoversStarted,
    TrialEnds,
    TrialPage,
    TrialRow,
    TrialsStarted,
)
from wavelift.rules.flows import CUTOVER, REPORT, TEST

app = typer.Typer(no_args_is_help=True)
PLAN: Final = CUTOVER.task_id("plan")
PREPARE: Final = CUTOVER.task_id("prepare")
CUTOVERS: Final = Family(
    "/wavelift/cutovers",
    "cutovers",
    CutoverPage,
    CutoverRow,
    print_cutovers,
    words="cutovers",
    first="`wavelift cutover plan WAVE` tells what one would do; `wavelift cutover start WAVE` begins it",
)
TESTS: Final = Family(
    "/wavelift/tests",
    "tests",
    TrialPage,
    TrialRow,
    print_tests,
    words="test instances",
    first="`wavelift cutover test WAVE` launches the images of a wave where they can reach nothing else",
)

Wave = Annotated[str, typer.Argument(metavar="WAVE")]
ServerNames = Annotated[
    list[str] | None, typer.Argument(metavar="SERVER", help="Only these. Without: all with a cutover section.")
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a cutover: cut-…")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of cutovers: cut-…")]
From = Annotated[str, typer.Option("--from", help="No source is stopped before this time: '2026-12-05 22:00'.")]
To = Annotated[str, typer.Option("--to", help="No source is stopped that may not serve again by this time.")]


@app.command()
@api_errors_told()
def plan(  # one parameter per option
    wave: Wave, servers: ServerNames = None, start: From = "", end: To = "", as_json: AsJson = False
) -> None:
    """What a cutover would do: every step with its undo, the downtime to expect, what is in the way. It only reads."""
    run = _run_of(wave, "plan", servers, start, end)
    run.result(PLAN, explained_by=REPORT)
    report = run.xcom(PLAN, "report")
    tell_plan(run, PLAN, report, as_json=as_json)
    if any(not each["goes"] for each in report["servers"]):
        raise typer.Exit(1)


@app.command()
@api_errors_told()
def prepare(
    wave: Wave,
    servers: ServerNames = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take that back: no cutover will come.")] = False,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """Days before: lower TTLs, and make the network interfaces of fixed addresses."""
    run = _run_of(wave, "prepare", servers, "", "", note=note, undo=undo)
    found = run.xcom(PREPARE, "report") or {}
    rows = found.get("servers", ()) if isinstance(found, dict) else ()
    if as_json:
        print_json({"dag_id": run.dag_id, "dag_run_id": run.dag_run_id, "state": run.state, "servers": list(rows)})
    else:
        for each in rows:
            say(f"{each['server']}: {_prepared(each)}")
    run.require_success(REPORT)


def _prepared(each: dict[str, Any]) -> str:
    if each.get("error"):
        return f"failed: {each['error']}"
    if each.get("undone"):
        return "; ".join(filter(None, ["taken back", each.get("words")]))
    after = each.get("switch_after")
    words = [
        f"interface {each['interface']} with {each['address']}" if each.get("interface") else "",
        f"switch it after {typed_time(after).astimezone():%Y-%m-%d %H:%M %Z}" if after else "",
    ]
    return "; ".join(filter(None, words)) or "prepared"


@app.command()
@api_errors_told()
def start(  # noqa: PLR0913  # one parameter per option
    wave: Wave,
    servers: ServerNames = None,
    begin: From = "",
    end: To = "",
    note: Note = "",
    request_id: RequestName = "",
    priority: Annotated[queue.Choice, typer.Option(help=queue.PRIORITY_HELP)] = queue.Choice.NORMAL,
    wait: Waits = False,
    as_json: AsJson = False,
) -> None:
    """Cut servers over: their ids are printed at once. It asks for approval first, unless the wave's file says none."""
    api, more = client(), {"note": note, "request_id": request_id, "priority": priority.value}
    answer = _asked(api, wave, "cutover", servers, begin, end, **more)
    run = CutoversStarted.model_validate(answer)
    tell_run(run, [f"{row.id} {row.server}" for row in run.cutovers], made_before=run.made_before)
    if not wait:
        approve = f"`wavelift cutover approve {wave} {run.dag_run_id}` approves its plan, once it is made"
        leave(answer, [approve, f"`wavelift cutover list --wave {wave}` shows how they get on"], as_json=as_json)
        return
    rows = RunRows(api, CUTOVERS, run, {"wave": wave})
    stop = [f"stop {row.server} alone: wavelift cutover cancel {row.id}" for row in run.cutovers]
    follow(rows, RowsWatch(rows, _line), answer, afterwards=stop, as_json=as_json)


@app.command("list")
@api_errors_told()
def list_(
    wave: Annotated[str, typer.Option(help="Only this wave.")] = "",
    state: Annotated[str, typer.Option(help="Only this state, e.g. switched.")] = "",
    search: Annotated[str, typer.Option(help="Part of an id, server, wave, note, image or instance.")] = "",
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Cutovers: who serves, and how far each is; newest first."""
    asked = {"wave": wave, "state": state, "search": search, "limit": limit}
    CUTOVERS.list_rows(client(), asked, as_json=as_json)


@app.command()
@api_errors_told()
def show(id: Id, as_json: AsJson = False) -> None:
    """Everything about one cutover: its steps with their undo, who serves, times, downtime so far, what to do next."""
    show_one(client().call("GET", path_of("wavelift", "cutovers", id)), CutoverDetails, print_cutover, as_json=as_json)


@app.command()
@api_errors_told()
def approve(wave: Wave, run: RunName) -> None:
    """Approve what a cutover run asks: its plan, or that the way back is given up."""
    _answer(wave, run, "approve")


@app.command()
@api_errors_told()
def reject(wave: Wave, run: RunName) -> None:
    """Reject what a cutover run asks: the run ends, and nothing of it is done."""
    _answer(wave, run, "reject")


def _answer(wave: str, run: str, answer: Literal["approve", "reject"]) -> None:
    path = path_of("wavelift", "waves", wave, "cutovers", run, "approval")
    answer_run(client(), path, answer, {CUTOVER.task_id("approve_finalize"): "that the way back is given up"})


@app.command()
@api_errors_told()
def confirm(id: Id, step: StepName) -> None:
    """Say that what a step asks of a person was done, or undone: what it asks now."""
    confirm_step(client(), path_of("wavelift", "cutovers", id, "confirm"), {"step": step})


@app.command()
@api_errors_told()
def cancel(id: Id) -> None:
    """Go no further with a cutover that is not switched yet."""
    row = CutoverCancelled.model_validate(client().call("POST", path_of("wavelift", "cutovers", id, "cancel")))
    if row.state.terminal:
        say(f"{id} ({row.server}) is cancelled: its source was not touched")
    elif row.state.touched:
        say(f"{id} ({row.server}) stops at its next step; `wavelift cutover show {id}` says how to go back")
    else:
        say(f"{id} ({row.server}) goes no further; it ends when {row.dag_id}, run {row.dag_run_id} comes to it")


@app.command()
@api_errors_told()
def revert(ids: Ids, wait: Waits = True, as_json: AsJson = False) -> None:
    """Go back to the sources: network steps are undone, instances stopped, sources started again."""
    _end(ids, "revert", wait=wait, as_json=as_json)


@app.command()
@api_errors_told()
def finalize(ids: Ids, wait: Waits = True, as_json: AsJson = False) -> None:
    """Give the way back up. It asks for approval first. No source is deleted, no instance changed."""
    _end(ids, "finalize", wait=wait, as_json=as_json)


def _end(ids: Sequence[str], verb: str, *, wait: bool, as_json: bool) -> None:
    """One run for each, so that none waits for another; status 1 when one did not get through."""
    api = client()
    runs = []
    for id in dict.fromkeys(ids):
        known = CutoverRow.model_validate(api.call("GET", path_of("wavelift", "cutovers", id)))
        wake(api, known.dag_id, _none(known.wave, known.dag_id))
        run = CutoverRunStarted.model_validate(api.call("POST", path_of("wavelift", "cutovers", id, verb)))
        tell_user(f"{id} {known.server}: {run.dag_id}, run {run.dag_run_id}")
        runs.append(run)
    done = [ended(api, run, timeout=DAYS_SECONDS) for run in runs if wait]
    bad = [each for each in done if each.state != "success"]
    answers = [api.call("GET", path_of("wavelift", "cutovers", run.cutover.id)) for run in runs]
    if as_json:
        print_json(answers)
    else:
        CUTOVERS.print_rows(answers)
    if bad:
        fail("\n".join(each.why_failed(REPORT) for each in bad))


# Test instances


@app.command("test")
@api_errors_told()
def try_images(  # noqa: PLR0913  # one parameter per option
    wave: Wave,
    servers: Annotated[list[str] | None, typer.Argument(metavar="SERVER", help="Only these.")] = None,
    run_id: Annotated[list[str] | None, typer.Option("--run", help="The image of this recorded run.")] = None,
    hours: Annotated[float | None, typer.Option(help="Until the instances are terminated.")] = None,
    note: Note = "",
    wait: Waits = True,
    as_json: AsJson = False,
) -> None:
    """Launch images where they can reach nothing else, and check them. Status 1 when one did not pass."""
    api, dag_id = client(), TEST.dag_id(wave)
    given = {"servers": servers, "runs": run_id, "hours": hours, "note": note}
    answer = ask(api, dag_id, _none(wave, dag_id), path_of("wavelift", "waves", wave, "tests"), given)
    run = TrialsStarted.model_validate(answer)
    if not wait:
        lists = f"`wavelift cutover tests --wave {wave}` lists them"
        leave(answer, [f"{run.dag_id}, run {run.dag_run_id}: {lists}"], as_json=as_json)
        return
    done = ended(api, run, timeout=DAYS_SECONDS)
    found = api.call("GET", query(TESTS.path, {"wave": wave, "limit": MOST}))["tests"]
    rows = [row for row in found if row["dag_run_id"] == run.dag_run_id]
    tell_result(TESTS, answer, rows, done, as_json=as_json)


@app.command("tests")
@api_errors_told()
def list_trials(
    wave: Annotated[str, typer.Option(help="Only this wave.")] = "",
    state: Annotated[str, typer.Option(help="Only this state, e.g. passed.")] = "",
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Test instances: whether they passed, and when they end; newest first."""
    TESTS.list_rows(client(), {"wave": wave, "state": state, "limit": limit}, as_json=as_json, more=None)


@app.command("end-test")
@api_errors_told()
def end_test(id: Annotated[str, typer.Argument(metavar="ID", help="Id of a test instance: tst-…")]) -> None:
    """Terminate a test instance, and wait until it is gone."""
    api = client()
    run = TrialEnds.model_validate(api.call("POST", path_of("wavelift", "tests", id, "end")))
    ended(api, run).require_success(REPORT)
    say(f"{id} ({run.test.server}) is terminated")


# Runs


def _asked(
    api: ApiClient, wave: str, mode: str, servers: Sequence[str] | None, begin: str, end: str, **more: str | bool
) -> dict[str, Any]:
    dag_id = CUTOVER.dag_id(wave)
    given = {"mode": mode, "servers": servers, **window(begin, end), **more}
    return ask(api, dag_id, _none(wave, dag_id), path_of("wavelift", "waves", wave, "cutovers"), given)


def _run_of(  # what the two modes without cutovers share
    wave: str, mode: str, servers: Sequence[str] | None, begin: str, end: str, **more: str | bool
) -> EndedRun:
    api = client()
    return ended(api, RunStarted.model_validate(_asked(api, wave, mode, servers, begin, end, **more)))


def _none(wave: str, dag_id: str) -> str:
    return (
        f"Airflow has no DAG {dag_id}, or you may not see it: only a wave whose file has a 'cutover' section has one. "
        f"`wavelift wave validate` checks the file of {wave}"
    )


def _line(row: CutoverRow) -> Row:
    if row.step:
        return step_row(row.server, row)
    note = "is being cancelled" if row.cancel_requested and not row.state.terminal else row.error or row.phase
    return Row(row.server, str(row.state), note)
