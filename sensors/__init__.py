"""wavelift's sensors; import them as ``wavelift.sensors``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wavelift.sensors.exports import InstanceExportSensor
    from wavelift.sensors.hcx import HcxMigrationSensor
    from wavelift.sensors.imports import ImportImageSensor
    from wavelift.sensors.network import NetworkCutoverSensor
    from wavelift.sensors.power import VmPowerStateSensor
    from wavelift.sensors.replication import ReplicationRunSensor

_HOME = {
    "HcxMigrationSensor": "hcx",
    "ImportImageSensor": "imports",
    "InstanceExportSensor": "exports",
    "NetworkCutoverSensor": "network",
    "ReplicationRunSensor": "replication",
    "VmPowerStateSensor": "power",
}
__all__ = [
    "HcxMigrationSensor",
    "ImportImageSensor",
    "InstanceExportSensor",
    "NetworkCutoverSensor",
    "ReplicationRunSensor",
    "VmPowerStateSensor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
