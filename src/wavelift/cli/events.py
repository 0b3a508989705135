"""``wavelift events …``: the audit trail: listed, shown for one object, exported under seals, and verified."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import typer

from wavelift.airflow.rest import path_of
from wavelift.base.units import counted
from wavelift.cli.connect import api_errors_told, client, fail, query
from wavelift.cli.exported import SealedFiles, read_file, to_file, to_stdout
from wavelift.cli.local_time import typed_time
from wavelift.cli.output import AsJson, Times, print_json, say, told_empty
from wavelift.console.audit_answers import AnyEventList, EventList, EventRow, SealedNow, SealsChecked
from wavelift.rules.flows import EVERY_FLOW
from wavelift.rules.seals import Difference

IDS: Final = (*(flow.prefix for flow in EVERY_FLOW), "job-")
"""How the ids begin of what has a trail of its own."""
FIRST: Final = "The first one is written when a connector is registered or a wave begins"


class EventCommands(typer.core.TyperGroup):
    """``wavelift events ID`` is ``wavelift events show ID``, as it was before there were other commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not set(args) & set(self.commands) and any(each.startswith(IDS) for each in args):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(no_args_is_help=True, cls=EventCommands)


@app.command("list")
@api_errors_told()
def list_(  # noqa: PLR0913  # one parameter per option
    wave: Annotated[str, typer.Option(help="Only this wave's DAGs and jobs.")] = "",
    dag: Annotated[str, typer.Option(help="Only this DAG, e.g. server_catalog.dc1.")] = "",
    kind: Annotated[str, typer.Option(help="Only this kind of object: migration, slot, connector, …")] = "",
    id: Annotated[str, typer.Option(help="Only this object.")] = "",
    actor: Annotated[str, typer.Option(help="Only what this user, or this DAG run, did.")] = "",
    action: Annotated[str, typer.Option(help="Only this action; its beginning with the dot for several: slot.")] = "",
    since: Annotated[
        str, typer.Option(help="From this time on: '2026-12-01 10:00' in your zone, or with offset.")
    ] = "",
    until: Annotated[str, typer.Option(help="Before this time, written as for --since.")] = "",
    before: Annotated[int, typer.Option(min=0, help="Only events before this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: AsJson = False,
) -> None:
    """The newest events that you may read: who did what to which object, and when; newest first."""
    given = {"wave": wave, "kind": kind, "id": id, "actor": actor, "action": action}
    asked = {**given, "dag_id": dag, "before": before, "limit": limit}
    for name, text in (("since", since), ("until", until)):
        asked[name] = typed_time(text).isoformat() if text else ""
    answer = client().call("GET", query("/wavelift/events", asked))
    if as_json:
        print_json(answer)
        return
    found = AnyEventList.model_validate(answer)
    if not found.events:
        told_empty("events", FIRST, **given, dag=dag, since=since, until=until, before=before)
        return
    times = Times()
    for one in found.events:
        say(_line(one, times, f"{one.object_kind} {one.object_id}"))
    if found.more:
        say(f"There are older ones: --before {found.events[-1].id}")
    times.tell()


@app.command()
@api_errors_told()
def show(
    what: Annotated[str, typer.Argument(metavar="ID", help="Of a migration, a replication job, a run or an export.")],
    limit: Annotated[int, typer.Option(min=1, max=500)] = 200,
    after: Annotated[int, typer.Option(min=0, help="Only events after this number.")] = 0,
    as_json: AsJson = False,
) -> None:
    """The audit trail of a migration, a replication job or a run, oldest first. `events ID` is the same."""
    answer = client().call("GET", query(path_of("wavelift", "events", what), {"limit": limit, "after": str(after)}))
    if as_json:
        print_json(answer)
        return
    events = EventList.model_validate(answer).events
    if not events:
        say(f"No events of {what}{f' after number {after}' if after else ''}")
        return
    times = Times()
    for one in events:
        say(_line(one, times))
    if len(events) == limit:
        say(f"There may be more: --after {events[-1].id}")
    times.tell()


@app.command()
@api_errors_told()
def export(
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="It is made, or continued. Default: standard output.")
    ] = "-",
    after: Annotated[
        int, typer.Option(min=0, help="To standard output: only seals after the one that ends with this event.")
    ] = 0,
) -> None:
    """Seal all events that are older than 10 minutes, and write them with their seals as lines of JSON.

    For administrators: whoever may read Airflow's audit log and change connections. A file that an earlier export
    left is checked and continued, also after a kill.
    """
    api = client()
    if file != "-" and after:
        fail("--after is for standard output only: a file is continued where it ends")
    sealed = SealedNow.model_validate(api.call("POST", "/wavelift/audit/seal"))
    while sealed.more:
        sealed = SealedNow.model_validate(api.call("POST", "/wavelift/audit/seal"))
    done = to_stdout(api, after) if file == "-" else to_file(api, file)
    if done.last is None:
        what = f"no seal after event {after}" if after else "no event is older than 10 minutes"
        typer.echo(f"Nothing to export: {what}", err=True)
        return
    typer.echo(
        f"{counted(done.events, 'event')} under {counted(done.seals, 'seal')}. The last one ends with event "
        f"{done.last.last_event_id} and has the digest {done.last.digest}: keep it, or the file, where nobody who may "
        "write to the ledger can change it",
        err=True,
    )


