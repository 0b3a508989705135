"""The ``wavelift`` command. Only ``init``, ``simulators``, ``demo``, ``wave validate``, ``grants``, ``iam`` and the
printing of the vCenter role act here; everything that changes state goes through the REST API with the user's login.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wavelift.cli import (
    backup,
    catalog,
    connectors,
    cutover,
    environments,
    events,
    export,
    grants,
    iam,
    jobs,
    live,
    network,
    queue,
    replicate,
    validate,
    wave,
)
from wavelift.cli.output import bear_any_encoding
from wavelift.console.requests import ReplicateBody
from wavelift.rules.flows import MIGRATE

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Waves of VMware virtual machines into Amazon EC2.")
wave.app.command()(validate.validate)
app.add_typer(wave.app, name="wave", help="Check and plan wave specs.")
migrations_app = typer.Typer(no_args_is_help=True, help="Migrations: finished and running.")
app.add_typer(migrations_app, name="migrations")
app.add_typer(catalog.app, name="catalog", help="The catalogue: servers that wavelift found in vCenters.")
app.add_typer(connectors.app, name="connectors", help="Connectors: the workers that read vCenters.")
app.add_typer(environments.app, name="environments", help="Environments: where you may send servers.")
app.add_typer(jobs.app, name="jobs", help="Replication jobs (standing orders to replicate servers) and their history.")
app.add_typer(replicate.app, name="runs", help="Single replication runs.")
app.add_typer(cutover.app, name="cutover", help="Cutovers to EC2 instances, the way back, and test instances.")
app.add_typer(network.app, name="network", help="Cutovers of networks that HCX extended, and the way back.")
app.add_typer(export.app, name="export", help="EC2 instances to S3, as OVA, VMDK or VHD.")
app.add_typer(live.app, name="live", help="Live migrations to another vCenter with VMware HCX.")
app.command()(backup.backup)
app.add_typer(events.app, name="events", help="The audit trail: who did what, and when.")
app.add_typer(grants.app, name="grants", help="The keys that sign what connectors may do. Acts on this machine.")
app.add_typer(queue.app, name="queue", help="Servers that wait for a slot, and who has the slots.")
simulators_app = typer.Typer(no_args_is_help=True, help="Stand-ins for vCenter, AWS, HCX and NSX, on loopback.")
app.add_typer(simulators_app, name="simulators")
app.add_typer(iam.app, name="iam", help="The AWS identities that wavelift needs.")
vsphere_app = typer.Typer(no_args_is_help=True, help="The vCenter role that wavelift needs.")
app.add_typer(vsphere_app, name="vsphere")
out = Console(stderr=True)


@app.callback()
def begin() -> None:
    """Before each command."""
    bear_any_encoding()


@app.command()
def version() -> None:
    """Print the version."""
    from wavelift import __version__

    print(__version__)


@app.command()
def init(
    dags: Annotated[
        Path | None,
        typer.Option(
            help="Copy the DAG files that are missing in this folder, and make waves/, environments/ and networks/."
        ),
    ] = None,
) -> None:
    """Create or upgrade the ledger; print which settings of this Airflow to change, as lines to paste."""
    from wavelift.cli.init import run

    run(out, dags=dags)


@app.command()
def demo(
    exit_when_done: Annotated[
        bool, typer.Option("--exit", envvar="DEMO_EXIT", help="Stop everything when the wave has ended.")
    ] = False,
    fault: Annotated[str, typer.Option(envvar="DEMO_FAULT", help="flip: damage one stored byte before verify.")] = "",
    act: Annotated[
        str,
        typer.Option(
            envvar="DEMO_ACT", help="migrate (three servers), or cutover (one is replicated, cut over, reverted)."
        ),
    ] = "",
) -> None:
    """Run the main job for real: simulated vCenter and AWS, real Airflow, three servers."""
    from wavelift.cli.demo import run

    sys.exit(run(out, exit_when_done=exit_when_done, fault=fault, act=act))


@app.command()
def whoami(as_json: wave.AsJson = False) -> None:
    """Who you are for wavelift: roles, groups, and what is granted to you. Tasks believe the roles that it saw."""
    environments.whoami(as_json=as_json)


@app.command()
def preflight(
    name: wave.WaveName, servers: wave.Servers = None, verbose: wave.Verbose = False, as_json: wave.AsJson = False
) -> None:
    """Check a wave's servers against vCenter and AWS; creates nothing."""
    wave.run_mode(name, "preflight", servers, verbose=verbose, as_json=as_json)


