"""``wavelift replicate`` and ``wavelift runs``: on-demand runs, watched while they go on (SMS-06, AIR-04)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import typer
from rich.console import Console

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.cli.connect import api_errors_told, client, fail, stdout_console, why_run_failed
from wavelift.cli.jobs import print_runs
from wavelift.cli.watch import Row, shown

app = typer.Typer(no_args_is_help=True)
WAIT_SECONDS: Final = 48 * 3600.0
"""A seed of terabytes takes a day; who waits longer looks at the history."""
LOOK_SECONDS: Final = 2.0
REFUSED: Final = 409
MOST: Final = 500
"""Runs a page at most; a wave has fewer servers."""
WAITING: Final = {"Reserved": "waits for admission"}


@api_errors_told()
def replicate(wave: str, servers: list[str] | None, *, wait: bool, unpause: bool, as_json: bool) -> None:
    """Ask for an on-demand run; wait for its end with live progress. Status 1 when refused, or one server failed."""
    api = client()
    if unpause:
        api.unpause(f"{wave}.replicate")
    run = _request(api, wave, servers, as_json=as_json)
    dag_id, run_id = run["dag_id"], run["dag_run_id"]
    names = ", ".join(row["server"] for row in run["runs"])
    told = Console(stderr=True)
    told.print(f"run {run_id} of {dag_id}: {names}", markup=False, highlight=False, soft_wrap=True)
    if not wait:
        _tell(run, as_json=as_json)
        return
    watch = RunsWatch(api, wave, dag_id, run_id)
    # With --json standard output is for the result alone.
    with shown(watch, told if as_json else stdout_console()) as show:
        state = api.wait_for_run(dag_id, run_id, timeout=WAIT_SECONDS, every=show, interval=LOOK_SECONDS)
    rows = watch.runs()
    _tell({**run, "state": state, "runs": rows}, as_json=as_json)
    if state != "success" or not rows or any(row["state"] != "Completed" for row in rows):
        fail(why_run_failed(api, dag_id, run_id, state, "report"))


@app.command()
@api_errors_told()
def cancel(run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a replication run: run-…")]) -> None:
    """Stop a run; its snapshot is removed. It stays counted against the quota unless it had not begun."""
    answer = client().call("POST", f"/wavelift/runs/{run}/cancel")
    if answer["state"] == "Expired":
        print(f"{run} ({answer['server']}) had not begun; it is not counted")
        return
    stopped = ", ".join(answer["stopped_tasks"]) or "no task was active"
    print(f"{run} ({answer['server']}) is being cancelled: {stopped}")


@app.command()
@api_errors_told()
def show(run: Annotated[str, typer.Argument(metavar="RUN")]) -> None:
    """Everything about one run, as JSON."""
    print(json.dumps(client().call("GET", f"/wavelift/runs/{run}"), indent=2))


@dataclass
class RunsWatch:
    """The replication runs of one DAG run, for :func:`wavelift.cli.watch.shown`."""

    api: ApiClient
    wave: str
    dag_id: str
    run_id: str
    clock: Callable[[], float] = time.monotonic

    def runs(self) -> list[dict[str, Any]]:
        """As REST gives them, by server."""
        query = urlencode({"wave": self.wave, "dag_run_id": self.run_id, "limit": MOST})
        return sorted(self.api.call("GET", f"/wavelift/runs?{query}")["runs"], key=lambda row: str(row["server"]))

    def rows(self) -> list[Row]:
        return [self._row(run) for run in self.runs()]

    def _row(self, run: dict[str, Any]) -> Row:
        if run["state"] != "Active":
            return Row(run["server"], run["state"], WAITING.get(run["state"], run["status"]))
        done, total = run["bytes_done"], run["bytes_total"]
        rate = run["rate"] if done < total else 0
        note = "is being cancelled" if run["cancel_requested"] else ""
        return Row(run["server"], run["status"] or run["state"], note, done, total, rate)


def _request(api: ApiClient, wave: str, servers: list[str] | None, *, as_json: bool) -> dict[str, Any]:
    try:
        return dict(api.call("POST", f"/wavelift/waves/{wave}/replications", {"servers": servers or None}))
    except ApiError as error:
        if as_json and error.status == REFUSED:  # a program gets rule and time of each server, not a sentence
            print(json.dumps(error.answer, indent=2))
            raise typer.Exit(1) from None
        fail(f"No wave {wave} that replicates: {error}" if error.status == 404 else str(error))


def _tell(run: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(run, indent=2))
    else:
        print_runs(run["runs"])
