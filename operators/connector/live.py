"""What a live run does near HCX and near both vCenters. None of it can reach the ledger."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from wavelift.operators._keys import LOOK_KEY, ORDER_KEY, REPORT_KEY
from wavelift.operators.connector._plane import ConnectorOperator
from wavelift.rules.flows import ADMIT, LIVE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

    from wavelift.base.rest import RestClient
    from wavelift.rules.grants import Grant, Work
    from wavelift.rules.live_plans import ResolvedLive
    from wavelift.services.dataplane.live_messages import AdmittedLive, FoundThere, LiveOrder, VerifyOrder

FOLLOW_SECONDS: Final = 60.0
"""Between two looks of the task that follows on the queue: each starts a process. A look is one query for the run."""
VERIFY_SECONDS: Final = 60.0
"""Between two looks for what comes a while after the VM, such as the addresses of its guest."""
ORDERING: Final = (LIVE.task_id("approve_switchover"), LIVE.task_id("record"), LIVE.task_id("reserve"), ADMIT)
"""Tasks that may have left an order to cancel; the newest comes first."""


class HcxConnectorOperator(ConnectorOperator):
    """Base of what a live run does outside: it needs a grant of this run, in every try."""

    grant_action: Work = "live"

    @contextmanager
    def hcx(self, hcx_conn_id: str) -> Iterator[RestClient]:
        """A client for :mod:`wavelift.adapters.hcx`, once a grant that names the connection was verified."""
        from wavelift.airflow.hooks.hcx import HcxHook

        self.must_be_granted(hcx_conn_id)
        with HcxHook(hcx_conn_id).access().client(cancel=self._cancel) as client:
            yield client

    def admitted(self, context: Context) -> AdmittedLive:
        """What the run's admission left."""
        from wavelift.services.dataplane.live_messages import AdmittedLive

        return AdmittedLive.load(context["ti"].xcom_pull(task_ids=ADMIT, map_indexes=-1))

    def verify(self, context: Context, token: str, wave: ResolvedLive, *, plan: str, vcenter: str) -> Grant:
        """Compare the grant with what this task is about to do.

        :param plan: digest of the order, or of the wave: it says which servers. :param vcenter: an Airflow connection.
        """
        from wavelift.rules.grants import ALL_SERVERS

        return self.verify_grant(
            context,
            token,
            scope=self.needs_grant,
            environment=wave.environment.environment,
            server=ALL_SERVERS,
            vm="",
            vcenter=vcenter,
            plan=plan,
        )


class LivePreflightOperator(HcxConnectorOperator):
    """Find a wave's servers in HCX and vCenter, resolve their targets, and check what their type of migration needs.

    On the queue that reaches HCX and both vCenters. The whole
    :class:`~wavelift.services.dataplane.live_messages.LiveReport` is XCom ``report``; returns the servers' names.
    """

    needs_grant = "look"
    first_contact = True

    def work(self, context: Context) -> list[str]:
        from wavelift.rules.frozen import digest_of
        from wavelift.services.dataplane.hcx_preflight import preflight

        admitted = self.admitted(context)
        wave = admitted.wave
        manager, places = wave.environment.hcx.connection, wave.environment
        grant = self.verify(context, admitted.token, wave, plan=digest_of(wave), vcenter=manager)
        with (
            self.hcx(manager) as hcx,
            self.vcenter(places.source.connection) as source,
            self.vcenter(places.destination.connection) as destination,
        ):
            ctx = self.server_context(context)
            report = preflight(wave, hcx=hcx, source=source, destination=destination, grant=grant, ctx=ctx)
        context["ti"].xcom_push(key=REPORT_KEY, value=report.dump())
        for finding in report.findings:
            self.log.info("%s %s: %s. %s", finding.severity, finding.subject, finding.what, finding.next_action)
        return [task.name for task in report.tasks]


class LiveOrderOperator(HcxConnectorOperator):
    """Base of what carries out a run's order to start: only with its grant, and only until the run is cleared.

    The operators are public: :mod:`wavelift.operators.hcx`.

    :param order: what :class:`ReserveLiveOperator` returned.
    """

    needs_grant = "live"
    grant_issuer = LIVE.task_id("reserve")
    template_inputs = ("order",)
    order: Any

    def granted_order(self, context: Context) -> LiveOrder:
        from wavelift.services.dataplane.live_messages import LiveOrder

        order = LiveOrder.load(self.order)
        self.verify(context, order.token, self.admitted(context).wave, plan=order.digest, vcenter=order.manager)
        return order