@app.command()
def migrate(  # noqa: PLR0913  # one parameter per option
    name: wave.WaveName,
    servers: wave.Servers = None,
    launch: Annotated[
        str, typer.Option(help="spec (as set in the wave's file), none (image only) or running (launch an instance).")
    ] = "",
    note: Annotated[str, typer.Option(help="Kept with the run.")] = "",
    priority: Annotated[queue.Choice | None, typer.Option(help=queue.PRIORITY_HELP)] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show progress until it has ended.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Migrate a wave's servers: all of them, or those that are named. Their ids are printed at once."""
    from wavelift.cli.migrations import migrate as start

    given = {"servers": servers, "launch": launch, "note": note, "priority": priority and priority.value}
    start(name, {key: value for key, value in given.items() if value}, wait=wait, as_json=as_json)


@app.command("replicate")
def replicate_now(
    name: wave.WaveName,
    servers: wave.Servers = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show progress until it has ended.")] = True,
    unpause: Annotated[bool, typer.Option("--unpause", help="Let Airflow schedule the wave's replication.")] = False,
    priority: Annotated[queue.Choice, typer.Option(help=queue.PRIORITY_HELP)] = queue.Choice.NORMAL,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Replicate servers now, on demand: at most 2 runs per job in 24 hours."""
    asked = ReplicateBody(servers=servers or None, priority=priority.value)
    replicate.replicate(name, asked, wait=wait, unpause=unpause, as_json=as_json)


@app.command()
def cleanup(
    name: Annotated[str, typer.Argument(metavar="WAVE", help="The wave whose vCenter and environment are searched.")],
    dry_run: Annotated[bool, typer.Option("--dry-run/--remove", help="Only list, or remove.")] = True,
) -> None:
    """List or remove objects that carry wavelift's tag or name and belong to no running DAG run."""
    from wavelift.cli.migrations import cleanup as sweep

    sweep(name, dry_run=dry_run)


@app.command()
def verify(
    what: Annotated[str, typer.Argument(metavar="ID", help="Of a migration, a replication run or a job; WAVE/SERVER.")],
    unpause: Annotated[
        bool, typer.Option("--unpause", help="Of a run or job: let Airflow schedule the wave's replication.")
    ] = False,
) -> None:
    """Read back what AWS holds of a migration, a replication run or a job, and compare it with the manifests."""
    from wavelift.cli import jobs, migrations

    if what.startswith(MIGRATE.prefix):
        migrations.verify(what)
    else:
        jobs.verify(what, unpause=unpause)


@migrations_app.command("list")
def migrations_list(
    wave_name: Annotated[str, typer.Option("--wave", help="Only this wave.")] = "",
    state: Annotated[str, typer.Option(help="Only this state, e.g. failed.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """List migrations with id, state, progress, image and instance, newest first."""
    from wavelift.cli.migrations import show_list

    show_list(wave_name, state, limit, as_json=as_json)


@migrations_app.command("show")
def migrations_show(
    migration: str, as_json: Annotated[bool, typer.Option("--json", help="All data as JSON, times in UTC.")] = False
) -> None:
    """Show one migration: state, disks and how they were read, proof, image, conversion, what to do next."""
    from wavelift.cli.migrations import show_migration

    show_migration(migration, as_json=as_json)


@migrations_app.command("cancel")
def migrations_cancel(migration: str) -> None:
    """Stop a queued or active migration and remove its snapshot."""
    from wavelift.cli.migrations import cancel

    cancel(migration)


@migrations_app.command("launch")
def migrations_launch(migration: str) -> None:
    """Launch the instance of a finished import."""
    from wavelift.cli.migrations import launch

    launch(migration)


@simulators_app.command("up")
def simulators_up(
    only: Annotated[
        str, typer.Option(help="Of vcenter, aws, hcx, nsx, separated by commas. Default: vcenter,aws.")
    ] = "",
    state: Annotated[Path | None, typer.Option(help="Folder for their state. Default: a temporary folder.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write all files of a first wave into this folder, and print the next commands.")
    ] = None,
) -> None:
    """Start the simulators in the foreground, print their addresses, stop with Ctrl-C."""
    from wavelift.cli.simulators import up

    up(out, only=only, state=state, write=write)


@vsphere_app.command("role")
def vsphere_role(
    ids_only: Annotated[bool, typer.Option("--ids", help="Print only the privilege ids, one per line.")] = False,
    cutover: Annotated[
        bool, typer.Option("--cutover", help="For an account that also stops sources and disconnects their cards.")
    ] = False,
    hcx: Annotated[
        bool, typer.Option("--hcx", help="For an account of HCX waves and network cutovers only, which only reads.")
    ] = False,
) -> None:
    """Print the privileges of the vCenter role, generated from the calls that wavelift makes."""
    from wavelift.cli.rights import show_role

    show_role(cutover=cutover, hcx=hcx, ids_only=ids_only, out=Console())


@vsphere_app.command("vddk")
def vsphere_vddk(
    folder: Annotated[str, typer.Argument(help="As [wavelift] nbdkit_folder; empty only for the nfc plugin.")] = "",
    plugin: Annotated[str, typer.Option(help="As [wavelift] nbdkit_plugin: vddk or nfc.")] = "vddk",
    nbdkit: Annotated[str, typer.Option(help="Path of nbdkit, if it is not on the PATH.")] = "nbdkit",
    config: Annotated[str, typer.Option(help="VDDK's own configuration file, if any.")] = "",
) -> None:
    """Check whether this connector can read disks through nbdkit (vddk or nfc plugin), and print what is missing."""
    from wavelift.cli.rights import check_vddk

    check_vddk(folder, plugin=plugin, nbdkit=nbdkit, config=config, out=Console())
