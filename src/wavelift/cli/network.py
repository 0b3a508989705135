"""``wavelift network …``: plan, start, watch, approve, revert and finish the cutovers of networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal

import typer

from wavelift.airflow.rest import ApiClient, path_of
from wavelift.cli.connect import api_errors_told, client, ended, fail, tell_user, wake
from wavelift.cli.cutover_details import approval_words, asked_of_person, moment_lines, step_lines
from wavelift.cli.family import DAYS_SECONDS, Family, Note, RequestName, ask, leave, show_one, tell_run
from wavelift.cli.output import AsJson, Limit, Times, add_row, print_json, say, show, show_facts, table, told_empty
from wavelift.cli.planned import RunName, StepName, answer_run, confirm_step, tell_plan
from wavelift.console.network_answers import (
    NetworkCutoverDetails,
    NetworkCutoverPage,
    NetworkCutoverRow,
    NetworkCutoverStarted,
    NetworkList,
)
from wavelift.rules.flows import NETWORK, REPORT
from wavelift.rules.network_cutover import NetworkState

app = typer.Typer(no_args_is_help=True)
RECORD: Final = NETWORK.task_id("record")
MOMENTS: Final = {
    "going": "go was given",
    "disconnected": "source disconnected",
    "unextending": "end of the extension ordered",
    "unextended": "extension ended",
    "connected": "destination routes",
    "probed": "probes passed",
    "switched": "soak time begun",
    "failed": "failed",
    "reverting": "way back begun",
    "isolated": "destination disconnected again",
    "extended": "extended again",
    "reconnected": "source routes again",
    "finishing": "way back given up",
}
"""What a moment means."""

Network = Annotated[str, typer.Argument(metavar="NETWORK", help="Name of a network: networks/NETWORK.yaml.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a network's cutover: net-…")]
Waits = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended.")]


@app.command()
@api_errors_told()
def plan(network: Network, as_json: AsJson = False) -> None:
    """What a cutover would do: every step with its undo, and what is in the way. Also the rehearsal: it only reads."""
    api = client()
    run = ended(api, NetworkCutoverStarted.model_validate(_asked(api, network, "plan")))
    report = run.xcom(RECORD, "report")
    if not report:
        fail(run.why_failed(REPORT))
    tell_plan(run, RECORD, report, as_json=as_json)
    if run.state != "success":
        raise typer.Exit(1)


@app.command()
@api_errors_told()
def cutover(
    network: Network, note: Note = "", request_id: RequestName = "", follow: Waits = False, as_json: AsJson = False
) -> None:
    """Move the gateway to the destination. Its id is printed at once; it asks for approval, if the file says so."""
    api = client()
    answer = _asked(api, network, "cutover", note=note, request_id=request_id)
    run = NetworkCutoverStarted.model_validate(answer)
    assert run.cutover is not None  # of this mode
    tell_run(run, [f"{run.cutover.id} {run.cutover.prefix}"], made_before=run.made_before)
    if not follow:
        approve = f"`wavelift network approve {network} {run.dag_run_id}` approves its plan, once it is made"
        leave(answer, [approve, f"`wavelift network show {run.cutover.id}` shows how it gets on"], as_json=as_json)
        return
    _followed(api, run, as_json=as_json)


@app.command()
@api_errors_told()
def revert(id: Id, follow: Waits = True, as_json: AsJson = False) -> None:
    """Go back: the destination is disconnected, the network extended again, the source connected."""
    _end(id, "revert", follow=follow, as_json=as_json)


@app.command()
@api_errors_told()
def finish(id: Id, follow: Waits = True, as_json: AsJson = False) -> None:
    """After the soak time, give the way back up: the source network is deleted. It asks for approval first."""
    _end(id, "finish", follow=follow, as_json=as_json)


@app.command("list")
@api_errors_told()
def list_(
    network: Annotated[str, typer.Option(help="Only this network.")] = "",
    state: Annotated[str, typer.Option(help="Only this state, e.g. switched.")] = "",
    search: Annotated[str, typer.Option(help="Part of an id, network, prefix or note.")] = "",
    files: Annotated[
        bool, typer.Option("--files", help="The networks of the files, with their newest cutover.")
    ] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Cutovers of networks, newest first."""
    if files:
        _list_files(as_json=as_json)
        return
    asked = {"network": network, "state": state, "search": search, "limit": limit}
    CUTOVERS.list_rows(client(), asked, as_json=as_json)


