"""What both vCenters say of a server that HCX has moved."""

from __future__ import annotations

from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.run import RunContext
from wavelift.services.dataplane.live_messages import FoundThere, VerifyOrder


def at_destination(order: VerifyOrder, *, session: VsphereSession, ctx: RunContext) -> FoundThere:
    """One VM is there and on, in its place, with its MAC and IP addresses."""
    raise NotImplementedError


def at_source(order: VerifyOrder, *, session: VsphereSession, ctx: RunContext) -> FoundThere:
    """It is gone, or, of a bulk migration, renamed, off and without a connected card."""
    raise NotImplementedError
