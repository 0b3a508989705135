"""The vSphere snapshot of one server: taken before the transfer, removed right after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wavelift.airflow.links import VcenterLink
from wavelift.operators._base import WaveliftOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class VmSnapshotOperator(WaveliftOperator):
    """Take this run's snapshot of a server, or find the one that an earlier try took (invariant 4).

    Runs on the connector's queue. Returns a :class:`~wavelift.services.dataplane.messages.TakenSnapshot`.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param replicates: later runs build on this one: ``change_tracking: enable`` of the plan is heeded.
    """

    template_fields: Sequence[str] = ("server",)
    operator_extra_links = (VcenterLink(),)

    def __init__(self, *, server: Any, replicates: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.replicates = replicates

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow.hooks.vsphere import VsphereHook
        from wavelift.services.dataplane.snapshot import take_snapshot

        task = self.server_task(context, self.server)
        with VsphereHook(task.plan.connection).session() as session:
            taken = take_snapshot(session, task, self.server_context(context, task.name), replicates=self.replicates)
        if taken.tracking:
            self.log.info("%s: %s", task.name, taken.tracking)
        context["ti"].xcom_push(key=VcenterLink.key, value=taken.vcenter_link)
        return taken.dump()


class RemoveSnapshotOperator(WaveliftOperator):
    """Remove this run's snapshot of a server, whatever happened before; use it as a teardown.

    Runs on the connector's queue, needs no XCom of the snapshot task (its name derives from the run), and aborts the
    uploads that cannot be continued without the snapshot.

    :param server: as for :class:`VmSnapshotOperator`.
    """

    template_fields: Sequence[str] = ("server",)

    def __init__(self, *, server: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow.hooks.vsphere import VsphereHook
        from wavelift.services.dataplane.snapshot_removal import remove_snapshot

        task = self.server_task(context, self.server)
        access = self.aws(task.plan.target.aws_conn_id, task.plan.target.region)
        with VsphereHook(task.plan.connection).session() as session:
            removed = remove_snapshot(session, access, task, self.server_context(context, task.name))
        return {"server": task.name, "removed": removed}