@app.command("show")
@api_errors_told()
def show_(id: Id, as_json: AsJson = False) -> None:
    """Everything about one cutover: its steps with their undo, times, what somebody must know, what to do next."""
    answer = client().call("GET", path_of("wavelift", "network_cutovers", id))
    show_one(answer, NetworkCutoverDetails, print_network_cutover, as_json=as_json)


@app.command()
@api_errors_told()
def approve(network: Network, run: RunName) -> None:
    """Approve what a run asks: its plan, or that the way back is given up."""
    _answer(network, run, "approve")


@app.command()
@api_errors_told()
def reject(network: Network, run: RunName) -> None:
    """Reject what a run asks: the run ends, and nothing of it is done."""
    _answer(network, run, "reject")


@app.command()
@api_errors_told()
def confirm(
    id: Id,
    step: StepName,
    undone: Annotated[bool, typer.Option("--undone", help="On the way back: it is undone.")] = False,
) -> None:
    """Say that what a step asks of a person was done, or undone. Refused if it asks for the opposite now."""
    said = {"step": step, "answer": "undone" if undone else "done"}
    confirm_step(client(), path_of("wavelift", "network_cutovers", id, "confirm"), said)


@app.command()
@api_errors_told()
def cancel(id: Id) -> None:
    """Go no further with a cutover that is not switched yet."""
    row = NetworkCutoverRow.model_validate(client().call("POST", path_of("wavelift", "network_cutovers", id, "cancel")))
    if row.state.terminal:
        say(f"{id} ({row.network}) is cancelled: nothing was touched")
    elif row.state.touched:
        say(f"{id} ({row.network}) stops at its next step; `wavelift network show {id}` says what becomes of it")
    else:
        say(f"{id} ({row.network}) goes no further; it ends when {row.dag_id}, run {row.dag_run_id} comes to it")


def print_network_cutovers(rows: Sequence[NetworkCutoverRow]) -> None:
    """Cutovers as a table, and under it what somebody must know, and what went wrong."""
    times = Times()
    shown = table("id, asked", "network", "state", "run", ids=("id, asked", "run"))
    for row in rows:
        add_row(
            shown,
            f"{row.id}\n{times.of(row.requested_at)}",
            f"{row.network}\n{row.prefix}",
            _state(row),
            row.dag_run_id,
        )
    show(shown)
    for row in rows:
        for words in filter(None, (row.alert, row.error if row.state is not NetworkState.REVERTED else "")):
            say(f"{row.id} {row.network}: {words}")
    times.tell()


CUTOVERS: Final = Family(
    "/wavelift/network_cutovers",
    "cutovers",
    NetworkCutoverPage,
    NetworkCutoverRow,
    print_network_cutovers,
    words="network cutovers",
    first="`wavelift network plan NETWORK` tells what one would do; `wavelift network cutover NETWORK` begins it",
)


def print_network_cutover(row: NetworkCutoverDetails) -> None:
    """Everything about one cutover."""
    times = Times()
    show_facts(f"{row.id}  {row.network}", _facts(row, times))
    times.tell()


def _state(row: NetworkCutoverRow) -> str:
    return f"{row.state}, is being cancelled" if row.cancel_requested and not row.state.terminal else str(row.state)


def _facts(row: NetworkCutoverDetails, times: Times) -> Iterator[tuple[str, str]]:
    yield "alert", row.alert
    yield "state", f"{_state(row)}{f' ({row.phase})' if row.phase else ''}"
    yield "prefix", row.prefix
    yield "asked", f"{times.of(row.requested_at)} by {row.requested_by}"
    yield "note", row.note
    yield "approval", approval_words(row.approval, times)
    yield "steps", "\n".join(step_lines(row.steps, times))
    yield "probed", ", ".join((row.probes or {}).get("passed") or ())
    yield "times", "\n".join(moment_lines(row.times, times, MOMENTS))
    yield "soak", f"until {times.of(row.soak_until)}" if row.soak_until else ""
    yield "error", row.error
    yield "DAG run", f"{row.dag_run_id} of {row.dag_id}"
    yield "revert", row.revert_run
    yield "finish", row.finish_run
    yield "ended", times.of(row.finished_at)
    yield "next", _next(row)


