"""``wavelift cutover …``: plan, prepare, start, watch, approve, revert and finalize cutovers; test instances."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from wavelift.airflow.rest import ApiClient, path_of
from wavelift.cli import queue
from wavelift.cli.connect import EndedRun, api_errors_told, client, ended, fail, query, wake
from wavelift.cli.cutover_details import print_cutover, print_cutovers, print_tests
from wavelift.cli.local_time import typed_time
from wavelift.cli.output import AsJson, Limit, print_json, say, stdout_console, told_empty
from wavelift.cli.watch import Row, Waiting, shown, step_row, tell, wait
from wavelift.console.answers import RunStarted
from wavelift.console.cutover_answers import (
    CutoverAnswered,
    CutoverCancelled,
    CutoverDetails,
    CutoverPage,
    CutoverRow,
    CutoverRunStarted,
    CutoversStarted,
    StepConfirmed,
    TrialEnds,
    TrialPage,
    TrialRow,
    TrialsStarted,
)
from wavelift.rules.flows import CUTOVER, REPORT, TEST

app = typer.Typer(no_args_is_help=True)
WAIT_SECONDS: Final = 7 * 24 * 3600.0
"""An approval and a window may take days; who waits longer looks at the list."""
LOOK_SECONDS: Final = 2.0
MOST: Final = 500
PLAN: Final = CUTOVER.task_id("plan")
PREPARE: Final = CUTOVER.task_id("prepare")
FIRST: Final = "`wavelift cutover plan WAVE` tells what one would do; `wavelift cutover start WAVE` begins it"
FIRST_TEST: Final = "`wavelift cutover test WAVE` launches the images of a wave where they can reach nothing else"

Wave = Annotated[str, typer.Argument(metavar="WAVE")]
ServerNames = Annotated[
    list[str] | None, typer.Argument(metavar="SERVER", help="Only these. Without: all with a cutover section.")
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a cutover: cut-…")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of cutovers: cut-…")]
From = Annotated[str, typer.Option("--from", help="No source is stopped before this time: '2026-12-05 22:00'.")]
To = Annotated[str, typer.Option("--to", help="No source is stopped that may not serve again by this time.")]
Note = Annotated[str, typer.Option(help="Kept with the run.")]
RequestName = Annotated[str, typer.Option("--request-id", help="Your own name of this request: repeat it safely.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Id of the DAG run that asks.")]
Waits = Annotated[bool, typer.Option("--wait/--no-wait", help="Show progress until it has ended.")]


@app.command()
@api_errors_told()
def plan(  # one parameter per option
    wave: Wave, servers: ServerNames = None, start: From = "", end: To = "", as_json: AsJson = False
) -> None:
    """What a cutover would do: every step with its undo, the downtime to expect, what is in the way. It only reads."""
    run = _run_of(wave, "plan", servers, start, end)
    run.result(PLAN, explained_by=REPORT)
    report = run.xcom(PLAN, "report")
    if as_json:
        print_json(report)
    else:
        for line in str(run.xcom(PLAN, "words") or "").splitlines():
            say(line)
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
    if run.state != "success":
        fail(run.why_failed(REPORT))


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
    follow: Waits = False,
    as_json: AsJson = False,
) -> None:
    """Cut servers over: their ids are printed at once. It asks for approval first, unless the wave's file says none."""
    api, more = client(), {"note": note, "request_id": request_id, "priority": priority.value}
    answer = _asked(api, wave, "cutover", servers, begin, end, **more)
    run = CutoversStarted.model_validate(answer)
    told = Console(stderr=True)
    again = ": this request was made before, nothing was started" if run.made_before else ""
    tell(told, f"{run.dag_id}, run {run.dag_run_id}{again}")
    for row in run.cutovers:
        tell(told, f"{row.id} {row.server}")
    if not follow:
        if as_json:
            print_json(answer)
        tell(told, f"`wavelift cutover approve {wave} {run.dag_run_id}` approves its plan, once it is made")
        tell(told, f"`wavelift cutover list --wave {wave}` shows how they get on")
        return
    state = _watched(api, wave, run, told, as_json=as_json)
    rows = _cutovers(api, wave, run.dag_run_id)
    if as_json:
        print_json({**answer, "state": state, "cutovers": rows})
    else:
        print_cutovers([CutoverRow.model_validate(row) for row in rows])
    if state != "success":
        fail(EndedRun(api, run.dag_id, run.dag_run_id, state).why_failed(REPORT))


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
    answer = client().call("GET", query("/wavelift/cutovers", asked))
    if as_json:
        print_json(answer)
        return
    page = CutoverPage.model_validate(answer)
    if not page.cutovers:
        told_empty("cutovers", FIRST, wave=wave, state=state, search=search)
        return
    print_cutovers(page.cutovers)
    if page.total > len(page.cutovers):
        say(f"{len(page.cutovers)} of {page.total}; raise --limit to see more")


