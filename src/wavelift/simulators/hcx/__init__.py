"""A simulated HCX manager at the source site: it moves VMs between two simulated vCenters, and extends networks.

No independent client of HCX exists to compare with. It follows the published schema and public clients; what these do
not say is in :mod:`.invented`.
"""

from __future__ import annotations

from wavelift.simulators.hcx.launcher import HcxSimulator, start
from wavelift.simulators.hcx.sites import Site, site

__all__ = ["HcxSimulator", "Site", "site", "start"]
