"""One server of a cutover, on the control plane: from the slot that permits to stop its source to the network."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from wavelift.operators.control._plane import ControlServerOperator
from wavelift.operators.control._waiting import WaitingOperator
from wavelift.operators.control.image import AmiOperator
from wavelift.operators.control.record import RecordOperator
from wavelift.operators.control.slots import ReservingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.errors import WaveliftError
    from wavelift.base.run import RunContext
    from wavelift.ledger import Ledger
    from wavelift.services.common.slots import InQueue
    from wavelift.services.common.wanted import Terms
    from wavelift.services.dataplane.messages import ServerTask


class CutoverServerOperator(ControlServerOperator):
    """Base of the control plane's tasks for one server of a cutover: whoever stands behind it may cut over."""

    action = "cut_over"


class ReserveCutoverOperator(CutoverServerOperator, ReservingOperator):
    """Admit the run of a server's last changes, wait, deferred, for its tier and its slots, and write that its source
    will be stopped.

    Control plane. Continuing a failed server means clearing from this task. Returns a
    :class:`~wavelift.services.dataplane.replication_messages.ReservedRun` with its ``stop``.

    :param server: one of the dicts that the pre-flight returned.
    """

    grant_action = "cutover"
    grant_scope = "stop"


class RecordFinalOperator(CutoverServerOperator, RecordOperator):
    """Record the EBS snapshots of a server's last changes, and when its source went down.

    Returns the server's name and its EBS snapshots.

    :param server: one of the dicts that the pre-flight returned.
    :param transferred: what :class:`FinalRunOperator` returned.
    :param stopped: what :class:`StopSourceOperator` returned.
    """

    template_inputs = ("stopped",)
    stopped: Any


class CutoverAmiOperator(CutoverServerOperator, AmiOperator):
    """Make the AMI of a server's last changes, by the method of its cutover.

    Every block that was sent is attested by its digest. It is read back later, before the cutover is finalized: nobody
    waits for that while the server is down. Returns a :class:`~wavelift.services.replication.image.MadeImage`.

    :param server: one of the dicts that the pre-flight returned.
    :param transferred: what :class:`FinalRunOperator` returned.
    """

    template_inputs = ("transferred", "verified")
    transferred: Any
    verified: Any = None


class LaunchTargetOperator(CutoverServerOperator, WaitingOperator):
    """Launch the instance that takes the source's place, once the source is off and fenced, and wait, deferred, until
    it runs. At most one exists, whatever is retried or cleared.

    Returns a :class:`~wavelift.base.domain.LaunchResult`.

    :param server: one of the dicts that the pre-flight returned.
    :param image: what :class:`CutoverAmiOperator` returned.
    """

    template_inputs = ("image",)
    image: Any


class SwitchOperator(CutoverServerOperator, WaitingOperator):
    """Make the server's network steps, one after the other, and wait, deferred, until each has taken effect.

    Returns the server's name, its cutover and when it was switched.

    :param server: one of the dicts that the pre-flight returned.
    :param checked: what :class:`CheckInstanceOperator` returned.
    """

    template_inputs = ("checked",)
    checked: Any
