"""Instance exports for people: the table, all of one, and the line of one that is watched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from wavelift.base.units import human_bytes, human_seconds
from wavelift.cli.cutover_details import moment_lines
from wavelift.cli.output import Times, add_row, say, show, show_facts, table
from wavelift.cli.states import export_state
from wavelift.cli.watch import Row
from wavelift.console.export_answers import ExportDetails, ExportRow
from wavelift.rules.instance_export import CANCELLABLE, ExportState

Pairs = Iterator[tuple[str, str]]
MOMENTS: Final = {
    "admitted": "its run began",
    "checking": "check begun",
    "checked": "checked",
    "refused": "refused by the last check",
    "asking": "AWS was asked; no answer yet",
    "submitted": "task of AWS begun",
    "task_failed": "task of AWS failed, tried again",
    "image_begun": "image asked for",
    "image_made": "image made",
    "snapshots_taken": "snapshots taken",
    "snapshots_failed": "snapshots failed, tried again",
    "exported": "object stands in S3",
    "completed": "completed",
    "cancel_requested": "a person asked to cancel it",
    "removed": "what it made was removed",
}
"""What a moment means; others are shown by their own names."""
OPENED: Final = "opened"
"""The level of what AWS made: there is no manifest to compare it with."""


def print_exports(rows: Sequence[ExportRow]) -> None:
    """Exports as a table, and under it what went wrong."""
    times = Times()
    found = table("id, asked", "instance", "state", "object, size", ids=("id, asked", "instance", "object, size"))
    for row in rows:
        how = " ".join(filter(None, (row.method or row.choice, row.format)))
        add_row(
            found,
            f"{row.id}\n{times.of(row.requested_at)}",
            f"{row.instance_id}\n{row.environment}",
            f"{export_state(row, times)}\n{how}",
            "\n".join(filter(None, (row.object_key, _size(row.object_bytes)))),
        )
    show(found)
    for row in rows:
        if words := row.error or row.retry_reason:
            say(f"{row.id} {row.instance_id}: {words}")
    times.tell()


def print_export(row: ExportDetails) -> None:
    """Everything about one export."""
    times = Times()
    show_facts(f"{row.id}  {row.instance_id}", _facts(row, times))
    times.tell()


def print_result(row: ExportDetails) -> None:
    """What a completed export made."""
    began = row.times.get("admitted", row.requested_at)
    took = human_seconds((row.finished_at - began).total_seconds()) if row.finished_at else ""
    facts = (
        ("object", row.location),
        ("size", _size(row.object_bytes)),
        ("method", _method(row)),
        ("verified", "\n".join(_verified(row.result))),
        ("took", took),
    )
    show_facts(f"{row.id}  {row.instance_id} is exported", facts)


def watch_row(row: ExportRow) -> Row:
    """How far one is, while its run is watched."""
    return Row(
        row.instance_id,
        export_state(row, Times()),
        row.error,
        done=row.bytes_done or 0,
        total=row.bytes_total or 0,
        rate=row.rate,
    )


def _facts(row: ExportDetails, times: Times) -> Pairs:
    yield "state", export_state(row, times)
    yield "environment", f"{row.environment} (account {row.account}, {row.region})"
    yield "asked", f"{times.of(row.requested_at)} by {row.requested_by}"
    yield "of", row.subject if row.subject != row.instance_id else ""
    yield "note", row.note
    yield "method", _method(row)
    yield "for", ", ".join(filter(None, (row.target, row.format)))
    yield "may reboot", "yes" if row.may_reboot else ""
    for finding in row.findings or ():
        yield str(finding.get("severity")), _finding(finding)
    yield "object", row.location or (f"{row.object_key} in {row.bucket}: it is not there" if row.object_key else "")
    yield "size", _size(row.object_bytes)
    yield "verified", "\n".join(_verified(row.result))
    yield "task", row.task_id
    yield "made", "\n".join(_made(row.made or {}))
    yield "removed", "\n".join(_lines(row.made, "removed"))
    yield "stays", "\n".join(_lines(row.made, "kept"))
    yield "times", "\n".join(moment_lines(row.times, times, MOMENTS))
    yield "error", row.error or row.retry_reason
    yield "DAG run", f"{row.dag_run_id} of {row.dag_id}"
    yield "ended", times.of(row.finished_at)
    yield "next", _next(row)


def _method(row: ExportDetails) -> str:
    if not row.method:
        return f"{row.choice}: it is chosen by the check"
    return f"{row.method}: {row.why}" if row.why else row.method


def _finding(finding: Mapping[str, Any]) -> str:
    what, code, why, do = (str(finding.get(name) or "") for name in ("what", "code", "why", "next_action"))
    lines = (f"{what} [{code}]", f"Why: {why}" if why else "", f"Do: {do}" if do not in ("", "Nothing") else "")
    return "\n".join(filter(None, lines))


def _verified(result: Mapping[str, Any] | None) -> Iterator[str]:
    """How far the object was compared, and what is in it."""
    if not result:
        return
    level = str(result.get("level") or "")
    read = human_bytes(int(result.get("bytes_read_back") or 0))
    if level == OPENED:
        yield f"opened, {read} read; AWS made it, and there is nothing to compare it with"
    else:
        word = "proven" if level == "full" else f"sampled {level.removeprefix('sample:')} %"
        yield f"{word}: {human_bytes(int(result.get('bytes_verified') or 0))} compared, {read} read back, no difference"
    yield from _lines(result, "opened")


def _made(made: Mapping[str, Any]) -> Iterator[str]:
    if made.get("image_id"):
        yield f"image {made['image_id']}"
    for id in _lines(made, "snapshot_ids"):
        yield f"snapshot {id}"


def _lines(found: Mapping[str, Any] | None, name: str) -> list[str]:
    return [str(each) for each in (found or {}).get(name) or ()]


def _size(size: int | None) -> str:
    return human_bytes(size) if size is not None else ""


def _next(row: ExportDetails) -> str:
    if row.state is ExportState.FAILED:
        return (
            f"remove the cause, then clear the task admit in that DAG run, with downstream: it begins anew; or "
            f"`wavelift export start {row.subject} --environment {row.environment}`"
        )
    if row.state is ExportState.CANCELLING:
        return "wait until what it made is removed"
    if row.state in CANCELLABLE:
        return f"`wavelift export cancel {row.id}` stops it"
    return ""
