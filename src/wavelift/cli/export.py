"""``wavelift export …``: EC2 instances to S3 as OVA, VMDK or VHD: check, set up, start, watch, cancel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import typer

from wavelift.airflow.rest import ApiClient, path_of
from wavelift.base.domain import Severity
from wavelift.cli.connect import api_errors_told, client, ended, fail
from wavelift.cli.export_details import print_export, print_exports, print_result, watch_row
from wavelift.cli.family import (
    DAYS_SECONDS,
    Family,
    Note,
    RequestName,
    RowsWatch,
    RunRows,
    Waits,
    Yes,
    ask,
    leave,
    require_yes,
    show_one,
    tell_run,
    watched,
)
from wavelift.cli.findings import print_blocks, print_verdict
from wavelift.cli.local_time import typed_time
from wavelift.cli.output import AsJson, Limit, Offset, print_json, say, tell_more
from wavelift.console.answers import EnvironmentList
from wavelift.console.export_answers import ExportCancelled, ExportDetails, ExportPage, ExportRow, ExportStarted
from wavelift.rules.authority import Action
from wavelift.rules.flows import EXPORT, REPORT

app = typer.Typer(no_args_is_help=True)
EXPORTS: Final = Family(
    "/wavelift/exports",
    "exports",
    ExportPage,
    ExportRow,
    print_exports,
    words="instance exports of the last 7 days",
    first="`wavelift export start INSTANCE` begins one; `wavelift export list --all` lists older ones, too",
)
CHECK: Final = EXPORT.task_id("check")
SETUP: Final = EXPORT.task_id("setup")
FOUND: Final = "report"
"""The XCom in which `check` and `setup` leave what they found."""

Instance = Annotated[
    str,
    typer.Argument(metavar="INSTANCE", help="Id of the instance, or of the migration or cutover that made it."),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of an export: exp-…")]
Environment = Annotated[
    str,
    typer.Option(help="Environment of the instance. May be left out when you administer only one that has exports."),
]
Method = Annotated[
    str, typer.Option(help="auto (the first one that can), instance or image (AWS exports), or direct (wavelift does).")
]
Target = Annotated[str, typer.Option(help="Where the machine will run: vmware, citrix or microsoft.")]
Format = Annotated[str, typer.Option("--format", help="ova, vmdk, vhd or raw. Without: what suits the target.")]
Prefix = Annotated[str, typer.Option(help="Begins the object's key, after the environment's; a folder ends with '/'.")]
MayReboot = Annotated[bool, typer.Option("--may-reboot", help="The instance may be restarted for the export.")]
Controller = Annotated[
    str, typer.Option(help="Disk controller in an OVA that wavelift writes: lsilogic, pvscsi or sata.")
]
Verify = Annotated[
    str, typer.Option(help="How much of such an OVA is compared with the snapshots: full, or sample:<per cent>.")
]


@app.command()
@api_errors_told()
def start(  # noqa: PLR0913  # one parameter per option
    instance: Instance,
    environment: Environment = "",
    method: Method = "",
    target: Target = "",
    format: Format = "",
    prefix: Prefix = "",
    may_reboot: MayReboot = False,
    controller: Controller = "",
    verify: Verify = "",
    note: Note = "",
    request_id: RequestName = "",
    wait: Waits = True,
    as_json: AsJson = False,
) -> None:
    """Export an instance to S3: its export's id is printed at once, the object's address at the end."""
    api = client()
    wishes = _wishes(method, target, format, prefix, may_reboot=may_reboot, controller=controller, verify=verify)
    environment = _environment(api, environment)
    asked = {"environment": environment, "instance": instance, **wishes, "note": note, "request_id": request_id}
    answer = _asked(api, "/wavelift/exports", asked)
    run = ExportStarted.model_validate(answer)
    assert run.export is not None  # of this mode
    tell_run(run, [f"{run.export.id} {run.export.instance_id}"], made_before=run.made_before)
    if not wait:
        leave(answer, [f"`wavelift export show {run.export.id}` shows how it gets on"], as_json=as_json)
        return
    rows = RunRows(api, EXPORTS, run, {"environment": environment})
    stop = [f"stop it: wavelift export cancel {run.export.id}"]
    done = watched(api, run, RowsWatch(rows, watch_row), afterwards=stop, as_json=as_json, timeout=DAYS_SECONDS)
    found = api.call("GET", path_of("wavelift", "exports", run.export.id))
    if as_json:
        print_json({**answer, "state": done.state, "export": found})
    done.require_success(REPORT)
    if not as_json:
        print_result(ExportDetails.model_validate(found))


@app.command()
@api_errors_told()
def check(  # noqa: PLR0913  # as above
    instance: Instance,
    environment: Environment = "",
    method: Method = "",
    target: Target = "",
    format: Format = "",
    prefix: Prefix = "",
    may_reboot: MayReboot = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Notes, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check bucket and instance, and tell which method an export would take; makes nothing. Status 1: none can."""
    api = client()
    wishes = _wishes(method, target, format, prefix, may_reboot=may_reboot)
    asked = {"environment": _environment(api, environment), "instance": instance, "mode": "check", **wishes}
    run = ended(api, ExportStarted.model_validate(_asked(api, "/wavelift/exports", asked)))
    found = run.xcom(CHECK, FOUND)
    if not isinstance(found, dict):
        fail(run.why_failed(REPORT))
    plan = found.get("plan")
    refused = plan is None or _is_wrong(found)
    if as_json:
        print_json(found)
    else:
        print_blocks(found, verbose=verbose, codes=True)
        ready = [] if refused else [{"name": found["instance_id"]}]
        print_verdict({**found, "servers": ready}, verbose=verbose)
        if plan is not None:
            where = f"s3://{found['bucket']}/{plan['prefix']}"
            say(f"{found['instance_id']}: method {plan['method']} ({plan['why']}); {plan['format']} to {where}")
    if refused:
        raise typer.Exit(1)


