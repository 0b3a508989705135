"""What an export makes outside, up to the object of AWS or the snapshots that `read` reads.

The intent stands in the ledger before the first call; everything carries the run's tag and its attempt. Each call of
:func:`begin` goes one step further, or says what must be waited for.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.export_instance import ExportInstances
from wavelift.adapters.aws.export_sources import ExportSources, SnapshotSet, SnapshotsRequest, image_name
from wavelift.adapters.aws.instance_exports import (
    ExportTask,
    ImageExportRequest,
    InstanceExportRequest,
    InstanceExports,
)
from wavelift.base.errors import NotFoundError, PermanentError, WaveliftError
from wavelift.base.names import client_token, instant_of
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.instance_export import ExportState
from wavelift.services.dataplane.export_messages import ExportOrder, ExportPlace, ExportPlan, SourceDisk
from wavelift.services.dataplane.export_staging import direct_key, run_of
from wavelift.services.instance_export.check import columns_of, look_again
from wavelift.services.instance_export.opening import attempt_of
from wavelift.services.instance_export.progress import note
from wavelift.services.instance_export.runs import known_of, require_going
from wavelift.services.instance_export.tasks import advance, place_for
from wavelift.services.instance_export.waits import ForAWhile, ForImage, ForPlace, ForSnapshots, Waits
from wavelift.services.instance_export.work import (
    IMAGE_BEGUN,
    SHOWN,
    SNAPSHOTS_TAKEN,
    Made,
    Work,
    is_young,
    made_of,
    may_be_hidden,
)

BEGIN_ANEW: Final = "Clear the run's first task, `admit`, with downstream: it begins anew"
AVAILABLE: Final = "available"
BEGUN: Final = "begun"
"""The moment of the last look at bucket and instance."""


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
    if work.plan.method == "direct":
        return _direct(work)
    found = _instance(work, place) if work.plan.method == "instance" else _image(work, place)
    if isinstance(found, ForPlace):
        _note_full(ledger, known, found, ctx)
    return found


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
    checked, plan = look_again(ledger, access, known, place, ctx)
    full = None if plan.method == "direct" else place_for(InstanceExports(access), place.limit)
    if full is not None:
        _note_full(ledger, known, full, ctx)
        return full
    made = {"attempt": attempt_of(known), "method": plan.method}
    phase = f"begins, by method {plan.method}"
    columns = {**columns_of(checked), "state": ExportState.ACTIVE, "phase": phase, "percent": 0}
    Work(ledger, access, known, ctx).write(BEGUN, made=made, **columns)
    return None


def _note_full(ledger: Ledger, known: InstanceExport, full: ForPlace, ctx: RunContext) -> None:
    note(ledger, known, f"waits: {full.words}", 0, ctx.clock)


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
    submit = partial(_start, work, request)
    return advance(work, submit, limit=place.limit, instance_id=plan.instance.instance_id)


def _start(work: Work, request: InstanceExportRequest, api: InstanceExports) -> ExportTask:
    if not is_young(work.known, BEGUN, work.ctx):  # it has waited for a place, maybe for hours
        facts = ExportInstances(work.access).facts(request.instance_id, now=work.ctx.clock.now())
        by_name = work.known.choice == "instance"  # then the person was told what is left out
        found = [volume for volume in facts.volumes if volume.launched or not by_name]
        require_same_volumes(work.plan, [(volume.volume_id, volume.size) for volume in found])
    return api.start(request)


def require_same_volumes(plan: ExportPlan, found: Iterable[tuple[str, int]]) -> None:
    """What is exported has the disks that the plan has.

    :param found: volume id and bytes of each. :raises PermanentError: one was attached, detached or grown meanwhile.
    """
    due, now = {volume.volume_id: volume.size for volume in plan.instance.volumes}, dict(found)
    changes = [f"{id} was attached" for id in sorted(now.keys() - due.keys())]
    changes += [f"{id} was detached" for id in sorted(due.keys() - now.keys())]
    changes += [f"{id} has another size" for id in sorted(due.keys() & now.keys()) if due[id] != now[id]]
    if changes:
        raise PermanentError(
            f"The instance's volumes were changed after it was checked: {', '.join(changes)}",
            next_step=BEGIN_ANEW,
            server=plan.instance.instance_id,
            export=plan.export,
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
    instant = instant_of(made.image_id, _submission(work))
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


def _made_image(work: Work) -> ForImage | ForAWhile | None:
    """The temporary image is there, or what must be waited for."""
    sources, plan = ExportSources(work.access), work.plan
    if not work.made.image_id:
        with work.asking():
            image = sources.make_image(
                plan.instance.instance_id,
                image_name(run_of(plan.export), work.made.attempt),
                reboot=plan.may_reboot,
                tags=work.tags,
                description=f"export {plan.export}",
            )
        phase = f"AWS makes the image {image.image_id}"
        work.write(IMAGE_BEGUN, answered=True, made={"image_id": image.image_id}, phase=phase)
    try:
        image = sources.image(work.made.image_id)  # it fails here if AWS could not make it
    except NotFoundError as error:
        if may_be_hidden(work.known, work.ctx):
            return ForAWhile(f"AWS does not show the image {work.made.image_id} yet")
        raise NotFoundError(
            "The image that is to be exported is gone",
            next_step=BEGIN_ANEW,
            image=work.made.image_id,
            export=work.known.id,
        ) from error
    _shown(work)
    if image.state != AVAILABLE:
        return ForImage(image.image_id, f"AWS makes the image {image.image_id}")
    if work.made.snapshot_ids != image.snapshot_ids:
        seen = sources.look(image.snapshot_ids).values()
        require_same_volumes(plan, [(one.volume_id, one.size) for one in seen])
        work.write("image_made", made={"snapshot_ids": tuple(image.snapshot_ids)}, phase="AWS exports the image next")
    return None


def _direct(work: Work) -> ExportOrder | ForSnapshots | ForAWhile:
    sources, plan = ExportSources(work.access), work.plan
    if not work.made.snapshot_ids:
        work.ctx.cancel.check()
        request = SnapshotsRequest(
            instance_id=plan.instance.instance_id,
            volume_ids=[volume.volume_id for volume in plan.instance.volumes],
            token=client_token(work.known.run_key, "snapshots", instant=_submission(work)),
            tags=work.tags,
            description=f"export {plan.export}",
        )
        with work.asking():
            taken = sources.take(request)
        require_same_volumes(plan, [(one.volume_id, one.size) for one in (*taken.snapshots, *taken.unasked)])
        made = {"snapshot_ids": tuple(one.snapshot_id for one in taken.snapshots), "instant": taken.started}
        work.write(SNAPSHOTS_TAKEN, answered=True, made=made, phase="AWS completes the snapshots")
    found = _present(work, sources)
    if found is None:
        return ForAWhile("AWS does not show the snapshots yet")
    _shown(work)
    try:
        found.check()
    except WaveliftError:  # the next try takes others; these go with the rest
        made = {"submission": work.made.submission + 1, "snapshot_ids": (), "instant": None}
        work.write("snapshots_failed", made=made, phase="AWS could not make a snapshot; it tries again")
        raise
    if not found.completed:
        words = "AWS completes the snapshots"
        note(work.ledger, work.known, words, found.progress, work.ctx.clock)
        return ForSnapshots(work.made.snapshot_ids, words)
    note(work.ledger, work.known, "reads the snapshots next", 0, work.ctx.clock)
    return work.order(direct_key(plan), disks=sources_of(plan, work.made), instant=work.made.instant)


def _present(work: Work, sources: ExportSources) -> SnapshotSet | None:
    """None: they are not shown yet. :raises NotFoundError: somebody deleted a snapshot."""
    ids, seen = work.made.snapshot_ids, sources.look(work.made.snapshot_ids)
    gone = [id for id in ids if id not in seen]
    if gone and may_be_hidden(work.known, work.ctx):
        return None
    if gone or work.made.instant is None:
        raise NotFoundError(
            "A snapshot that the export reads is gone",
            next_step=BEGIN_ANEW,
            snapshot=", ".join(gone),
            export=work.known.id,
        )
    return SnapshotSet(work.made.instant, tuple(seen[id] for id in ids))


def _shown(work: Work) -> None:
    if may_be_hidden(work.known, work.ctx):
        work.write(SHOWN)


def _submission(work: Work) -> str:
    return f"{work.made.attempt}.{work.made.submission}"


def _description(work: Work) -> str:
    return f"wavelift: export {work.known.id}"
