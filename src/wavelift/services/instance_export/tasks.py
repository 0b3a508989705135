"""Export tasks of AWS: submitted once, found again, and followed to their end (VIE-04, VIE-05).

CreateInstanceExportTask has no client token. So the intent stands in the ledger before the call, the task carries our
tags, and every try looks for it before it submits. ExportImage has a token besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wavelift.adapters.aws.instance_exports import ExportTask, InstanceExports, TaskState
from wavelift.base.errors import LimitReachedError, PermanentError
from wavelift.rules.instance_export import ExportState
from wavelift.services.dataplane.export_messages import ExportOrder
from wavelift.services.dataplane.remote_task import MAX_UNSEEN
from wavelift.services.instance_export.progress import note
from wavelift.services.instance_export.waits import ForAWhile, ForPlace, ForTask
from wavelift.services.instance_export.work import Work, moment_of

Submit = Callable[[InstanceExports], ExportTask]
SUBMITTED: Final = "submitted"
"""The moment at which AWS named its task."""
FULL: Final = "{active} export tasks are active in account and region, the limit is {limit}"


def advance(work: Work, submit: Submit, *, limit: int, **subject: str) -> ExportOrder | ForTask | ForPlace | ForAWhile:
    """Bring the task one step further; the order for ``verify`` at its end. Never submits a second one.

    :param submit: starts the task; it returns ours if it is there.
    :param limit: active tasks of both APIs in account and region.
    :param subject: ``instance_id`` or ``image_id``: whose tasks are looked at.
    :raises WaveliftError: it ended without an object, also because somebody cancelled it: with AWS's words.
    """
    api = InstanceExports(work.access)
    if not work.known.task_id:
        waits = _begun(work, api, submit, limit, subject)
        if waits is not None:
            return waits
    return _followed(work, api)


def place_for(api: InstanceExports, limit: int) -> ForPlace | None:
    """What must be waited for before a task is submitted; None: there is a place."""
    active = api.count_active()
    return ForPlace(limit, FULL.format(active=active, limit=limit)) if active >= limit else None


def _begun(work: Work, api: InstanceExports, submit: Submit, limit: int, subject: dict[str, str]) -> ForPlace | None:
    tags = work.task_tags
    ours = [one for one in api.find(tags=tags, **subject) if one.carries(tags)]
    if ours:  # its answer was lost
        task = next((one for one in ours if not one.finished), ours[0])
    else:
        work.ctx.cancel.check()
        full = place_for(api, limit)
        if full is not None:
            return full
        try:
            with work.asking():
                task = submit(api)
        except LimitReachedError as error:
            # AWS's limit is lower than ours: only when one of those has ended is it worth asking again. If there is
            # none, other conversions fill it: then nothing tells, and it is asked again after the longest wait.
            return ForPlace(api.count_active(), error.what)
    work.write(SUBMITTED, answered=True, task_id=task.task_id, phase="AWS exports it", percent=0)
    return None


def _followed(work: Work, api: InstanceExports) -> ExportOrder | ForTask | ForAWhile:
    id, plan = work.known.task_id, work.plan
    task = api.describe([id]).get(id)
    if task is None:
        return _unseen(work)
    if work.made.unseen:  # each gap counts alone
        work.write("task_seen", made={"unseen": 0})
    if not task.finished:
        note(work.ledger, work.known, f"AWS: {task.phase}", task.progress or 0, work.ctx.clock)
        return ForTask(id, f"{id} is {task.phase}")
    key = task.object_key(plan.format)
    if task.state is TaskState.COMPLETED:
        if work.known.state is not ExportState.VERIFYING:
            words = "the object stands in S3, and is being opened"
            work.write("exported", state=ExportState.VERIFYING, object_key=key, phase=words, percent=100)
        return work.order(key, instant=moment_of(work.known, "begun"))
    failure = task.failure(instance=plan.instance.instance_id, export=work.known.id)
    if failure.retryable:  # the next try submits another task
        made = {"submission": work.made.submission + 1, "unseen": 0}
        work.write("task_failed", made=made, task_id="", phase="AWS failed inside; it tries again")
    raise failure


def _unseen(work: Work) -> ForAWhile:
    if work.made.unseen >= MAX_UNSEEN:
        raise PermanentError(
            "AWS does not know the export task any more",
            next_step="Clear the run's first task, `admit`, with downstream: it begins anew",
            task=work.known.task_id,
            export=work.known.id,
        )
    work.write("task_unseen", made={"unseen": work.made.unseen + 1})
    return ForAWhile(f"AWS does not show {work.known.task_id} yet")
