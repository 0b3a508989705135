"""Removes our vSphere snapshot right after the transfer, and on every other way out (invariant 4)."""

from __future__ import annotations

from collections.abc import Callable

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.vsphere import snapshots
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.errors import located
from wavelift.base.names import snapshot_name
from wavelift.base.run import RunContext
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.staging import ServerStaging


def remove_snapshot(
    session: VsphereSession, access: Callable[[], AwsAccess], task: ServerTask, ctx: RunContext
) -> bool:
    """Remove this run's snapshot if it exists, and the uploads that can't be continued without it.

    True when there was a snapshot. Works whatever the tasks before did: the name derives from the run, and nobody else
    takes one of that name. A change id that a lineage keeps of it stays good without it.

    :param access: opens AWS. It is called afterwards: whatever is wrong with AWS, the snapshot goes.
    """
    with located(server=task.name):
        removed = snapshots.remove_snapshot(session, task.facts.moref, snapshot_name(ctx.run_key), cancel=ctx.cancel)
        # A part belongs to one instant: with the snapshot gone its upload can never be finished (invariant 6).
        with ServerStaging.of(access(), task.plan, ctx.run_key) as staging:
            staging.abort_uploads()
    return removed > 0
