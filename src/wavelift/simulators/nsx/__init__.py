"""A simulated NSX of one site: segments of the Policy API, on premises or behind VMware Cloud on AWS."""

from __future__ import annotations

from wavelift.simulators.nsx.launcher import NsxSimulator, start

__all__ = ["NsxSimulator", "start"]