@app.command()
@api_errors_told()
def show(id: Id, as_json: AsJson = False) -> None:
    """Everything about one cutover: its steps with their undo, who serves, times, downtime so far, what to do next."""
    answer = client().call("GET", path_of("wavelift", "cutovers", id))
    if as_json:
        print_json(answer)
    else:
        print_cutover(CutoverDetails.model_validate(answer))


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


def _answer(wave: str, run: str, answer: str) -> None:
    path = path_of("wavelift", "waves", wave, "cutovers", run, "approval")
    given = CutoverAnswered.model_validate(client().call("POST", path, {"answer": answer}))
    did = {"approve": "approved", "reject": "rejected"}[given.answer]
    what = "that the way back is given up" if given.task_id == CUTOVER.task_id("approve_finalize") else "the plan"
    say(f"{given.dag_id}, run {given.dag_run_id}: {given.answered_by} {did} {what}")


@app.command()
@api_errors_told()
def confirm(
    id: Id, step: Annotated[str, typer.Argument(metavar="STEP", help="Name of the step, as `show` prints it.")]
) -> None:
    """Say that what a step asks of a person was done, or undone: what it asks now."""
    answer = client().call("POST", path_of("wavelift", "cutovers", id, "confirm"), {"step": step})
    row = StepConfirmed.model_validate(answer)
    did = "undone" if row.state == "undoing" else "done"
    say(f"{row.cutover}: '{row.name}' is confirmed as {did}")


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
def revert(ids: Ids, follow: Waits = True, as_json: AsJson = False) -> None:
    """Go back to the sources: network steps are undone, instances stopped, sources started again."""
    _end(ids, "revert", follow=follow, as_json=as_json)


@app.command()
@api_errors_told()
def finalize(ids: Ids, follow: Waits = True, as_json: AsJson = False) -> None:
    """Give the way back up. It asks for approval first. No source is deleted, no instance changed."""
    _end(ids, "finalize", follow=follow, as_json=as_json)


def _end(ids: Sequence[str], verb: str, *, follow: bool, as_json: bool) -> None:
    """One run for each, so that none waits for another; status 1 when one did not get through."""
    api, told = client(), Console(stderr=True)
    runs = []
    for id in dict.fromkeys(ids):
        known = CutoverRow.model_validate(api.call("GET", path_of("wavelift", "cutovers", id)))
        wake(api, known.dag_id, _none(known.wave, known.dag_id))
        run = CutoverRunStarted.model_validate(api.call("POST", path_of("wavelift", "cutovers", id, verb)))
        tell(told, f"{id} {known.server}: {run.dag_id}, run {run.dag_run_id}")
        runs.append(run)
    bad = [
        each for each in (ended(api, run, timeout=WAIT_SECONDS) for run in runs if follow) if each.state != "success"
    ]
    answers = [api.call("GET", path_of("wavelift", "cutovers", run.cutover.id)) for run in runs]
    if as_json:
        print_json(answers)
    else:
        print_cutovers([CutoverRow.model_validate(row) for row in answers])
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
    follow: Waits = True,
    as_json: AsJson = False,
) -> None:
    """Launch images where they can reach nothing else, and check them. Status 1 when one did not pass."""
    api, dag_id = client(), TEST.dag_id(wave)
    wake(api, dag_id, _none(wave, dag_id))
    given = {"servers": servers, "runs": run_id, "hours": hours, "note": note}
    body = {key: value for key, value in given.items() if value}
    answer = api.call("POST", path_of("wavelift", "waves", wave, "tests"), body)
    run = TrialsStarted.model_validate(answer)
    if not follow:
        if as_json:
            print_json(answer)
        tell(
            Console(stderr=True),
            f"{run.dag_id}, run {run.dag_run_id}: `wavelift cutover tests --wave {wave}` lists them",
        )
        return
    done = ended(api, run, timeout=WAIT_SECONDS)
    found = api.call("GET", query("/wavelift/tests", {"wave": wave, "limit": MOST}))["tests"]
    rows = [row for row in found if row["dag_run_id"] == run.dag_run_id]
    if as_json:
        print_json({**answer, "state": done.state, "tests": rows})
    elif rows:
        print_tests([TrialRow.model_validate(row) for row in rows])
    if done.state != "success":
        fail(done.why_failed(REPORT))


