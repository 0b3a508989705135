"""A simulated vCenter: govmomi's simulator, with snapshots that freeze content, leases, change tracking, faults.

It follows the API reference and a few public reports; about a real vCenter it proves no more than they do. Where these
say nothing (task durations, the order of device URLs, the fault that a held lease raises), it does what is harder for a
client.
"""

from __future__ import annotations

from wavelift.simulators.kit.process import SimulatorError
from wavelift.simulators.vcenter.inventory import (
    ADMIN,
    Options,
    SimDatastore,
    SimDisk,
    SimHost,
    SimNic,
    SimShutdown,
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
    "SimNic",
    "SimShutdown",
    "SimUser",
    "SimVm",
    "SimulatorError",
    "VCenterControl",
    "VCenterSimulator",
    "start",
    "to_json",
]
