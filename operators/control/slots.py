"""The right to run one transfer on a connector: won before the snapshot, given back after its removal (invariant 8)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException

from wavelift.operators._keys import PLACE_KEY, TRACKING_KEY
from wavelift.operators.control._plane import ControlServerOperator
from wavelift.operators.control._waiting import WaitingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.run import RunContext
    from wavelift.ledger import Ledger
    from wavelift.rules.frozen import FrozenPlan
    from wavelift.rules.grants import MovingScope, Work
    from wavelift.services.common.slots import InQueue
    from wavelift.services.common.wanted import Terms
    from wavelift.services.dataplane.messages import ServerTask


class ReservingOperator(ControlServerOperator, WaitingOperator):
    """What the reservations of all flows share: they wait, deferred, until the server has all slots that it needs.

    From then on the run knows which VM the server is, and which plan it has: no later task takes another.
    """

    reserves = True
    grant_action: Work = "migrate"
    grant_scope: MovingScope = "move"

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.common import frozen

        self._note(task, context)
        with self.ledger() as ledger:
            ctx = self.server_context(context, task.name)
            terms = self.terms(context)
            found = self.reserve(ledger, task, ctx, limit=config.integer("transfers_per_connector"), terms=terms)
            if found is None:
                raise AirflowSkipException(f"{ctx.run_key} has completed: clearing it does nothing")
            kept = frozen.bind(ledger, task, ctx)
        if isinstance(found, dict):
            return found | {"token": self._grant(task, ctx, kept)}
        self.wait_more(found)

    def wait_more(self, found: Any) -> NoReturn:
        """:param found: what :meth:`reserve` returned, which says what must be waited for."""
        self.wait_for_slot(found, soon=True)

    def _grant(self, task: ServerTask, ctx: RunContext, frozen: FrozenPlan) -> str:
        """The server's grant: its slots are won, and what came by XCom was compared with what the run froze."""
        from wavelift.airflow import config
        from wavelift.services.common import grants

        came, key = self.came.plan, config.grant_key_file()
        return grants.move(
            key,
            task,
            came,
            ctx,
            action=self.grant_action,
            frozen=frozen,
            by=self.allowed,
            scope=self.grant_scope,
            before=self.before_snapshot(task),
        )

    def before_snapshot(self, task: ServerTask) -> timedelta:
        """How long the server may take from the grant to its snapshot."""
        return timedelta()

    def _note(self, task: ServerTask, context: Context) -> None:
        """Before anything is asked for: other runs free only what they know for certain to be this server's."""
        ti = context["ti"]
        note = {"name": task.name, "try": self.server.get("try"), "map_index": ti.map_index}
        try:
            ti.xcom_push(key=PLACE_KEY, value=note)
        except AirflowRuntimeError as refused:
            self.log.warning("what this server leaves behind is freed only when its run has ended: %s", refused)

    def reserve(self, ledger: Ledger, task: ServerTask, ctx: RunContext, *, limit: int, terms: Terms) -> Any:
        """Write the intent and ask for the slots; the dict that the task returns once they are won. None: all is done.
        Anything else is what :meth:`wait_more` takes."""
        raise NotImplementedError


class ReleasingOperator(ControlServerOperator):
    """What the releases of all flows share; teardowns that come after the snapshot's removal.

    They take no plan, and give back what the server of their own map index has by the ledger, whatever came by XCom.
    Only then they say that another server came.
    """

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.common import frozen

        named = str(self.server.get("name")) if isinstance(self.server, Mapping) else ""
        with self.ledger() as ledger:
            own = frozen.server_at(ledger, named, self.server_context(context, named))
            removed = self._returned(context, "remove_snapshot", own)
            if own:
                self.release(ledger, self.server_context(context, own), context, removed=removed)
        if own != named:
            raise frozen.other_server(own, named)
        return {"server": own, "snapshot_removed": removed}

    def _returned(self, context: Context, task: str, server: str) -> bool:
        """Whether a sibling succeeded, and for this server."""
        left = self.left_by(context, task)
        return isinstance(left, Mapping) and left.get("server") == server

    def release(self, ledger: Ledger, ctx: RunContext, context: Context, *, removed: bool) -> None:
        """Give the slots back, and note how far the server came."""
        raise NotImplementedError


class ReserveOperator(ReservingOperator):
    """Write the migration's intent row and wait, deferred, until the connector has a free slot (AMP-04).

    Control plane. Continuing a failed server means clearing from this task. Returns the server's name and migration id.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    """

    def reserve(
        self, ledger: Ledger, task: ServerTask, ctx: RunContext, *, limit: int, terms: Terms
    ) -> dict[str, Any] | InQueue:
        from wavelift.services.common.slots import InQueue
        from wavelift.services.migration import reserve as migration

        found = migration.reserve(ledger, task, ctx, limit=limit, terms=terms)
        return found if isinstance(found, InQueue) else {"server": task.name, "migration": found.migration_id}


class ReserveRunOperator(ReservingOperator):
    """Wait, deferred, for a transfer slot, then write the snapshot's intent (AMP-04, invariant 4).

    Control plane. Continuing a failed server means clearing from this task; of a completed one it does nothing. Returns
    a :class:`~wavelift.services.dataplane.replication_messages.ReservedRun`.

    :param server: one of the dicts that :class:`ReplicationPreflightOperator` returned.
    """

    grant_action = "replicate"

    def reserve(
        self, ledger: Ledger, task: ServerTask, ctx: RunContext, *, limit: int, terms: Terms
    ) -> dict[str, Any] | InQueue | None:
        from wavelift.services.dataplane.replication_messages import ReservedRun
        from wavelift.services.replication import reserve as replication

        found = replication.reserve(ledger, task, ctx, limit=limit, terms=terms)
        if isinstance(found, replication.Finished):
            return None
        return found.dump() if isinstance(found, ReservedRun) else found


class ReleaseOperator(ReleasingOperator):
    """Give the transfer slot of a migration back; a teardown that comes after the snapshot's removal.

    :param server: as for :class:`ReserveOperator`.
    """

    def release(self, ledger: Ledger, ctx: RunContext, context: Context, *, removed: bool) -> None:
        from wavelift.services.migration import reserve as migration

        exported = self._returned(context, "export", ctx.server)
        migration.release(ledger, ctx, removed=removed, exported=exported)


class ReleaseRunOperator(ReleasingOperator):
    """Give the transfer slot of a replication run back; a teardown that comes after the snapshot's removal.

    :param server: as for :class:`ReserveRunOperator`.
    """

    def release(self, ledger: Ledger, ctx: RunContext, context: Context, *, removed: bool) -> None:
        from wavelift.services.replication import reserve as replication

        wrong = self.left_by(context, "transfer", TRACKING_KEY) or {}
        distrusted = {int(key): str(why) for key, why in wrong.items() if key.isdecimal()}
        replication.release(ledger, ctx, removed=removed, distrusted=distrusted)
