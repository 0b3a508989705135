"""Deletes what a failed server left in AWS once its run is over (invariants 4 and 5)."""

from __future__ import annotations

from collections.abc import Collection

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2, Snapshot
from wavelift.base.names import MADE_BY, TAG_RUN, run_hash
from wavelift.rules.plans import ServerPlan
from wavelift.services.dataplane.importing import delete_unused, end_imports
from wavelift.services.dataplane.staging import ServerStaging

REASON = "wavelift: the server's run is over"


def abandon(access: AwsAccess, plan: ServerPlan, run_key: str) -> str:
    """Cancel the server's imports that still run, and delete what it staged. May be called again.

    An image that was made but not compared with its source is no leftover to destroy, nor a result to launch: it gets
    our tags, and words about it are returned; otherwise an empty string. One of an older instant too: a server that was
    cleared and then failed has nothing better.
    """
    images = end_imports(access, run_key, REASON)
    for image_id, snapshot_ids in images.items():
        ours = plan.made_with(run_key)
        Ec2(access).tag_image(image_id, ours, snapshot_ids=snapshot_ids)
    with ServerStaging.of(access, plan, run_key) as staging:
        if not images:
            staging.discard()
            return ""
        # The manifests stay: with them a cleared `compare` can still prove the image.
        staging.abort_uploads()
        staging.delete_disks()
    made = ", ".join(images)
    return f"{plan.server}: image {made} was made but never proven: deregister it, or clear the server"


def abandon_run(access: AwsAccess, run_key: str, *, keep: Collection[str] = ()) -> int:
    """Delete the EBS snapshots that this run wrote and no record holds; how many. May be called again.

    :param keep: ids that a record holds: who calls knows them.
    """
    ours = [one.snapshot_id for one in written_by(access, run_key)]
    return delete_unused(Ec2(access), [id for id in ours if id not in keep])


def written_by(access: AwsAccess, run_key: str) -> list[Snapshot]:
    """The EBS snapshots that a run wrote block by block. Backups of its instances have its tags, and stay."""
    tagged = Ec2(access).snapshots_with({TAG_RUN: run_hash(run_key)})
    return [one for one in tagged if one.description.startswith(MADE_BY)]