@app.command("tests")
@api_errors_told()
def list_trials(
    wave: Annotated[str, typer.Option(help="Only this wave.")] = "",
    state: Annotated[str, typer.Option(help="Only this state, e.g. passed.")] = "",
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Test instances: whether they passed, and when they end; newest first."""
    answer = client().call("GET", query("/wavelift/tests", {"wave": wave, "state": state, "limit": limit}))
    if as_json:
        print_json(answer)
        return
    page = TrialPage.model_validate(answer)
    if page.tests:
        print_tests(page.tests)
    else:
        told_empty("test instances", FIRST_TEST, wave=wave, state=state)


@app.command("end-test")
@api_errors_told()
def end_test(id: Annotated[str, typer.Argument(metavar="ID", help="Id of a test instance: tst-…")]) -> None:
    """Terminate a test instance, and wait until it is gone."""
    api = client()
    run = TrialEnds.model_validate(api.call("POST", path_of("wavelift", "tests", id, "end")))
    done = ended(api, run)
    if done.state != "success":
        fail(done.why_failed(REPORT))
    say(f"{id} ({run.test.server}) is terminated")


# Runs


def _asked(
    api: ApiClient, wave: str, mode: str, servers: Sequence[str] | None, begin: str, end: str, **more: str | bool
) -> dict[str, Any]:
    dag_id = CUTOVER.dag_id(wave)
    wake(api, dag_id, _none(wave, dag_id))
    given = {
        "servers": list(servers or ()),
        "window_start": typed_time(begin).isoformat() if begin else "",
        "window_end": typed_time(end).isoformat() if end else "",
        **more,
    }
    body = {"mode": mode, **{key: value for key, value in given.items() if value}}
    return dict(api.call("POST", path_of("wavelift", "waves", wave, "cutovers"), body))


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


def _cutovers(api: ApiClient, wave: str, run_id: str) -> list[dict[str, Any]]:
    asked = {"wave": wave, "dag_run_id": run_id, "limit": MOST}
    found = api.call("GET", query("/wavelift/cutovers", asked))["cutovers"]
    return sorted(found, key=lambda row: str(row["server"]))


def _watched(api: ApiClient, wave: str, run: CutoversStarted, told: Console, *, as_json: bool) -> str:
    # With --json standard output is for the result alone.
    watch = CutoversWatch(api, wave, run.dag_id, run.dag_run_id)
    with shown(watch, told if as_json else stdout_console()) as look:
        return wait(
            api,
            run.dag_id,
            run.dag_run_id,
            timeout=WAIT_SECONDS,
            interval=LOOK_SECONDS,
            show=look,
            afterwards=[f"stop {row.server} alone: wavelift cutover cancel {row.id}" for row in run.cutovers],
        )


@dataclass
class CutoversWatch:
    """The cutovers of one DAG run, for :func:`wavelift.cli.watch.shown`."""

    api: ApiClient
    wave: str
    dag_id: str
    run_id: str
    clock: Callable[[], float] = time.monotonic
    _waiting: Waiting = field(init=False)

    def __post_init__(self) -> None:
        self._waiting = Waiting(self.api, self.dag_id, self.run_id, clock=self.clock, servers_shown=True)

    def rows(self) -> list[Row]:
        """One row per server; one of the run as a whole while tasks of no single server are under way."""
        lines = self._waiting.lines()
        found = [CutoverRow.model_validate(row) for row in _cutovers(self.api, self.wave, self.run_id)]
        return [*([Row("", "; ".join(lines))] if lines else []), *map(self._row, found)]

    @staticmethod
    def _row(row: CutoverRow) -> Row:
        if row.step:
            return step_row(row.server, row)
        note = "is being cancelled" if row.cancel_requested and not row.state.terminal else row.error or row.phase
        return Row(row.server, str(row.state), note)
