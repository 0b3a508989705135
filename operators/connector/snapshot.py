"""The vSphere snapshot of one server: taken before the transfer, removed right after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.airflow.links import VcenterLink
from wavelift.operators._base import ServerOperator
from wavelift.operators.connector._plane import ConnectorOperator, MovingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.rules.grants import Work
    from wavelift.services.dataplane.messages import ServerTask


class VmSnapshotOperator(MovingOperator):
    """Take this run's snapshot of a server, or find the one that an earlier try took (invariant 4).

    Runs on the connector's queue. Returns a :class:`~wavelift.services.dataplane.messages.TakenSnapshot`.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param replicates: later runs build on this one: ``change_tracking: enable`` of the plan is heeded.
    """

    plain_inputs = ("replicates",)
    replicates: bool = False
    operator_extra_links = (VcenterLink(),)

    @property
    def grant_action(self) -> Work:  # type: ignore[override]
        return "replicate" if self.replicates else "migrate"

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane import grants
        from wavelift.services.dataplane.snapshot import take_snapshot

        with self.vcenter(task.plan.connection) as session:
            assert self._grant is not None  # nothing was opened without it
            grants.verify_source(session, self._grant, task.facts.moref, task.plan.selector.value)
            taken = take_snapshot(session, task, self.server_context(context, task.name), replicates=self.replicates)
        if taken.tracking:
            self.log.info("%s: %s", task.name, taken.tracking)
        context["ti"].xcom_push(key=VcenterLink.key, value=taken.vcenter_link)
        return taken.dump()


class RemoveSnapshotOperator(ServerOperator, ConnectorOperator):
    """Remove this run's snapshot of a server, whatever happened before; use it as a teardown.

    Runs on the connector's queue, needs no XCom of the snapshot task (its name derives from the run), and aborts the
    uploads that cannot be continued without the snapshot.

    :param server: as for :class:`VmSnapshotOperator`.
    """

    needs_grant = "nothing"

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.snapshot_removal import remove_snapshot

        target, ctx = task.plan.target, self.server_context(context, task.name)
        with self.vcenter(task.plan.connection) as session:
            removed = remove_snapshot(session, lambda: self.aws_of(target), task, ctx)
        return {"server": task.name, "removed": removed}
