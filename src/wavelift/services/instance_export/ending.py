"""What an export made goes again: snapshots and image in every case; of one without result also AWS's task, the upload
and the object (VIE-06, invariants 4 and 5).

Nothing is deleted that does not carry the run's tag, or the name that only this export gives. Who else may name it: of
a snapshot, whoever made an image of it (AWS refuses, and it stays); of the object, nobody before the export has
completed. Of which instant: all attempts of the run that have ended, which is why it comes last in the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.export_sources import ExportSources
from wavelift.adapters.aws.instance_exports import CancelResult, ExportTask, InstanceExports
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.instance_export import ExportState
from wavelift.services.common.report import NOT_FINISHED
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.dataplane.export_staging import discard_export
from wavelift.services.instance_export.begin import direct_key
from wavelift.services.instance_export.messages import Removed
from wavelift.services.instance_export.opening import end_unmade, is_unmade
from wavelift.services.instance_export.progress import note
from wavelift.services.instance_export.tasks import SUBMITTED, SUBMITTING
from wavelift.services.instance_export.waits import ForAWhile, ForTask
from wavelift.services.instance_export.work import Work, is_young, made_of, may_be_hidden, tag_of_run


def remove(
    ledger: Ledger,
    access: AwsAccess,
    known: InstanceExport,
    ctx: RunContext,
    *,
    words: str,
    fence: Callable[[], None],
) -> Removed | ForTask | ForAWhile:
    """Remove what is not the result, and close an export without one. May be called again; what must be waited for, as
    a task that AWS does not cancel any more is waited for before its object goes.

    :param words: what its run's first failed task said.
    :param fence: called before anything is removed: an outlived try must not.
    :raises WaveliftError: something could not be removed: the export stays open until it is.
    """
    made = made_of(known)
    if not known.state.terminal and is_unmade(known):
        _end_unmade(ledger, known, words, ctx)
        return Removed()
    if made.tidy or not made.method:
        return Removed(removed=made.removed, kept=made.kept)
    removed: list[str] = []
    fence()
    sources = ExportSources(access)
    if known.state is not ExportState.COMPLETED:
        if _sources_may_come(known, sources, ctx):
            return ForAWhile("AWS does not show yet what it was told to make")
        waits = _without_result(Work(ledger, access, known, ctx), removed)
        if waits is not None:
            return waits
    gone = sources.remove(tag_of_run(known))
    removed += [f"image {id}" for id in gone.images]
    removed += [f"snapshot {id}" for id in gone.snapshots]
    kept = tuple(f"snapshot {id} stays: {why}" for id, why in gone.kept.items())
    return _close(ledger, known, Removed(removed=tuple(removed), kept=kept), words, ctx)


def _end_unmade(ledger: Ledger, known: InstanceExport, words: str, ctx: RunContext) -> None:
    with ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
        now = exports.get(tx, known.id, lock=True)
        if not now.state.terminal and is_unmade(now):
            said = CANCELLED if now.cancel_requested else words or NOT_FINISHED
            end_unmade(tx, now, said, by=ctx.run, ctx=ctx)


def _sources_may_come(known: InstanceExport, sources: ExportSources, ctx: RunContext) -> bool:
    """Whether EC2 may not show yet what this attempt has told it to make."""
    if not may_be_hidden(known, ctx):
        return False
    made = made_of(known)
    if made.method == "direct":
        return not made.snapshot_ids or len(sources.look(made.snapshot_ids)) < len(made.snapshot_ids)
    return not made.image_id or not sources.shows_image(made.image_id)


def _without_result(work: Work, removed: list[str]) -> ForTask | ForAWhile | None:
    """End AWS's tasks, and delete what they or `read` wrote."""
    plan, access, export = work.plan, work.access, work.known.id
    if plan.method == "direct":
        removed += discard_export(access, plan.place, direct_key(plan), export=export)
        return None
    api = InstanceExports(access)
    tasks = _tasks(api, work.known)
    if (hidden := _unseen(api, tasks, work)) is not None:
        return hidden
    for task in tasks:
        waits = None if task.finished else _ended(api, task)
        if waits is not None:
            note(work.ledger, work.known, waits.words, 0, work.ctx.clock)
            return waits
    keys = {task.task_id: task.object_key(plan.format) for task in tasks}
    removed += [f"task {task.task_id} ({task.status})" for task in tasks]
    if (id := work.known.task_id) and id not in keys:  # AWS has forgotten it, and its object has its name
        keys[id] = work.known.object_key or f"{plan.prefix}{id}.{plan.format}"
    for id, key in keys.items():
        removed += discard_export(access, plan.place, key, export=export, task_id=id)
    return None


def _tasks(api: InstanceExports, known: InstanceExport) -> list[ExportTask]:
    """All that carry the run's tag, of every attempt; and the one that is written down."""
    tag = tag_of_run(known)
    found = {one.task_id: one for one in api.find(tags=tag) if one.carries(tag)}
    if known.task_id and known.task_id not in found:
        found |= api.describe([known.task_id])
    return list(found.values())


def _unseen(api: InstanceExports, tasks: list[ExportTask], work: Work) -> ForAWhile | None:
    """The last submission, if AWS may not show its task yet. To be cancelled, a task need not be shown."""
    known, shown = work.known, {task.task_id for task in tasks}
    if not known.task_id:
        here = any(task.carries(work.task_tags) for task in tasks)
        young = not here and is_young(known, SUBMITTING, work.ctx)
        return ForAWhile("AWS may show a task whose submission had no answer") if young else None
    if known.task_id in shown:
        return None
    accepted = api.cancel(known.task_id).result is not CancelResult.UNKNOWN
    if accepted or is_young(known, SUBMITTED, work.ctx):
        return ForAWhile(f"AWS does not show {known.task_id} yet")
    return None


def _ended(api: InstanceExports, task: ExportTask) -> ForTask | None:
    """Cancel a task; None: it has ended."""
    outcome = api.cancel(task.task_id)
    if outcome.result in (CancelResult.UNKNOWN, CancelResult.ENDED) or (outcome.task and outcome.task.finished):
        return None
    if outcome.result is CancelResult.TOO_LATE:
        return ForTask(task.task_id, f"AWS writes the final image of {task.task_id}; the object goes when it has ended")
    return ForTask(task.task_id, f"AWS cancels {task.task_id}")


def _close(ledger: Ledger, known: InstanceExport, gone: Removed, words: str, ctx: RunContext) -> Removed:
    with ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
        now = exports.get(tx, known.id, lock=True)
        done = {"tidy": True, "removed": gone.removed, "kept": gone.kept}
        columns: dict[str, Any] = {"made": made_of(now).model_copy(update=done).dump()}
        if not now.state.terminal:
            state = ExportState.CANCELLED if now.cancel_requested else ExportState.FAILED
            error = CANCELLED if now.cancel_requested else words or now.error or NOT_FINISHED
            columns |= {"state": state, "error": error, "phase": "", "object_key": ""}
        exports.note_time(tx, now, "removed", at=ctx.clock.now(), by=ctx.run, **columns)
    return gone
