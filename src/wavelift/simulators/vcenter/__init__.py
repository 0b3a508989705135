"""A vCenter: govmomi's simulator with snapshots that freeze, leases with bodies, change tracking and faults.

It proves nothing about a real vCenter beyond what the API reference says and a few public reports show; what is
invented here (task durations, the order of device URLs, the fault a held lease raises) is the harder of the guesses.
"""

from __future__ import annotations

from wavelift.simulators.kit.process import SimulatorError
from wavelift.simulators.vcenter.inventory import (
    ADMIN,
    Options,
    SimDatastore,
    SimDisk,
    SimHost,
    SimUser,
    SimVm,
    to_json,
)
from wavelift.simulators.vcenter.launcher import VCenterControl, VCenterSimulator, start

__all__ = [
    "ADMIN",
    "Options",
    "SimDatastore",
    "SimDisk",
    "SimHost",
    "SimUser",
    "SimVm",
    "SimulatorError",
    "VCenterControl",
    "VCenterSimulator",
    "start",
    "to_json",
]