@app.command()
@api_errors_told()
def verify(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="An exported file. Default: the ledger.")] = "",
    with_ledger: Annotated[
        bool, typer.Option("--with-ledger", help="With FILE: that the ledger has the same seals, and holds them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Compare the sealed events with their seals; the first one that differs is named, and the status is 1.

    Of the ledger: for administrators. Of a file: by the file alone, without login and network.
    """
    kept = SealedFiles(with_digests=with_ledger)
    if file:
        read_file(file, kept)
    elif with_ledger:
        fail("--with-ledger compares a file: name it")
    if file and not with_ledger:
        _tell(kept.told(), None, f"{file}: ", as_json=as_json)
        return
    told, found = _check_ledger(kept)
    _tell(told, found, "", as_json=as_json)


def _check_ledger(kept: SealedFiles) -> tuple[dict[str, Any], Difference | None]:
    """The ledger's own check, page by page, and that it has each of the kept seals."""
    api, after, more = client(), 0, True
    told: dict[str, Any] = {"events": 0, "seals": 0, "last_event_id": 0, "digest": "", "unsealed": 0}
    found: Difference | None = None
    while more and not found:
        page = SealsChecked.model_validate(api.call("GET", f"/wavelift/audit/verify?after={after}"))
        for seal in page.seals:
            after = seal.last_event_id
            found = found or kept.compare(after, seal.digest)
            told |= {"last_event_id": after, "digest": seal.digest}
        told |= {"events": told["events"] + page.events, "seals": told["seals"] + len(page.seals)}
        told["unsealed"] = page.unsealed
        found, more = page.difference or found, page.more
    return told, found or kept.missing()


def _tell(told: dict[str, Any], found: Difference | None, place: str, *, as_json: bool) -> None:
    if as_json:
        print_json({**told, "difference": found.model_dump(mode="json") if found else None})
        if found:
            raise typer.Exit(1)
        return
    if found:
        fail(f"{place}{found.what}")
    if not told["seals"]:
        say(f"{place}Nothing is sealed yet; `wavelift events export FILE` seals what is older than 10 minutes")
        return
    say(f"{place}{counted(told['events'], 'event')} under {counted(told['seals'], 'seal')} are as they were sealed")
    say(f"The last seal ends with event {told['last_event_id']}, digest {told['digest']}")
    if told.get("unsealed"):
        say(f"{counted(told['unsealed'], 'later event')} without a seal yet; `wavelift events export` seals them")


def _line(one: EventRow, times: Times, about: str = "") -> str:
    details = json.dumps(times.told(one.details), ensure_ascii=False) if one.details else ""
    told = f"{one.id} {times.of(one.at)} {one.actor}: {one.action}"
    return " ".join(filter(None, (told, about, details)))
