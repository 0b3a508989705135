"""What operators of the connector's plane add: the vCenter. None of it can reach the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wavelift.operators._base import WaveliftOperator

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from wavelift.adapters.vsphere.session import VsphereSession


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
    """Base of operators for a connector's queue: vCenter and AWS."""


class EnvironmentOperator(WaveliftOperator):
    """Base of operators for an environment's queue, near AWS: neither vCenter nor ledger."""
