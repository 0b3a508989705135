"""What a network's cutover does on its queue: look at both sides, change one place by an order, probe, finish.

All of it but the probes needs a grant of the control plane; an order is void once any task of its run was cleared. None
of it reaches the ledger.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

from airflow.sdk.exceptions import AirflowRescheduleException

from wavelift.operators.connector._plane import ConnectorOperator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow.sdk import Context

    from wavelift.base.placement import NetworkUse
    from wavelift.base.run import RunContext
    from wavelift.services.dataplane.network_act import Sites
    from wavelift.services.dataplane.network_messages import Acted, NetworkOrder, NetworkPlace
    from wavelift.services.dataplane.steps.step import Waiting

LOOK_SECONDS: Final = 10
"""Until the next look at what takes long. Each look starts a process, which costs seconds of a core; while a network is
moved, nobody routes it."""


HERE_SECONDS: Final = 40.0
"""So long an acting task looks again by itself, before it gives its worker back."""
PAUSE_SECONDS: Final = 2.0


class NetworkQueueOperator(ConnectorOperator):
    """Base of what reaches both sides of a network."""

    grant_action = "network"

    def granted(self, context: Context, place: NetworkPlace, token: str, *, plan: str, about: str = "") -> None:
        """Compare the grant with what this task is about to do.

        :param plan: digest of the order. :param about: the cutover, of an order that acts.
        :raises GrantError: it was not granted, or the run was cleared since.
        """
        self.verify_grant(
            context,
            token,
            scope=self.needs_grant,
            environment=place.environment.environment,
            server=place.network.network,
            vm=about,
            vcenter=place.environment.hcx.connection,
            plan=plan,
        )

    @contextmanager
    def sites(self, place: NetworkPlace, *, may_be_gone: bool = False) -> Iterator[Sites]:
        """Clients of all that the network's cutover changes; each connection must be one of the grant.

        :param may_be_gone: an earlier try may have deleted the source network.

        :raises SpecError: a connection is missing or wrong.
        """
        from wavelift.airflow.hooks.hcx import HcxHook
        from wavelift.airflow.hooks.nsx import NsxHook
        from wavelift.airflow.hooks.webhook import WebhookHook
        from wavelift.base.errors import SpecError
        from wavelift.services.dataplane.network_act import Sites

        environment, way = place.environment, place.network.source.disconnect
        nsx = environment.destination.nsx
        if nsx is None:
            raise SpecError("The destination has no NSX", environment=environment.environment)
        webhook = way.connection if way.by == "webhook" else None
        for each in (environment.hcx.connection, nsx.connection, environment.source.nsx, webhook):
            if each is not None:
                self.must_be_granted(each)
        with ExitStack() as opened:
            yield Sites(
                hcx=opened.enter_context(HcxHook(environment.hcx.connection).get_conn()),
                destination=opened.enter_context(NsxHook(nsx.connection).get_conn()),
                uses=lambda: self._uses(place, may_be_gone=may_be_gone),
                source_nsx=opened.enter_context(NsxHook(environment.source.nsx).get_conn())
                if environment.source.nsx
                else None,
                webhook=opened.enter_context(WebhookHook(webhook, timeout_s=way.timeout_seconds).get_conn())
                if webhook
                else None,
            )

    def _uses(self, place: NetworkPlace, *, may_be_gone: bool) -> Sequence[NetworkUse]:
        """What is on the source network, by every vCenter of the site.

        :param may_be_gone: an earlier try may have deleted it.
        :raises NotFoundError: the first vCenter, which HCX serves, has no such network.
        """
        from wavelift.adapters.vsphere.networks import cards_on
        from wavelift.adapters.vsphere.places import read_places
        from wavelift.base.errors import NotFoundError

        source = place.environment.source
        found = []
        for number, connection in enumerate((source.connection, *source.vcenters)):
            self.must_be_granted(connection)
            with self.vcenter(connection) as session:
                try:
                    network = read_places(session).network(place.network.source.network)
                except NotFoundError:
                    if number == 0 and not may_be_gone:
                        raise
                    continue
                found.append(cards_on(session, network))
        return found

    def look_again(self, waiting: Waiting) -> NoReturn:
        """Give the worker back until the next look."""
        self.log.info("waits %s", waiting.words)
        raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=LOOK_SECONDS))


class LookNetworkOperator(NetworkQueueOperator):
    """Read both sides of a network, and find everything that is in the way of its cutover. Changes nothing.

    Runs on the queue of the environment's HCX manager. Returns a
    :class:`~wavelift.services.dataplane.network_messages.Looked`.

    :param order: the :class:`~wavelift.services.dataplane.network_messages.LookOrder` that
        :class:`AdmitNetworkOperator` returned.
    """

    needs_grant = "look"
    first_contact = True
    template_inputs = ("order",)
    order: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.network_look import look
        from wavelift.services.dataplane.network_messages import LookOrder

        order = LookOrder.load(self.order)
        self.granted(context, order.place, order.token, plan=order.place.digest)
        with self.sites(order.place, may_be_gone=order.mode == "finish") as sites:
            looked = look(order, sites, self.server_context(context))
        for each in looked.findings:
            self.log.info("%s: %s. %s", each.severity, each.what, each.next_action)
        return looked.dump()


class OrderedOperator(NetworkQueueOperator):
    """Base of what carries one order out. A class says which: its ``step`` and ``direction``."""

    needs_grant = "network"
    template_inputs = ("order",)
    plain_inputs: ClassVar[tuple[str, ...]] = ("ordered_by",)
    order: Any
    ordered_by: str
    step: str
    direction: str

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.base.errors import GrantError
        from wavelift.services.dataplane.network_act import job_of
        from wavelift.services.dataplane.network_messages import JOB_KEY, Acted, NetworkOrder

        order = NetworkOrder.load(self.order)
        self.grant_issuer = self.ordered_by
        if (order.step, order.direction) != (self.step, self.direction):
            raise GrantError(
                "The order is for another step",
                field="step",
                expected=f"{self.step} {self.direction}",
                found=f"{order.step} {order.direction}",
                next_step=f"Clear the run's {self.ordered_by} task; find out who edited the run's XComs",
            )
        self.granted(context, order.place, order.token, plan=order.bound, about=order.cutover)
        self.must_not_be_cleared(context, order.clear_number, issuer=self.ordered_by)
        ctx = self.server_context(context)
        try:
            with self.sites(order.place) as sites:
                found = self._act(order, sites, ctx)
        finally:
            # Also after an error: the way back waits for what HCX may still be doing.
            if (job := job_of(order, ctx)) and self.direction == "forward":
                context["ti"].xcom_push(key=JOB_KEY, value=job)
        if isinstance(found, Acted):
            self.log.info("%s %s: %s %s", self.step, self.direction, found.state, found.note)
            return found.dump()
        self.look_again(found)

    def _act(self, order: NetworkOrder, sites: Sites, ctx: RunContext) -> Acted | Waiting:
        """What takes moments is waited for here: nobody routes meanwhile, and a new process costs seconds."""
        from wavelift.services.dataplane.network_act import act
        from wavelift.services.dataplane.network_look import refuse_in_the_way
        from wavelift.services.dataplane.network_messages import Acted

        ends = time.monotonic() + HERE_SECONDS
        while True:
            found = act(order, sites, ctx, free=lambda: refuse_in_the_way(order, sites, ctx))
            if isinstance(found, Acted) or time.monotonic() >= ends:
                return found
            self.log.info("waits %s", found.words)
            ctx.cancel.wait(PAUSE_SECONDS)


class ActNetworkOperator(OrderedOperator):
    """Bring one place from the state before to the state that is wanted, or back, as one order says.

    Runs on the queue of the environment's HCX manager, and holds no worker while HCX or NSX take long: it is
    rescheduled. It reads first, and is done when the place is so already. Whatever the order of the tasks, it connects
    no side while the other may route. Returns an :class:`~wavelift.services.dataplane.network_messages.Acted`.

    :param order: the :class:`~wavelift.services.dataplane.network_messages.NetworkOrder` that
        :class:`OrderNetworkOperator` returned.
    :param step: ``source``, ``extension`` or ``destination``. :param direction: ``forward`` or ``back``.
    :param ordered_by: id of the task that gives the order.
    """

    plain_inputs = ("step", "direction")
    step: str
    direction: str


class ProbeNetworkOperator(ConnectorOperator):
    """Ask from where its users are whether a network can be reached: each check of its file, until it passes or its
    time is over.

    Runs on the queue that the file names, and opens no connection of Airflow. It is rescheduled between two looks.
    Returns a :class:`~wavelift.services.dataplane.network_messages.Probed`.

    :param order: the :class:`~wavelift.services.dataplane.network_messages.ProbeOrder` of the control plane.
    """

    needs_grant = "nothing"
    template_inputs = ("order",)
    order: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.network_messages import Probed, ProbeOrder
        from wavelift.services.dataplane.network_probe import probe

        found = probe(ProbeOrder.load(self.order), self.server_context(context))
        if isinstance(found, Probed):
            self.log.info("passed: %s", ", ".join(found.passed) or "nothing is asked")
            return found.dump()
        self.log.info("waits %s", found.words)
        raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=LOOK_SECONDS))


class FinishNetworkOperator(NetworkQueueOperator):
    """Delete the source network where NSX has it, and rename the destination's segment. Nothing is forced.

    Runs on the queue of the environment's HCX manager. Ports that linger are waited for, rescheduled, for a bounded
    time. Returns a :class:`~wavelift.services.dataplane.network_messages.Finished`.

    :param order: the :class:`~wavelift.services.dataplane.network_messages.FinishOrder` of the control plane.
    :param ordered_by: id of the task that gives it.
    """

    needs_grant = "network"
    template_inputs = ("order",)
    plain_inputs = ("ordered_by",)
    order: Any
    ordered_by: str

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.network_act import finish
        from wavelift.services.dataplane.network_look import refuse_to_delete
        from wavelift.services.dataplane.network_messages import Finished, FinishOrder

        order = FinishOrder.load(self.order)
        self.grant_issuer = self.ordered_by
        self.granted(context, order.place, order.token, plan=order.bound, about=order.cutover)
        self.must_not_be_cleared(context, order.clear_number, issuer=self.ordered_by)
        ctx = self.server_context(context)
        with self.sites(order.place, may_be_gone=True) as sites:
            found = finish(order, sites, ctx, free=lambda: refuse_to_delete(order, sites, ctx))
        if isinstance(found, Finished):
            return found.dump()
        self.look_again(found)