def _next(row: NetworkCutoverDetails) -> str:
    if asked := asked_of_person(row.steps, f"wavelift network confirm {row.id}", undone=" --undone"):
        return asked
    back = f"`wavelift network revert {row.id}` goes back to the source"
    if row.state is NetworkState.WAITING:
        return (
            f"`wavelift network approve {row.network} {row.dag_run_id}` approves the plan, if its run asks; "
            f"`wavelift network cancel {row.id}` gives it up"
        )
    if row.state is NetworkState.SWITCHED:
        return f"{back}; `wavelift network finish {row.id}` gives the way back up, after the soak time"
    if row.state is NetworkState.FAILED:
        return f"remove the cause, then clear order_disconnect in that DAG run, with downstream, to go on; or {back}"
    if row.state is NetworkState.REVERTING:
        return "see its run in mode revert; if it failed, clear order_isolate in it, with downstream"
    if row.state is NetworkState.FINISHING:
        return "see its run in mode finish; if it failed, clear order_finish in it, with downstream"
    return "" if row.state.terminal else f"`wavelift network cancel {row.id}` stops it"


def _list_files(*, as_json: bool) -> None:
    answer = client().call("GET", "/wavelift/networks")
    if as_json:
        print_json(answer)
        return
    rows = NetworkList.model_validate(answer).networks
    if not rows:
        told_empty("networks", "put one into networks/NAME.yaml, and check it with `wavelift wave validate`")
        return
    shown = table("network", "environment", "disconnected by", "newest cutover", ids=("newest cutover",))
    for row in rows:
        newest = f"{row.cutover.id}\n{_state(row.cutover)}" if row.cutover is not None else ""
        name = f"{row.network}\nits file is invalid now" if row.stale else row.network
        add_row(shown, name, row.environment, row.disconnect_by, newest)
    show(shown)


def _answer(network: str, run: str, answer: Literal["approve", "reject"]) -> None:
    path = path_of("wavelift", "networks", network, "cutovers", run, "approval")
    answer_run(client(), path, answer, {NETWORK.task_id("approve_finish"): "that the way back is given up"})


def _end(id: str, verb: str, *, follow: bool, as_json: bool) -> None:
    api = client()
    known = NetworkCutoverRow.model_validate(api.call("GET", path_of("wavelift", "network_cutovers", id)))
    wake(api, known.dag_id, _none(known.network, known.dag_id))
    answer = api.call("POST", path_of("wavelift", "network_cutovers", id, verb))
    run = NetworkCutoverStarted.model_validate(answer)
    tell_user(f"{id} {known.network}: {run.dag_id}, run {run.dag_run_id}")
    if follow:
        _followed(api, run, as_json=as_json)
    elif as_json:
        print_json(answer)


def _followed(api: ApiClient, run: NetworkCutoverStarted, *, as_json: bool) -> None:
    """Until the run has ended; status 1 when it did not get through."""
    assert run.cutover is not None  # mode plan has none, and is not followed
    done = ended(api, run, timeout=DAYS_SECONDS)
    answer = api.call("GET", path_of("wavelift", "network_cutovers", run.cutover.id))
    if as_json:
        print_json(answer)
    else:
        CUTOVERS.print_rows([answer])
    done.require_success(REPORT)


def _asked(api: ApiClient, network: str, mode: str, **more: str) -> dict[str, Any]:
    dag_id = NETWORK.dag_id(network)
    path = path_of("wavelift", "networks", network, "cutovers")
    return ask(api, dag_id, _none(network, dag_id), path, {"mode": mode, **more})


def _none(network: str, dag_id: str) -> str:
    return (
        f"Airflow has no DAG {dag_id}, or you may not see it. `wavelift wave validate` checks the file of {network}, "
        "networks/" + network + ".yaml"
    )
