"""The record of a replication run: the base of the next run (invariant 4)."""

from __future__ import annotations

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.base.domain import ReplicationResult
from wavelift.base.errors import NotFoundError, RemoteJobError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, lineage
from wavelift.ledger import replication_runs as runs
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.services.common.returned import Returned
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.replication.admission import continue_run
from wavelift.services.replication.outcome import record_run
from wavelift.services.replication.reserve import check_wanted, tell


def record(
    ledger: Ledger, access: AwsAccess, task: ServerTask, result: ReplicationResult, ctx: RunContext
) -> tuple[str, ...]:
    """Make the run's disks the base of the next once AWS calls every snapshot completed (invariant 4).

    A run that failed in this task continues when only this task was cleared. The result came by XCom: only what AWS and
    the manifests say as well is recorded.

    :returns: the snapshots that are still pending; empty once it is recorded.
    :raises RemoteJobError: a snapshot ended in error. :raises NotFoundError: it is gone.
    :raises TamperedError: the result is not what this run stored.
    """
    id = runs.run_id(ctx.run_key)
    with ledger.read() as tx:
        known = runs.get(tx, id)
    if known.state.resumable:
        known = continue_run(ledger, id, ctx)
    check_wanted(known)
    wanted = [disk.lineage.snapshot_id for disk in result.disks]
    found = Ec2(access).snapshots(wanted)
    returned = Returned(access, task, ctx.run_key)
    returned.check_snapshots(result, found)
    for disk in result.disks:
        snapshot_id = disk.lineage.snapshot_id
        state = found[snapshot_id].state if snapshot_id in found else "missing"
        if state in ("completed", "pending"):
            continue
        kind = NotFoundError if state == "missing" else RemoteJobError
        raise kind(
            f"The EBS snapshot of {disk.label} is {state}: the run is no base for another",
            server=result.server,
            snapshot=snapshot_id,
            next_step=f"Clear the server's {CONTINUE_FROM} task: it is sent again",
        )
    pending = tuple(each for each in wanted if found[each].state == "pending")
    if not pending:
        with ledger.read() as tx:
            recorded = lineage.read_lineage(tx, known.job_id)
        returned.check_lineage(result, recorded)
        record_run(ledger, id, result, clock=ctx.clock)
        tell(ledger, ctx, "Recorded")
    return pending