@app.command()
@api_errors_told()
def setup(
    environment: Environment = "",
    grant: Annotated[
        bool, typer.Option("--grant", help="Add the two grants that AWS needs to a bucket that is there already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the bucket of an environment's exports, or see that it is right; another one is changed by --grant alone."""
    api = client()
    asked = {"environment": _environment(api, environment), "grant": grant}
    run = ended(api, ExportStarted.model_validate(_asked(api, "/wavelift/exports/setup", asked)))
    found = run.xcom(SETUP, FOUND)
    if not isinstance(found, dict):
        fail(run.why_failed(REPORT))
    if as_json:
        print_json(found)
    else:
        for line in found.get("changed") or ["nothing was changed"]:
            say(f"{found['bucket']}: {line}")
        print_blocks(found, codes=True)
    run.require_success(REPORT)


@app.command("list")
@api_errors_told()
def list_(  # noqa: PLR0913  # as above
    environment: Annotated[str, typer.Option(help="Only this environment.")] = "",
    state: Annotated[str, typer.Option(help="Only this state, e.g. active.")] = "",
    instance: Annotated[str, typer.Option(help="Only of this instance, migration or cutover.")] = "",
    search: Annotated[str, typer.Option(help="Part of an id, instance, key or note.")] = "",
    since: Annotated[str, typer.Option(help="Asked for at this time or later: '2026-12-01 08:00'.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Also those that are older than 7 days.")] = False,
    limit: Limit = 50,
    offset: Offset = 0,
    as_json: AsJson = False,
) -> None:
    """Exports of the last 7 days: state, progress, object and size; newest first."""
    asked = {"environment": environment, "state": state, "instance": instance, "search": search, "limit": limit}
    asked |= {"since": typed_time(since).isoformat() if since else "", "offset": offset}
    family = replace(EXPORTS, words="instance exports") if everything or since else EXPORTS
    family.list_rows(client(), asked, as_json=as_json, more=tell_more, wider={"all": everything})


@app.command("show")
@api_errors_told()
def show_(id: Id, as_json: AsJson = False) -> None:
    """Everything about one export: findings, method and why, what it made, the object, what to do next."""
    show_one(client().call("GET", path_of("wavelift", "exports", id)), ExportDetails, print_export, as_json=as_json)


@app.command()
@api_errors_told()
def cancel(id: Id, yes: Yes = False, as_json: AsJson = False) -> None:
    """End an export whose object is not written yet; what it made is removed. Asks first."""
    api = client()
    known = ExportRow.model_validate(api.call("GET", path_of("wavelift", "exports", id)))
    require_yes(f"Cancel the export of {known.instance_id}, which is {known.state}, and remove what it made?", yes=yes)
    answer = api.call("POST", path_of("wavelift", "exports", id, "cancel"))
    if as_json:
        print_json(answer)
        return
    row = ExportCancelled.model_validate(answer)
    if row.state.terminal:
        say(f"{id} ({row.instance_id}) is cancelled: nothing was made")
    else:
        say(f"{id} ({row.instance_id}) is being cancelled; `wavelift export show {id}` says when all is removed")


def _wishes(method: str, target: str, format: str, prefix: str, **more: str | bool) -> dict[str, str | bool]:
    return {"method": method, "target": target, "format": format, "prefix": prefix, **more}


def _environment(api: ApiClient, given: str) -> str:
    """The environment that was named; else the only one that the caller may export from."""
    if given:
        return given
    found = EnvironmentList.model_validate(api.call("GET", "/wavelift/environments")).environments
    names = [each.name for each in found if each.exports_bucket and Action.ADMINISTER in each.actions]
    if len(names) == 1:
        return names[0]
    if names:
        fail(f"Name the environment of the instance: --environment {' | '.join(names)}")
    fail(
        "You administer no environment that has exports: an administrator adds 'exports' and you, under "
        "'may.administer', to its file"
    )


def _asked(api: ApiClient, path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    environment = given["environment"]
    dag_id = EXPORT.dag_id(environment)
    missing = (
        f"Airflow has no DAG {dag_id}, or you may not see it: an environment has one when its file has 'exports'. "
        f"`wavelift environments show {environment}` shows it"
    )
    return ask(api, dag_id, missing, path, given)


def _is_wrong(found: Mapping[str, Any]) -> bool:
    findings: Iterable[Mapping[str, Any]] = found.get("findings") or ()
    return any(each.get("severity") == Severity.ERROR for each in findings)
