"""What a cutover does to a source on its connector's queue: stop and fence it, then read its last changes.

All of it needs the grant that the server's ``reserve`` left for stopping the source. None of it reaches the ledger.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowRescheduleException

from wavelift.operators.connector._plane import StoppingOperator
from wavelift.operators.connector.replication import ReplicationRunOperator
from wavelift.operators.connector.snapshot import VmSnapshotOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.services.dataplane.messages import ServerTask

LOOK_SECONDS: Final = 15
"""Until the next look at a guest that takes long. Each look starts a process, which costs seconds of a core."""


class StopSourceOperator(StoppingOperator):
    """Shut the guest of a source down, and fence the source: disconnect its network cards for good.

    Runs on the connector's queue, and holds no worker while a guest takes long: it is rescheduled. A guest that does
    not shut down in time is powered off, or the task fails, as the plan's ``shutdown`` says. Returns a
    :class:`~wavelift.services.dataplane.replication_messages.StoppedSource`.

    :param server: one of the dicts that the pre-flight returned.
    :param reserved: what :class:`ReserveCutoverOperator` returned: it says until when a source may be stopped.
    """

    template_inputs = ("reserved",)
    reserved: Any

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane import grants
        from wavelift.services.dataplane.replication_messages import ReservedRun, StoppedSource
        from wavelift.services.dataplane.source_switch import stop_source

        reserved = ReservedRun.load(self.reserved)
        with self.vcenter(task.plan.connection) as session:
            assert self._grant is not None  # nothing was opened without it
            grants.verify_source(session, self._grant, task.facts.moref, task.plan.selector.value)
            found = stop_source(session, task, reserved, self.server_context(context, task.name))
        if isinstance(found, StoppedSource):
            return found.dump()
        self.log.info("%s: %s", task.name, found.words)
        raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=LOOK_SECONDS))


class CutoverSnapshotOperator(StoppingOperator, VmSnapshotOperator):
    """Take this run's snapshot of a stopped source; as :class:`VmSnapshotOperator`.

    :param server: one of the dicts that the pre-flight returned.
    """

    plain_inputs = ("replicates",)
    replicates: bool = True


class FinalRunOperator(StoppingOperator, ReplicationRunOperator):
    """Send a stopped source's last changes into EBS snapshots; as :class:`ReplicationRunOperator`.

    It fails when the source is powered on meanwhile.

    :param server: one of the dicts that the pre-flight returned.
    :param reserved: what :class:`ReserveCutoverOperator` returned.
    :param snapshot: what :class:`CutoverSnapshotOperator` returned.
    """
