"""What an export makes outside, up to the object of AWS or the snapshots that `read` reads.

The intent stands in the ledger before the first call; everything carries the run's tag and its attempt. Each call of
:func:`begin` goes one step further, or says what must be waited for.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.instance_exports import (
    ExportTask,
    ImageExportRequest,
    InstanceExportRequest,
    InstanceExports,
)
from wavelift.base.errors import PermanentError, WaveliftError
from wavelift.base.names import client_token, instant_of
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.instance_export import ExportState
from wavelift.services.dataplane.export_messages import ExportOrder, ExportPlace, ExportPlan, SourceDisk
from wavelift.services.dataplane.export_staging import OVA_SUFFIX
from wavelift.services.instance_export.check import look_again
from wavelift.services.instance_export.opening import attempt_of
from wavelift.services.instance_export.runs import known_of, require_going
from wavelift.services.instance_export.tasks import advance, place_for
from wavelift.services.instance_export.waits import ForImage, ForSnapshots, Waits
from wavelift.services.instance_export.work import Made, Work, made_of

BEGIN_ANEW: Final = "Clear the run's first task, `admit`, with downstream: it begins anew"
_GONE: Final = frozenset({"failed", "error", "invalid", "deregistered"})


def begin(ledger: Ledger, access: AwsAccess, place: ExportPlace, ctx: RunContext) -> ExportOrder | Waits:
    """Bring the export one step further; the order for `read` and `verify` at its end. May be called again.

    :raises PermanentError: the export was cancelled; or bucket or instance allow it no more, before anything was made.
    :raises WaveliftError: AWS ended its task without an object, or could not make an image or a snapshot.
    """
    known = known_of(ledger, ctx)
    require_going(known)
    if not made_of(known).method:
        waits = _intend(ledger, access, known, place, ctx)
        if waits is not None:
            return waits
        known = known_of(ledger, ctx)
    work = Work(ledger, access, known, ctx)
    if work.plan.method == "instance":
        return _instance(work, place)
    return _image(work, place) if work.plan.method == "image" else _direct(work)


def direct_key(plan: ExportPlan) -> str:
    """Of the OVA that method ``direct`` writes."""
    return f"{plan.prefix}{plan.export}{OVA_SUFFIX}"


def sources_of(plan: ExportPlan, made: Made) -> tuple[SourceDisk, ...]:
    """The snapshots of the volumes, in true order."""
    return tuple(
        SourceDisk(index=index, volume_id=volume.volume_id, device=volume.device, snapshot_id=id, capacity=volume.size)
        for index, (volume, id) in enumerate(zip(plan.instance.volumes, made.snapshot_ids, strict=True))
    )


def _intend(
    ledger: Ledger, access: AwsAccess, known: InstanceExport, place: ExportPlace, ctx: RunContext
) -> Waits | None:
    """The point after which something may be outside. Bucket and instance are what they are now, not at the check."""
    plan = look_again(ledger, access, known, place, ctx)
    full = None if plan.method == "direct" else place_for(InstanceExports(access), place.limit)
    if full is not None:
        return full
    made = {"attempt": attempt_of(known), "method": plan.method}
    phase = f"method {plan.method} begins"
    Work(ledger, access, known, ctx).write(
        "begun", made=made, state=ExportState.ACTIVE, plan=plan.dump(), method=plan.method, phase=phase, percent=0
    )
    return None


# AWS exports the instance


def _instance(work: Work, place: ExportPlace) -> ExportOrder | Waits:
    plan = work.plan
    request = InstanceExportRequest(
        instance_id=plan.instance.instance_id,
        target=plan.target,
        format=plan.format,
        bucket=plan.place.bucket,
        prefix=plan.prefix,
        tags=work.task_tags,
        description=_description(work),
    )
    return advance(
        work, lambda api: api.start(request), limit=place.limit, instance_id=plan.instance.instance_id
    )


# AWS exports an image that we make


def _image(work: Work, place: ExportPlace) -> ExportOrder | Waits:
    if not work.known.task_id:
        waits = _made_image(work)
        if waits is not None:
            return waits
    image = work.made.image_id
    return advance(work, partial(_export_image, work), limit=place.limit, image_id=image)


def _export_image(work: Work, api: InstanceExports) -> ExportTask:
    plan, made = work.plan, work.made
    instant = instant_of(made.image_id, f"{made.attempt}.{made.submission}")
    request = ImageExportRequest(
        image_id=made.image_id,
        format=plan.format,
        bucket=plan.place.bucket,
        prefix=plan.prefix,
        client_token=client_token(work.known.run_key, "export-image", instant=instant),
        tags=work.task_tags,
        description=_description(work),
        role_name=plan.place.role,
    )
    return api.export_image(request)


def _description(work: Work) -> str:
    return f"wavelift: export {work.known.id}"
