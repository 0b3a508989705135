"""The object becomes the export's result, once it was compared with the ledger and with S3: it came by XCom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.errors import ProofError, TamperedError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.instance_export import ExportState
from wavelift.services.dataplane.export_messages import ExportPlan, ExportVerified, ExportWritten
from wavelift.services.dataplane.export_staging import direct_key
from wavelift.services.dataplane.staged_object import difference
from wavelift.services.instance_export.begin import sources_of
from wavelift.services.instance_export.runs import known_of, require_going
from wavelift.services.instance_export.work import made_of, plan_of

OPENED: tuple[str, ...] = ("opened",)
"""Levels of what AWS made: there is no manifest."""
NEXT_STEP = "Clear the run from its first task: the instance is exported again; find out who edited its XComs"


def record(
    ledger: Ledger, access: AwsAccess, written: ExportWritten | None, verified: ExportVerified, ctx: RunContext
) -> InstanceExport:
    """Complete the export. May be called again.

    :param written: what `read` returned; looked at with method ``direct`` alone.
    :raises TamperedError: it is not the object of this export. :raises ProofError: S3 has another object there by now.
    :raises PermanentError: the export was cancelled.
    """
    known = known_of(ledger, ctx)
    if known.state is ExportState.COMPLETED and (known.result or {}).get("version") == verified.version.dump():
        return known
    require_going(known)
    plan = plan_of(known)
    for field, expected, found in _compared(known, plan, written, verified):
        if expected != found:
            raise TamperedError(
                "The object that came by XCom is not that of this export",
                field=field,
                expected=expected,
                found=found,
                next_step=NEXT_STEP,
                server=known.instance_id,
                export=known.id,
            )
    why = _changed(access, known, plan, verified)
    if why:
        raise ProofError(
            f"The exported object was changed after it was verified: {why}",
            object=f"s3://{known.bucket}/{verified.key}",
            export=known.id,
            next_step="Find out who may write to the bucket; then clear the run from its first task",
        )
    return _complete(ledger, known, verified, ctx)


def _changed(access: AwsAccess, known: InstanceExport, plan: ExportPlan, verified: ExportVerified) -> str:
    """What of the object is not as it was when it was verified; empty: nothing."""
    with closing(S3Staging(access, known.bucket)) as s3:
        found = s3.head(verified.key)
    if plan.method == "direct":
        return difference(verified.version, verified.object_bytes, found)
    # AWS stores no checksum of the whole object, so its version and size must do.
    if found is None:
        return "it is gone"
    same = (found.version, found.size) == (verified.version, verified.object_bytes)
    return "" if same else "another object lies there"


def _compared(
    known: InstanceExport, plan: ExportPlan, written: ExportWritten | None, verified: ExportVerified
) -> Iterator[tuple[str, object, object]]:
    """What must be the same: field, as the ledger knows it, as it came."""
    key = direct_key(plan) if plan.method == "direct" else known.object_key
    yield "verified.export", known.id, verified.export
    yield "verified.bucket", known.bucket, verified.bucket
    yield "verified.key", key, verified.key
    if plan.method != "direct":
        yield "verified.level", OPENED[0], verified.level
        return
    yield "verified.level", plan.verify, verified.level
    if written is None:
        yield "written", "what the task `read` returned", "nothing"
        return
    yield "written.export", known.id, written.export
    yield "written.key", key, written.key
    yield "written.version", verified.version, written.version
    yield "written.object_bytes", verified.object_bytes, written.object_bytes
    due = [(disk.index, disk.snapshot_id, disk.capacity) for disk in sources_of(plan, made_of(known))]
    yield "written.disks", due, [(disk.index, disk.snapshot_id, disk.capacity) for disk in written.disks]


def _complete(ledger: Ledger, known: InstanceExport, verified: ExportVerified, ctx: RunContext) -> InstanceExport:
    with ledger.write(exports.lock_name(known.region, known.instance_id)) as tx:
        now = exports.get(tx, known.id, lock=True)
        require_going(now)
        at = ctx.clock.now()
        if now.state is ExportState.ACTIVE:  # of method direct nobody knew before that the object stands
            phase = "the object stands in S3, and was compared"
            now = exports.apply(tx, now, "exported", at=at, by=ctx.run, state=ExportState.VERIFYING, phase=phase)
        return exports.note_time(
            tx,
            now,
            "completed",
            at=at,
            by=ctx.run,
            state=ExportState.COMPLETED,
            phase="",
            percent=100,
            error="",
            object_key=verified.key,
            object_bytes=verified.object_bytes,
            result=verified.dump(),
        )
