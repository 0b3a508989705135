"""What a server that did not get through left in AWS, once its run is over (invariants 4 and 5)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.vmimport import VmImport
from wavelift.base.errors import BusyError
from wavelift.base.names import run_hash, tags
from wavelift.rules.plans import ServerPlan
from wavelift.services.dataplane.staging import ServerStaging

REASON = "wavelift: the server's run is over"


def abandon(access: AwsAccess, plan: ServerPlan, run_key: str, *, import_task_id: str = "") -> str:
    """Cancel the server's import if it still runs, and delete what it staged. May be called again.

    An image that was made but not compared with its source is no leftover to destroy, nor a result to launch: it gets
    our tags, and words about it are returned; otherwise an empty string.
    """
    image_id = _end_import(access, import_task_id) if import_task_id else ""
    if image_id and image_id in Ec2(access).images([image_id]):
        Ec2(access).tag_image(image_id, {**plan.tags, **tags(plan.wave, plan.server, run_key)})
    else:
        image_id = ""
    with ServerStaging.of(access, plan, run_key) as staging:
        staging.discard()
    return f"{plan.server}: image {image_id} was made but never proven: deregister it" if image_id else ""


def _end_import(access: AwsAccess, task_id: str) -> str:
    """The image of the task, if it got that far; a running one is cancelled."""
    imports = VmImport(access)
    status = imports.describe([task_id]).get(task_id)
    if status is not None and not status.finished:
        status = imports.cancel(task_id, REASON).status
    return status.image_id if status is not None and status.finished else ""


def abandon_run(access: AwsAccess, run_key: str, *, keep: Collection[str] = ()) -> int:
    """Delete the EBS snapshots of this run that no record holds; how many. May be called again.

    :param keep: ids that a record holds: who calls knows them.
    """
    ours = Ec2(access).find_ours({"wavelift:run": run_hash(run_key)}).snapshots
    return delete_unused(Ec2(access), [one.snapshot_id for one in ours if one.snapshot_id not in keep])


def delete_unused(ec2: Ec2, snapshot_ids: Iterable[str]) -> int:
    """Delete snapshots but for those that an image stands on: it takes them along when it goes. How many."""
    deleted = 0
    for snapshot_id in snapshot_ids:
        with suppress(BusyError):
            ec2.delete_snapshot(snapshot_id)
            deleted += 1
    return deleted
