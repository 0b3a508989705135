"""What operators of the control plane add: the ledger, which they alone write, and waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wavelift.operators._base import WaveliftOperator

if TYPE_CHECKING:
    from wavelift.ledger import Ledger


class OpensLedger:
    """Of an operator or sensor of the control plane: the one place where the ledger is opened."""

    def ledger(self) -> Ledger:
        """The ledger; use it in a ``with`` block, and not while disks are read."""
        from wavelift.airflow import config
        from wavelift.ledger import Ledger

        return Ledger.open(config.ledger_url())


class ControlOperator(OpensLedger, WaveliftOperator):
    """Base of operators for Airflow's default queue: the ledger and AWS, no vCenter."""
