"""Wait for a VM's power state. The triggerer can't reach a connector's vCenter, so this reschedules on its queue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException

from wavelift.base.errors import PermanentError
from wavelift.operators.connector._plane import OpensVcenter

if TYPE_CHECKING:
    from airflow.sdk import Context

POWER_STATES: Final = ("poweredOn", "poweredOff", "suspended")


class VmPowerStateSensor(OpensVcenter, BaseSensorOperator):
    """True when a VM has the wanted power state (invariant 7: ``reschedule``, no slot held in between).

    Give it the connector's ``queue``.

    :param vm: name or inventory path.
    :param power_state: ``poweredOn``, ``poweredOff`` or ``suspended``.
    :param vsphere_conn_id: connection of type ``vsphere``.
    """

    template_fields: Sequence[str] = ("vm", "vsphere_conn_id")

    def __init__(
        self,
        *,
        vm: str,
        power_state: str = "poweredOff",
        vsphere_conn_id: str = "vsphere_default",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("poke_interval", timedelta(seconds=30))
        super().__init__(**{"mode": "reschedule", **kwargs})
        if power_state not in POWER_STATES:
            raise ValueError(f"power_state must be one of {', '.join(POWER_STATES)}, not {power_state!r}")
        self.vm = vm
        self.power_state = power_state
        self.vsphere_conn_id = vsphere_conn_id

    def poke(self, context: Context) -> bool:
        """:raises AirflowFailException: for what no retry can cure: no such VM, a wrong login or certificate."""
        from wavelift.services.dataplane.power import power_state_of

        try:
            with self.vcenter(self.vsphere_conn_id) as session:
                now = power_state_of(session, self.vm)
        except PermanentError as error:
            raise AirflowFailException(str(error)) from error
        self.log.info("%s is %s, waiting for %s", self.vm, now, self.power_state)
        return now == self.power_state
