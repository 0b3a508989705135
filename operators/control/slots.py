"""The right to run one transfer on a connector: won before the snapshot, given back after its removal (invariant 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException

from wavelift.operators._base import ServerOperator
from wavelift.operators._keys import PLACE_KEY, TRACKING_KEY
from wavelift.operators.control._plane import ControlOperator
from wavelift.operators.control._waiting import WaitingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.run import RunContext
    from wavelift.ledger import Ledger
    from wavelift.services.common.slots import InQueue
    from wavelift.services.dataplane.messages import ServerTask


class ReservingOperator(ServerOperator, WaitingOperator):
    """What the reservations of all flows share: they wait, deferred, until the server has all slots that it needs."""

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config

        self._note(task, context)
        with self.ledger() as ledger:
            ctx = self.server_context(context, task.name)
            found = self.reserve(ledger, task, ctx, config.integer("transfers_per_connector"))
        if isinstance(found, dict):
            return found
        self.wait_for_slot(found, soon=True)

    def _note(self, task: ServerTask, context: Context) -> None:
        """Before anything is asked for: other runs free only what they know for certain to be this server's."""
        ti = context["ti"]
        note = {"name": task.name, "try": self.server.get("try"), "map_index": ti.map_index}
        try:
            ti.xcom_push(key=PLACE_KEY, value=note)
        except AirflowRuntimeError as refused:
            self.log.warning("what this server leaves behind is freed only when its run has ended: %s", refused)

    def reserve(self, ledger: Ledger, task: ServerTask, ctx: RunContext, limit: int) -> dict[str, Any] | InQueue:
        """Write the intent and ask for the slots; what the task returns once they are won."""
        raise NotImplementedError


class ReleasingOperator(ServerOperator, ControlOperator):
    """What the releases of all flows share; teardowns that come after the snapshot's removal."""

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        removed = self.left_by(context, "remove_snapshot") is not None
        with self.ledger() as ledger:
            self.release(ledger, task, context, removed=removed)
        return {"server": task.name, "snapshot_removed": removed}

    def release(self, ledger: Ledger, task: ServerTask, context: Context, *, removed: bool) -> None:
        """Give the slots back, and note how far the server came."""
        raise NotImplementedError


class ReserveOperator(ReservingOperator):
    """Write the migration's intent row and wait, deferred, until the connector has a free slot (AMP-04).

    Control plane. Continuing a failed server means clearing from this task. Returns the server's name and migration id.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    """

    def reserve(self, ledger: Ledger, task: ServerTask, ctx: RunContext, limit: int) -> dict[str, Any] | InQueue:
        from wavelift.services.common.slots import InQueue
        from wavelift.services.migration import reserve as migration

        found = migration.reserve(ledger, task, ctx, limit=limit)
        return found if isinstance(found, InQueue) else {"server": task.name, "migration": found.migration_id}


class ReserveRunOperator(ReservingOperator):
    """Wait, deferred, for a transfer slot, then write the snapshot's intent (AMP-04, invariant 4).

    Control plane. Continuing a failed server means clearing from this task; of a completed one it does nothing. Returns
    a :class:`~wavelift.services.dataplane.replication_messages.ReservedRun`.

    :param server: one of the dicts that :class:`ReplicationPreflightOperator` returned.
    """

    def reserve(self, ledger: Ledger, task: ServerTask, ctx: RunContext, limit: int) -> dict[str, Any] | InQueue:
        from wavelift.services.dataplane.replication_messages import ReservedRun
        from wavelift.services.replication import reserve as replication

        found = replication.reserve(ledger, task, ctx, limit=limit)
        if isinstance(found, replication.Finished):
            raise AirflowSkipException(f"{found.run} has completed: clearing it does nothing")
        return found.dump() if isinstance(found, ReservedRun) else found


class ReleaseOperator(ReleasingOperator):
    """Give the transfer slot of a migration back; a teardown that comes after the snapshot's removal.

    :param server: as for :class:`ReserveOperator`.
    """

    def release(self, ledger: Ledger, task: ServerTask, context: Context, *, removed: bool) -> None:
        from wavelift.services.migration import reserve as migration

        exported = self.left_by(context, "export") is not None
        migration.release(ledger, self.server_context(context, task.name), removed=removed, exported=exported)


class ReleaseRunOperator(ReleasingOperator):
    """Give the transfer slot of a replication run back; a teardown that comes after the snapshot's removal.

    :param server: as for :class:`ReserveRunOperator`.
    """

    def release(self, ledger: Ledger, task: ServerTask, context: Context, *, removed: bool) -> None:
        from wavelift.services.replication import reserve as replication

        wrong = self.left_by(context, "transfer", TRACKING_KEY) or {}
        distrusted = {int(key): why for key, why in wrong.items()}
        replication.release(ledger, self.server_context(context, task.name), removed=removed, distrusted=distrusted)
