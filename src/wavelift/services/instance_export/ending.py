"""What an export made goes again: snapshots and image in every case; of one without result also AWS's task, the upload
and the object (VIE-06, invariants 4 and 5).

Nothing is deleted that does not carry the run's tag, or the name that only this export gives. Who else may name it: of
a snapshot, whoever made an image of it (AWS refuses, and it stays); of the object, nobody before the export has
completed. Of which instant: all attempts of the run that have ended, which is why it comes last in the run.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

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
from wavelift.services.instance_export.tasks import SUBMITTING
from wavelift.services.instance_export.waits import ForAWhile, ForTask
from wavelift.services.instance_export.work import (
    IMAGE_ASKED,
    SNAPSHOTS_ASKED,
    made_of,
    moment_of,
    plan_of,
    tag_of_run,
)

YOUNG: Final = timedelta(seconds=60)
"""After this, AWS shows what it was asked for, also where the answer was lost."""


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
    if ended_unmade(ledger, known, ctx, words=words):
        return Removed()
    if made.tidy or not made.method:
        return Removed(removed=made.removed, kept=made.kept)
    removed: list[str] = []
    fence()
    if known.state is not ExportState.COMPLETED:
        waits = _without_result(ledger, access, known, ctx, removed)
        if waits is not None:
            return waits
    gone = ExportSources(access).remove(tag_of_run(known))
    removed += [f"image {id}" for id in gone.images]
    removed += [f"snapshot {id}" for id in gone.snapshots]
    kept = tuple(f"snapshot {id} stays: {why}" for id, why in gone.kept.items())
    return _close(ledger, known, Removed(removed=tuple(removed), kept=kept), words, ctx)


def ended_unmade(ledger: Ledger, known: InstanceExport, ctx: RunContext, *, words: str) -> bool:
    """End an export that made nothing; whether it is one. That needs no AWS, so a run that was never admitted may ask.

    :param words: as of :func:`remove`.
    """
    if known.state.terminal or not is_unmade(known):
        return False
    with ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
        now = exports.get(tx, known.id, lock=True)
        if not now.state.terminal and is_unmade(now):
            said = CANCELLED if now.cancel_requested else words or NOT_FINISHED
            end_unmade(tx, now, said, by=ctx.run, ctx=ctx)
    return True


def _without_result(
    ledger: Ledger, access: AwsAccess, known: InstanceExport, ctx: RunContext, removed: list[str]
) -> ForTask | ForAWhile | None:
    """End AWS's tasks, and delete what they or `read` wrote."""
    plan = plan_of(known)
    if _may_show(known, ctx):
        return ForAWhile("waits whether AWS shows snapshots or an image: the answer was lost")
    if plan.method == "direct":
        removed += discard_export(access, plan.place, direct_key(plan), export=known.id)
        return None
    api = InstanceExports(access)
    tasks = _tasks(api, known)
    if not tasks and _may_come(known, ctx):
        return ForAWhile("waits whether AWS shows a task: the answer to its submission was lost")
    for task in tasks:
        waits = None if task.finished else _ended(api, task)
        if waits is not None:
            note(ledger, known, waits.words, 0, ctx.clock)
            return waits
    for task in tasks:
        removed.append(f"task {task.task_id} ({task.status})")
        key = task.object_key(plan.format)
        removed += discard_export(access, plan.place, key, export=known.id, task_id=task.task_id)
    return None


def _tasks(api: InstanceExports, known: InstanceExport) -> list[ExportTask]:
    """All that carry the run's tag, of every attempt; and the one that is written down."""
    tag = tag_of_run(known)
    found = {one.task_id: one for one in api.find(tags=tag) if one.carries(tag)}
    if known.task_id and known.task_id not in found:
        found |= api.describe([known.task_id])
    return list(found.values())


def _may_come(known: InstanceExport, ctx: RunContext) -> bool:
    return not known.task_id and _is_young(known, SUBMITTING, ctx)


def _may_show(known: InstanceExport, ctx: RunContext) -> bool:
    """Whether AWS was just asked for snapshots or an image that nobody wrote down: some may be shown later only."""
    made = made_of(known)
    unanswered = [
        moment for moment, there in ((SNAPSHOTS_ASKED, made.snapshot_ids), (IMAGE_ASKED, made.image_id)) if not there
    ]
    return any(_is_young(known, moment, ctx) for moment in unanswered)


def _is_young(known: InstanceExport, moment: str, ctx: RunContext) -> bool:
    at = moment_of(known, moment)
    return at is not None and ctx.clock.now() - at < YOUNG


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
