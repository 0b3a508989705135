"""The two changes of a network's cutover, near HCX and NSX. None of it reaches the ledger.

Both take what :class:`~wavelift.operators.control.network.OrderNetworkOperator` returned: the order with its grant.
Whoever may cut over in the environment was asked before, and neither does more than the order says; a clear of any task
of the run makes it void. Both may be repeated. Give them the queue of a worker that reaches the HCX manager, the
source's vCenters and both NSX (``hcx: queue`` of the environment).

For a whole cutover with approval and the way back, use
:class:`~wavelift.operators.control.network_cutover.NetworkCutoverOperator`.
"""

from __future__ import annotations

from typing import Literal

from wavelift.operators.connector.network import OrderedOperator
from wavelift.rules.network_cutover import DESTINATION, EXTENSION


class SegmentConnectivityOperator(OrderedOperator):
    """Connect a network to its router at one side, or disconnect it (HCX-06, HCX-08).

    It never connects a side while the other may route the network. Returns an
    :class:`~wavelift.services.dataplane.network_messages.Acted` as a dict.

    :param order: a :class:`~wavelift.services.dataplane.network_messages.NetworkOrder` as a dict, for this side.
    :param side: ``source`` or ``destination``. :param connected: what is wanted.
    :param ordered_by: id of the task that gives the order.
    """

    plain_inputs = ("side", "connected")
    side: Literal["source", "destination"]
    connected: bool

    @property
    def step(self) -> str:  # type: ignore[override]  # follows from the side
        return self.side

    @property
    def direction(self) -> str:  # type: ignore[override]  # the cutover disconnects the source, and connects the other
        return "forward" if self.connected is (self.side == DESTINATION) else "back"


class UnextendNetworkOperator(OrderedOperator):
    """End a network's extension in HCX, with the cloud network connected to its gateway (HCX-06).

    Refused unless the source is disconnected, as it reads again. It is done when HCX's job is over *and* the extension
    is gone. Returns an :class:`~wavelift.services.dataplane.network_messages.Acted` as a dict.

    :param order: a :class:`~wavelift.services.dataplane.network_messages.NetworkOrder` as a dict, to end the extension.
    :param ordered_by: id of the task that gives the order.
    """

    step = EXTENSION
    direction = "forward"
