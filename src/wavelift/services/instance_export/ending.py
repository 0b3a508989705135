"""What an export made goes again: snapshots and image in every case; of one without result also AWS's task, the upload
and the object (VIE-06, invariants 4 and 5).

Nothing is deleted that does not carry the run's tag, or the name that only this export gives. Who else may name it: of
a snapshot, whoever made an image of it (AWS refuses, and it stays); of the object, nobody before the export has
completed. Of which instant: all attempts of the run that have ended, which is why it comes last in the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.export_sources import IMAGE_PREFIX, ExportSources
from wavelift.adapters.aws.instance_exports import CancelResult, ExportTask, InstanceExports
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.instance_export import ExportState
from wavelift.services.common.report import NOT_FINISHED
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.dataplane.export_staging import direct_key, discard_export
from wavelift.services.instance_export.messages import Removed
from wavelift.services.instance_export.opening import ended_unmade
from wavelift.services.instance_export.progress import note
from wavelift.services.instance_export.tasks import SUBMITTED
from wavelift.services.instance_export.waits import ForAWhile, ForImage, ForTask
from wavelift.services.instance_export.work import ASKING, is_young, made_of, may_be_hidden, plan_of, tag_of_run

PENDING: Final = "pending"
"""Of an image."""


def remove(
    ledger: Ledger,
    access: AwsAccess,
    known: InstanceExport,
    ctx: RunContext,
    *,
    words: str,
    fence: Callable[[], None],
) -> Removed | ForTask | ForImage | ForAWhile:
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
        waits = _to_come(access, known, ctx) or _without_result(ledger, access, known, ctx, removed)
        if waits is not None:
            return waits
    pending = _pending(access, known)
    if pending is not None:
        return pending
    gone = ExportSources(access).remove(tag_of_run(known))
    removed += [f"image {id}" for id in gone.images]
    removed += [f"snapshot {id}" for id in gone.snapshots]
    kept = tuple(f"snapshot {id} stays: {why}" for id, why in gone.kept.items())
    return _close(ledger, known, Removed(removed=tuple(removed), kept=kept), words, ctx)


def _without_result(
    ledger: Ledger, access: AwsAccess, known: InstanceExport, ctx: RunContext, removed: list[str]
) -> ForTask | ForAWhile | None:
    """End AWS's tasks, and delete what they or `read` wrote."""
    plan = plan_of(known)
    if plan.method == "direct":
        removed += discard_export(access, plan.place, direct_key(plan), export=known.id)
        return None
    api = InstanceExports(access)
    tasks = _tasks(api, known)
    if (hidden := _hidden(api, tasks, known, ctx)) is not None:
        return hidden
    for task in tasks:
        waits = None if task.finished else _ended(api, task)
        if waits is not None:
            note(ledger, known, waits.words, 0, ctx.clock)
            return waits
    for task in tasks:
        removed.append(f"task {task.task_id} ({task.status})")
        key = task.object_key(plan.format)
        removed += discard_export(access, plan.place, key, export=known.id, task_id=task.task_id)
    if known.task_id and known.task_id not in {task.task_id for task in tasks}:  # AWS forgot it, and not its object
        key = known.object_key or f"{plan.prefix}{known.task_id}.{plan.format}"
        removed += discard_export(access, plan.place, key, export=known.id, task_id=known.task_id)
    return None


def _tasks(api: InstanceExports, known: InstanceExport) -> list[ExportTask]:
    """All that carry the run's tag, of every attempt; and the one that is written down."""
    tag = tag_of_run(known)
    found = {one.task_id: one for one in api.find(tags=tag) if one.carries(tag)}
    if known.task_id and known.task_id not in found:
        found |= api.describe([known.task_id])
    return list(found.values())


def _hidden(api: InstanceExports, tasks: list[ExportTask], known: InstanceExport, ctx: RunContext) -> ForAWhile | None:
    """The task whose id AWS told, if it is not shown yet. To be cancelled, it need not be shown."""
    if not known.task_id or known.task_id in {task.task_id for task in tasks}:
        return None
    accepted = api.cancel(known.task_id).result is not CancelResult.UNKNOWN
    if accepted or is_young(known, SUBMITTED, ctx):
        return ForAWhile(f"AWS does not show {known.task_id} yet")
    return None


def _to_come(access: AwsAccess, known: InstanceExport, ctx: RunContext) -> ForAWhile | None:
    """What AWS may show only now: of a call whose answer got lost, or snapshots and an image whose ids it told."""
    if is_young(known, ASKING, ctx):
        return ForAWhile("waits whether AWS shows what it was asked for: its answer was lost")
    made, sources = made_of(known), ExportSources(access)
    if not may_be_hidden(known, ctx):
        return None
    if made.method == "direct":
        shown = len(sources.look(made.snapshot_ids)) == len(made.snapshot_ids)
    else:
        shown = sources.shows_image(made.image_id)
    return None if shown else ForAWhile("waits until AWS shows what it makes")


def _pending(access: AwsAccess, known: InstanceExport) -> ForImage | None:
    """An image that AWS still makes: its snapshots may come after its deregistration, and nobody would remove them."""
    if made_of(known).method != "image":
        return None
    images = Ec2(access).find_ours(tag_of_run(known)).images
    pending = next((one for one in images if one.name.startswith(IMAGE_PREFIX) and one.state == PENDING), None)
    if pending is None:
        return None
    return ForImage(pending.image_id, f"AWS still makes the image {pending.image_id}; it goes when it is there")


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