class LiveFollowNearOperator(HcxConnectorOperator):
    """Follow what HCX moves, on the queue that reaches it: it is rescheduled between two looks, and holds no worker.

    Returns a :class:`~wavelift.services.dataplane.live_messages.Followed`.
    """

    needs_grant = "look"
    grant_issuer = LIVE.task_id("record")

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.hcx_migrate import follow
        from wavelift.services.dataplane.live_messages import FollowOrder

        left = context["ti"].xcom_pull(task_ids=self.grant_issuer, key=REPORT_KEY, map_indexes=-1)
        order = FollowOrder.load(left)
        self.verify(context, order.token, self.admitted(context).wave, plan=order.digest, vcenter=order.manager)
        with self.hcx(order.manager) as hcx:
            found = follow(order, hcx=hcx, ctx=self.server_context(context))
        if found is not None:
            return found.dump()
        raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=FOLLOW_SECONDS))


class LiveCancelOperator(HcxConnectorOperator):
    """End in HCX what has not begun to switch over, by the order that a task of the control plane left.

    Whatever became of the question before the window, it carries out an order that is there: only a yes skips it. In
    mode cancel nothing but the report comes after it. Returns a
    :class:`~wavelift.services.dataplane.live_messages.Cancelled`.
    """

    needs_grant = "live"

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.hcx_migrate import cancel
        from wavelift.services.dataplane.live_messages import CancelOrder

        ti = context["ti"]
        left = ((name, ti.xcom_pull(task_ids=name, key=ORDER_KEY, map_indexes=-1)) for name in ORDERING)
        issuer, came = next(((name, each) for name, each in left if each), ("", None))
        if came is None:
            raise AirflowSkipException("no order to cancel was given")
        order, admitted = CancelOrder.load(came), self.admitted(context)
        self.grant_issuer = issuer
        self.verify(context, order.token, admitted.wave, plan=order.digest, vcenter=order.manager)
        with self.hcx(order.manager) as hcx:
            found = cancel(order, hcx=hcx, ctx=self.server_context(context))
        for one in found.servers:
            self.log.info("%s: %s %s", one.server, one.outcome, one.words)
        if issuer != ADMIT:
            return found.dump()
        ti.xcom_push(key="return_value", value=found.dump())
        self.skip_all_but("")


class VerifyingOperator(HcxConnectorOperator):
    """Base of the verification of one moved server in one vCenter, on the queue near it.

    :param server: one of what :class:`MovedOperator` returned.
    """

    needs_grant = "look"
    grant_issuer = LIVE.task_id("moved")
    side: str
    template_inputs = ("server",)
    server: Any

    def granted_order(self, context: Context) -> tuple[VerifyOrder, str]:
        """What must be found, and the connection of the vCenter."""
        from wavelift.rules.frozen import digest_of
        from wavelift.services.dataplane.live_messages import VerifyOrder

        ti, wave = context["ti"], self.admitted(context).wave
        key, task = f"server_{self.server['place']}", self.server["task"]
        order = VerifyOrder.load(ti.xcom_pull(task_ids=task, key=key, map_indexes=-1))
        token = ti.xcom_pull(task_ids=self.grant_issuer, key=LOOK_KEY.format(side=self.side), map_indexes=-1)["token"]
        connection = str(getattr(wave.environment, self.side).connection)
        self.verify(context, token, wave, plan=digest_of(wave), vcenter=connection)
        return order, connection

    def judged(self, found: FoundThere | None) -> dict[str, Any]:
        """What was found; or what comes by itself is looked for again later, and no worker is held meanwhile."""
        if found is not None:
            return found.dump()
        raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=VERIFY_SECONDS))


class LiveVerifyDestinationOperator(VerifyingOperator):
    """Look for a moved server in the destination's vCenter: one VM, on, in its place, with its MAC and IP addresses.

    Returns a :class:`~wavelift.services.dataplane.live_messages.FoundThere`.
    """

    side = "destination"

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.hcx_verify import at_destination

        order, connection = self.granted_order(context)
        with self.vcenter(connection) as session:
            return self.judged(at_destination(order, session=session, ctx=self.server_context(context, order.name)))


class LiveVerifySourceOperator(VerifyingOperator):
    """Look for a moved server in the source's vCenter: it is gone, or renamed, off and without a network.

    Returns a :class:`~wavelift.services.dataplane.live_messages.FoundThere`.
    """

    side = "source"

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.hcx_verify import at_source

        order, connection = self.granted_order(context)
        with self.vcenter(connection) as session:
            return self.judged(at_source(order, session=session, ctx=self.server_context(context, order.name)))
