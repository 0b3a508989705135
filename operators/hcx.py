"""HCX near its manager: validate an order to migrate, and start it. None of it reaches the ledger.

Both take what :class:`~wavelift.operators.control.live_plan.ReserveLiveOperator` returned: the order with its grant.
Whoever may migrate in the environment was asked before, and neither does more than the order says. Give them the queue
of a worker that reaches the HCX manager (``hcx: queue`` of the environment).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators.connector.live import LiveOrderOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class HcxValidateOperator(LiveOrderOperator):
    """Let HCX validate the migrations of an order, which changes nothing (HCX-02).

    An error of any server stops all; so does a refusal that names no error. Warnings do unless the order accepts them.
    A group that has begun already is not validated again.

    Returns a :class:`~wavelift.services.dataplane.live_messages.Validated` as a dict.

    :param order: a :class:`~wavelift.services.dataplane.live_messages.LiveOrder` as a dict.
    """

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.hcx_migrate import validate

        order = self.granted_order(context)
        with self.hcx(order.manager) as hcx:
            return validate(order, hcx=hcx, ctx=self.server_context(context)).dump()


class HcxMigrateOperator(LiveOrderOperator):
    """Make the mobility group of an order and start it, once, however often this is called (HCX-01).

    HCX has no client token; the group's name stands for it. A group of this name is taken as made by an earlier try,
    and one that has begun is not started again. :class:`~wavelift.sensors.hcx.HcxMigrationSensor` waits for its end.

    Returns a :class:`~wavelift.services.dataplane.live_messages.Started` as a dict: the group, and the id in HCX
    of each server, or why HCX did not take it.

    :param order: a :class:`~wavelift.services.dataplane.live_messages.LiveOrder` as a dict.
    """

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.hcx_migrate import start

        order = self.granted_order(context)
        with self.hcx(order.manager) as hcx:
            return start(order, hcx=hcx, ctx=self.server_context(context)).dump()
