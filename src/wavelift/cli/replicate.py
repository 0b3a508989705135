"""``wavelift replicate`` and ``wavelift runs``: on-demand runs, watched while they go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from wavelift.airflow.rest import ApiClient, ApiError, path_of
from wavelift.cli.connect import api_errors_told, client, fail, tell_user, wake
from wavelift.cli.details import next_after_cancel, print_run
from wavelift.cli.family import RunRows, show_one, watched
from wavelift.cli.jobs import RUNS
from wavelift.cli.output import AsJson, local_time, print_json, say
from wavelift.cli.watch import Row, Waiting, step_row
from wavelift.console.answers import Problem, ReplicationStarted, RunCancelled, RunDetails, RunRow, RunStarted
from wavelift.console.requests import ReplicateBody
from wavelift.rules.flows import REPLICATE, REPORT

app = typer.Typer(no_args_is_help=True)
WAIT_SECONDS: Final = 48 * 3600.0
"""A seed of terabytes takes a day; who waits longer looks at the history."""
REFUSED: Final = 409
WAITING: Final = {"Reserved": "waits for admission"}


@api_errors_told()
def replicate(wave: str, asked: ReplicateBody, *, wait: bool, unpause: bool, as_json: bool) -> None:
    """Ask for an on-demand run; wait for its end with live progress. Status 1 when refused, or one server failed."""
    api = client()
    if unpause:
        dag_id = REPLICATE.dag_id(wave)
        wake(api, dag_id, f"No wave {wave} that replicates: Airflow has no DAG {dag_id}", asked=True)
    answer = _request(api, wave, asked, as_json=as_json)
    run = ReplicationStarted.model_validate(answer)
    names = ", ".join(row.server for row in run.runs)
    tell_user(f"{run.dag_id}, run {run.dag_run_id}: {names}")
    if not wait:
        _tell(answer, as_json=as_json)
        tell_user(f"`wavelift jobs list --wave {wave}` shows how they get on")
        return
    watch = RunsWatch(api, wave, run.dag_id, run.dag_run_id)
    stop = [f"stop {row.server} alone: wavelift runs cancel {row.id}" for row in run.runs]
    done = watched(api, run, watch, afterwards=stop, as_json=as_json, timeout=WAIT_SECONDS)
    rows = watch.runs()
    _tell({**answer, "state": done.state, "runs": rows}, as_json=as_json)
    if done.state != "success" or not rows or any(row["state"] != "Completed" for row in rows):
        fail(done.why_failed(REPORT))


@app.command()
@api_errors_told()
def cancel(run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a replication run: run-…")]) -> None:
    """Stop a run; its snapshot is removed. It stays counted against the quota unless it had not begun."""
    answer = RunCancelled.model_validate(client().call("POST", path_of("wavelift", "runs", run, "cancel")))
    if answer.state == "Expired":
        say(f"{run} ({answer.server}) had not begun; it is not counted")
        return
    stopped = ", ".join(answer.stopped_tasks) or "no task was active"
    say(f"{run} ({answer.server}) is being cancelled: {stopped}; {next_after_cancel(run)}")


@app.command()
@api_errors_told()
def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a replication run: run-…")], as_json: AsJson = False
) -> None:
    """Everything about one run: disks and how they were read, what was sent, proof, AMI, what to do next."""
    answer = client().call("GET", path_of("wavelift", "runs", run))
    show_one(answer, RunDetails, print_run, as_json=as_json)


@dataclass
class RunsWatch:
    """The replication runs of one DAG run, for :func:`wavelift.cli.watch.shown`."""

    api: ApiClient
    wave: str
    dag_id: str
    run_id: str
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._waiting = Waiting(self.api, self.dag_id, self.run_id, clock=self.clock, servers_shown=True)
        self._last: dict[str, Row] = {}
        """The last step of each server: between two steps it stays shown."""

    def runs(self) -> list[dict[str, Any]]:
        """As REST gives them, by server."""
        run = RunStarted(dag_id=self.dag_id, dag_run_id=self.run_id)
        return RunRows(self.api, RUNS, run, {"wave": self.wave}).answers()

    def rows(self) -> list[Row]:
        """One row per server; one of the run as a whole, when no server is at a step, or what they wait for is long."""
        rows = [RunRow.model_validate(run) for run in self.runs()]
        idle = all(run.step_state in ("", "queued", "scheduled") for run in rows)
        lines = self._waiting.lines() if idle else []
        told = lines and (self._waiting.long or not any(run.step for run in rows))
        return [*([Row("", "; ".join(lines))] if told else []), *map(self._row, rows)]

    def _row(self, run: RunRow) -> Row:
        if run.state != "Active":
            return Row(run.server, run.state, WAITING.get(run.state, run.status))
        rate = run.rate if run.bytes_done < run.bytes_total else 0
        if run.step:
            self._last[run.server] = step_row(run.server, run)
        row = self._last.get(run.server) or Row(run.server, run.status or run.state)
        if run.cancel_requested:
            row = replace(row, note="is being cancelled", failed=None)
        return replace(row, done=run.bytes_done, total=run.bytes_total, rate=rate)


def _request(api: ApiClient, wave: str, asked: ReplicateBody, *, as_json: bool) -> dict[str, Any]:
    try:
        return dict(api.call("POST", path_of("wavelift", "waves", wave, "replications"), asked.model_dump()))
    except ApiError as error:
        if as_json and error.status == REFUSED:  # a program gets rule and time of each server, not a sentence
            print_json(error.answer)
            raise typer.Exit(1) from None
        if error.status == REFUSED and (refusals := _refusals(error.answer)):
            fail("\n".join(["No run was started:", *refusals]))
        fail(f"No wave {wave} that replicates: {error}" if error.status == 404 else str(error))


def _refusals(answer: Any) -> list[str]:
    """Each server's refusal, with its end in local time; empty: the answer names no server."""
    try:
        problem = Problem.model_validate(answer)
    except ValidationError:
        return []
    said = []
    for each in problem.refusals:
        until = f"; not before {local_time(each.until, up=True)}" if each.until else ""
        said.append(f"{each.server}: {each.reason}{until}")
    return said


def _tell(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        RUNS.print_rows(answer["runs"])
