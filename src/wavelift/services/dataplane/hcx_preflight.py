"""What pre-flight finds out about a wave's servers in HCX and in both vCenters."""

from __future__ import annotations

from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.rest import RestClient
from wavelift.base.run import RunContext
from wavelift.rules.grants import Grant
from wavelift.rules.live_plans import ResolvedLive
from wavelift.services.dataplane.live_messages import LiveReport


def preflight(
    wave: ResolvedLive,
    *,
    hcx: RestClient,
    source: VsphereSession,
    destination: VsphereSession,
    grant: Grant,
    ctx: RunContext,
) -> LiveReport:
    """Resolve every server and its targets to ids, and check what its type of migration needs.

    :param grant: whom the source's vCenter is asked about.
    """
    raise NotImplementedError
