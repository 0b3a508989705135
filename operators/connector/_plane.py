"""What operators of the connector's plane add: the vCenter. None of it can reach the ledger."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from wavelift.base.errors import PermanentError
from wavelift.operators._base import ServerOperator, WaveliftOperator, requester_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from airflow.sdk import Context

    from wavelift.adapters.vsphere.session import VsphereSession
    from wavelift.rules.grants import Grant, Intent, Work
    from wavelift.services.dataplane.messages import ServerTask

NEEDS: Final = ("look", "move", "stop", "live", "network", "nothing")
UNTOLD: Final = "default"


class OpensVcenter:
    """Of an operator or sensor near the vCenter: the one place where it is opened."""

    first_contact: bool = False
    """As in :class:`~wavelift.operators._base.OpensAws`: no earlier task of the run has met the vCenter."""

    def vcenter(self, vsphere_conn_id: str) -> AbstractContextManager[VsphereSession]:
        """A session with the vCenter of a connection; logs out at the end of the ``with`` block."""
        from wavelift.airflow.hooks.vsphere import VsphereHook
        from wavelift.rules.preflight_connections import contact

        with contact(first=self.first_contact):
            return VsphereHook(vsphere_conn_id).session()


class ConnectorOperator(OpensVcenter, WaveliftOperator):
    """Base of operators for a connector's queue: vCenter and AWS.

    A class says which grant of the control plane it needs; without a grant that was verified in this try, and for this
    vCenter, :meth:`vcenter` opens nothing.
    """

    needs_grant: ClassVar[Literal["look", "move", "stop", "live", "network", "nothing"]]
    """``nothing``: it only reads an inventory, or cleans up. Cleaning up is never refused."""
    grant_action: Work = "migrate"
    grant_issuer: str = ""
    """The task of the run that issues it. Empty: ``admit`` of a look, else the server's ``reserve``."""
    _grant: Grant | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if getattr(cls, "needs_grant", None) not in NEEDS and {"work", "work_on"} & cls.__dict__.keys():
            raise TypeError(f"{cls.__name__} must say what it needs: needs_grant is one of {', '.join(NEEDS)}")

    def vcenter(self, vsphere_conn_id: str) -> AbstractContextManager[VsphereSession]:
        self.must_be_granted(vsphere_conn_id)
        return super().vcenter(vsphere_conn_id)

    def must_be_granted(self, conn_id: str) -> None:
        """:raises PermanentError: this try has verified no grant that names the connection."""
        if self.needs_grant == "nothing":
            return
        if self._grant is None or conn_id not in (self._grant.vcenter, *self._grant.connections):
            raise PermanentError(
                "No grant for this connection was verified",
                connection=conn_id,
                next_step="This is a defect of the operator: it must call 'verify_grant' first",
            )

    def verify_grant(self, context: Context, token: str, **about: Any) -> Grant:
        """Compare what the control plane signed with what this task is about to do.

        :param about: what came by XCom: fields of :class:`~wavelift.rules.grants.Intent`.
        :raises GrantError: it was not granted.
        """
        from wavelift.airflow import config
        from wavelift.base.run import SystemClock
        from wavelift.rules.grants import Intent
        from wavelift.services.dataplane import grants

        ti = context["ti"]
        intent: Intent = Intent(
            user=requester_of(context),
            action=self.grant_action,
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            connector=self._sent_by(ti),
            **about,
        )
        grant = grants.verify(
            token,
            intent,
            keys=config.grant_keys_folder(),
            serves=config.connector_names(),
            now=SystemClock().now(),
            issuer=self.grant_issuer,
        )
        self.must_not_be_cleared(context, grant.clear_number, issuer=self.grant_issuer)
        self._grant = grant
        return grant

    def _sent_by(self, ti: Any) -> str:
        """The queue by which Airflow sent this task here. No XCom says it.

        A wave's file that changed since does not matter: what was sent keeps its queue. ``default`` is also what the
        SDK says that was not told (``dag.test()``): then it is the queue of the DAG file on this worker.
        """
        sent = getattr(ti, "queue", None)
        return str(sent if sent not in (None, UNTOLD) else self.queue)


class MovingOperator(ServerOperator, ConnectorOperator):
    """Base of what takes a server's data: it needs the grant that the server's ``reserve`` left, in every try."""

    needs_grant = "move"
    _vm: str = ""

    def work(self, context: Context) -> Any:
        from wavelift.rules.frozen import digest_of

        task = self.server_task(context, self.server)
        left = self.left_by(context, "reserve")
        token = left.get("token") if isinstance(left, dict) else None
        self.verify_grant(
            context,
            token if isinstance(token, str) else "",
            scope=self.needs_grant,
            environment=task.plan.target.environment,
            server=task.name,
            vm=task.facts.instance_uuid,
            vcenter=task.plan.connection,
            plan=digest_of(task.plan),
        )
        self._vm = task.facts.moref
        return self.work_on(self.as_granted(task), context)

    def as_granted(self, task: ServerTask) -> ServerTask:
        """What the grant says of the server beyond what came by XCom."""
        return task

    @contextmanager
    def vcenter(self, vsphere_conn_id: str) -> Iterator[VsphereSession]:
        """A session, once the VM that it will read is the one of the grant."""
        from wavelift.services.dataplane import grants

        with super().vcenter(vsphere_conn_id) as session:
            assert self._grant is not None  # the base opened nothing without it
            grants.verify_vm(session, self._grant, self._vm)
            yield session


class StoppingOperator(MovingOperator):
    """Base of what a cutover does to a source: it needs the grant to stop it. Its data count only while it is off,
    whatever came by XCom."""

    needs_grant = "stop"
    grant_action: Work = "cutover"

    def as_granted(self, task: ServerTask) -> ServerTask:
        return task.model_copy(update={"final": True})


class EnvironmentOperator(WaveliftOperator):
    """Base of operators for an environment's queue, near AWS: neither vCenter nor ledger."""
