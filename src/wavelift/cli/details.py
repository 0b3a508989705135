"""One migration or one replication run for people: what ``migrations show`` and ``runs show`` print.

The results of tasks are read as plain JSON: rows of other versions lack fields or have more of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from wavelift.base.units import BLOCK, human_bytes, human_offset, human_seconds
from wavelift.cli.output import Times, say, show_facts
from wavelift.cli.states import READERS, migration_state, run_state, why
from wavelift.console.answers import MigrationDetails, RunDetails
from wavelift.rules.flows import CONTINUE_FROM, MIGRATE
from wavelift.rules.lifecycle import MigrationState

MOST_RANGES: Final = 8
"""Changed ranges of a disk that are shown; --json has all."""
ATTESTED: Final = "attested: AWS accepted every block under its SHA-256; nothing was read back"
Pairs = Iterator[tuple[str, str]]


def print_migration(row: MigrationDetails) -> None:
    """Everything about one migration."""
    times = Times()
    show_facts(f"{row.id}  {row.wave}/{row.server}", _migration(row, times))
    times.tell()


def _migration(row: MigrationDetails, times: Times) -> Pairs:
    disks = _disks(row.export_result)
    yield "state", migration_state(row, times)
    yield "began", times.of(row.created_at)
    yield "ended", _ended(times.of(row.finished_at), row.created_at, row.finished_at)
    yield "size", human_bytes(row.bytes_total) if row.bytes_total else ""
    yield "where", ", ".join(filter(None, (f"connector {row.connector}" if row.connector else "", row.region)))
    stands = "removed" if row.snapshot_state == "removed" else "may stand in vCenter"
    yield "snapshot", f"{row.snapshot_name}: {stands}" if row.snapshot_name else ""
    for disk in disks:
        yield f"disk {disk.get('index')}", "\n".join(_stored(disk))
    yield "proof", proof(row.verify_result, disks, ended=row.state.terminal)
    yield "import", row.import_task_id
    yield "image", "\n".join(filter(None, (row.image_id, *row.snapshot_ids)))
    yield "conversion", "\n".join(conversion(row.conversion_report or ()))
    launched = row.launch_result or {}
    yield "instance", f"{row.instance_id} {launched.get('private_ip') or ''}".strip()
    yield "note", str(launched.get("skipped") or "")
    yield "error", why(row, times)
    yield "DAG run", f"{row.dag_run_id} of {row.dag_id}"
    yield "next", _next(row)


def _next(row: MigrationDetails) -> str:
    again = f"trigger {row.dag_id} again with servers: {row.server}"
    if row.state is MigrationState.FAILED:
        return (
            f"remove the cause, then clear the {CONTINUE_FROM} of {row.server} in that DAG run, with downstream, to go "
            f"on; or {again}"
        )
    if row.state is MigrationState.COMPLETED:
        if not row.instance_id:
            return (
                f"`wavelift migrations launch {row.id}` starts an instance of the image, if the wave's file says that "
                "the source is off (source_power: require_off), or allows a twin"
            )
        return f"check the instance; `wavelift verify {row.id}` compares the image with the source again"
    if row.state is MigrationState.REFUSED:
        return f"remove the cause, then {again}"
    if row.state.terminal:
        return again
    return f"`wavelift migrations cancel {row.id}` stops it"


def _stored(disk: Mapping[str, Any]) -> Iterator[str]:
    boot = ", boot" if disk.get("boot") else ""
    yield f"{disk.get('address')}{boot}, {human_bytes(disk.get('capacity') or 0)}"
    yield (
        f"{human_bytes(disk.get('data_bytes') or 0)} of data, {human_bytes(disk.get('object_bytes') or 0)} stored "
        f"in {human_seconds(disk.get('seconds') or 0)}"
    )
    yield from _read_by(disk)


def _read_by(disk: Mapping[str, Any]) -> Iterator[str]:
    reader, reason = str(disk.get("reader") or ""), str(disk.get("reader_reason") or "")
    if reader:
        yield f"read by: {READERS.get(reader, reader)}{f', because {reason}' if reason else ''}"


def print_run(row: RunDetails) -> None:
    """Everything about one replication run."""
    times = Times()
    show_facts(f"{row.id}  {row.wave}/{row.server}", _run(row, times))
    times.tell()


def _run(row: RunDetails, times: Times) -> Pairs:
    disks = _disks(row.result)
    yield "job", row.job_id
    yield "type", row.type
    yield "state", run_state(row, times)
    yield "asked", f"{times.of(row.requested_at)} by {row.requested_by}"
    yield "scheduled", times.of(row.scheduled_start)
    yield "began", times.of(row.started_at)
    yield "ended", _ended(times.of(row.completed_at), row.started_at, row.completed_at)
    yield "bytes", _moved(row)
    for disk in disks:
        yield f"disk {disk.get('index')}", "\n".join(_replicated(disk))
    yield "proof", proof(row.verified, disks, ended=row.completed_at is not None)
    yield "AMI", f"{row.ami_id}{' (deregistered)' if row.ami_state == 'deregistered' else ''}"
    yield "replaced", "\n".join(str(each.get("snapshot_id")) for each in row.superseded)
    yield "quarantine", row.quarantine
    yield "error", why(row, times)
    yield "DAG run", f"{row.dag_run_id} of {row.dag_id}"
    yield "next", _next_of_run(row)


def _moved(row: RunDetails) -> str:
    read = row.bytes_read or row.bytes_done
    rate = f", {human_bytes(row.rate)}/s" if row.rate else ""
    return f"{human_bytes(read)} read, {human_bytes(row.bytes_sent)} sent{rate}" if read or row.bytes_sent else ""


def _next_of_run(row: RunDetails) -> str:
    again = f"`wavelift replicate {row.wave} --server {row.server}`"
    if row.state == "Failed":
        return (
            f"remove the cause, then clear the {CONTINUE_FROM} of {row.server} in that DAG run, with downstream, to go "
            f"on (a server that the pre-flight refused has none); or start a new run: {again}"
        )
    if row.state in ("Refused", "Cancelled", "Expired"):
        return f"{again} asks again"
    if row.state in ("Active", "Reserved"):
        return f"`wavelift runs cancel {row.id}` stops it"
    if row.state == "Completed":
        return f"`wavelift verify {row.id}` reads its EBS snapshots back, whole"
    return ""


def _replicated(disk: Mapping[str, Any]) -> Iterator[str]:
    lineage = disk.get("lineage") or {}
    boot = ", boot" if disk.get("boot") else ""
    yield f"{lineage.get('address')}{boot}, {human_bytes(lineage.get('capacity') or 0)}"
    reason = disk.get("kind_reason")
    yield f"{disk.get('kind')}{f', because {reason}' if reason else ''}"
    yield (
        f"{human_bytes(disk.get('bytes_read') or 0)} read, {human_bytes(disk.get('bytes_sent') or 0)} sent "
        f"({disk.get('blocks_sent') or 0} blocks) in {human_seconds(disk.get('seconds') or 0)}"
    )
    yield from _read_by(disk)
    if audited := disk.get("blocks_audited"):
        yield f"{audited} blocks that change tracking calls unchanged were read as a check"
    yield str(lineage.get("snapshot_id") or "")


# What both have


def proof(verified: Mapping[str, Any] | None, disks: Sequence[Mapping[str, Any]], *, ended: bool = True) -> str:
    """How far what AWS holds was proven to be the source (invariant 1); empty before anything is stored."""
    if not disks:
        return ""
    level = str((verified or {}).get("level") or "off")
    if verified is None or level == "off":
        return ATTESTED if ended else f"{ATTESTED} yet"
    if (blocks := verified.get("blocks_checked")) is None:
        blocks = -(-int(verified.get("bytes_verified") or 0) // BLOCK)
    word = "proven" if level == "full" else f"sampled {level.removeprefix('sample:')} %"
    found = int(verified.get("mismatches") or 0)
    ends = f"{found} differ" if found else "no difference"
    read = human_bytes(int(verified.get("bytes_read_back") or 0))
    return f"{word}: {blocks} blocks compared, {read} read back, {ends}"


def conversion(report: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What AWS changed on each disk, with sizes and places."""
    for disk in report:
        yield (
            f"disk {disk['index']} ({disk['snapshot_id']}): {disk['blocks_compared']} blocks compared, changed by the "
            f"conversion: {ranges(disk['changed'])}"
        )


def ranges(changed: Sequence[Mapping[str, Any]]) -> str:
    """``512.0 KiB at 1.5 MiB (offset 1572864), …``"""
    told = [f"{human_bytes(part['length'])} at {human_offset(part['offset'])}" for part in changed[:MOST_RANGES]]
    left = changed[MOST_RANGES:]
    if left:
        told.append(f"and {human_bytes(sum(part['length'] for part in left))} in {len(left)} more places (see --json)")
    return ", ".join(told) or "nothing"


def _disks(result: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    return list((result or {}).get("disks") or ())


def _ended(at: str, began: Any, ended: Any) -> str:
    if not at:
        return ""
    return f"{at}, after {human_seconds((ended - began).total_seconds())}" if began else at


def say_verified(result: Mapping[str, Any]) -> None:
    """What the comparison of an image with its manifests found."""
    for words in conversion(result["disks"]):
        say(f"{result['server']} {words}")


def next_after_cancel(id: str) -> str:
    """What a cancelled migration or run does next."""
    kind = "migrations" if id.startswith(MIGRATE.prefix) else "runs"
    return f"its snapshot is removed next; `wavelift {kind} show {id}` says when it has ended"
