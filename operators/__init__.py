"""wavelift's operators; import them as ``wavelift.operators`` (the short form would load every class twice).

Names are resolved on first use: a DAG file pays only for what it uses, and the connector's operators stay apart from
those that open the ledger.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wavelift.operators.connector.export import DiskUploadOperator, VmExportOperator
    from wavelift.operators.connector.inventory import CatalogInventoryOperator, ConnectorCheckOperator
    from wavelift.operators.connector.preflight import PreflightOperator
    from wavelift.operators.connector.replication import (
        ReplicationPreflightOperator,
        ReplicationRunOperator,
        VerifyReplicatedOperator,
    )
    from wavelift.operators.connector.snapshot import RemoveSnapshotOperator, VmSnapshotOperator
    from wavelift.operators.connector.verify import CompareOperator, VerifyImportedOperator, VerifyOperator
    from wavelift.operators.control.admit import AdmitOperator, LaunchImportedOperator, ReportOperator
    from wavelift.operators.control.catalog import (
        BeginCatalogImportOperator,
        BeginHealthCheckOperator,
        CloseCatalogImportOperator,
        MergeCatalogOperator,
        RecordHealthOperator,
    )
    from wavelift.operators.control.image import ImportImageOperator, ImportServerOperator
    from wavelift.operators.control.launch import LaunchInstanceOperator
    from wavelift.operators.control.replication import (
        AdmitReplicationOperator,
        AmiOperator,
        RecordOperator,
        ReleaseRunOperator,
        ReplicationReportOperator,
        ReserveRunOperator,
    )
    from wavelift.operators.control.slots import ReleaseOperator, ReserveOperator

_HOME = {
    "AdmitOperator": "admit",
    "AdmitReplicationOperator": "replication_control",
    "AmiOperator": "replication_control",
    "BeginCatalogImportOperator": "catalog",
    "BeginHealthCheckOperator": "catalog",
    "CatalogInventoryOperator": "inventory",
    "CloseCatalogImportOperator": "catalog",
    "CompareOperator": "verify",
    "ConnectorCheckOperator": "inventory",
    "DiskUploadOperator": "export",
    "ImportImageOperator": "image",
    "ImportServerOperator": "image",
    "LaunchImportedOperator": "admit",
    "LaunchInstanceOperator": "launch",
    "MergeCatalogOperator": "catalog",
    "PreflightOperator": "preflight",
    "RecordHealthOperator": "catalog",
    "RecordOperator": "replication_control",
    "ReleaseOperator": "slots",
    "ReleaseRunOperator": "replication_control",
    "RemoveSnapshotOperator": "snapshot",
    "ReplicationPreflightOperator": "replication",
    "ReplicationReportOperator": "replication_control",
    "ReplicationRunOperator": "replication",
    "ReportOperator": "admit",
    "ReserveOperator": "slots",
    "ReserveRunOperator": "replication_control",
    "VerifyImportedOperator": "verify",
    "VerifyOperator": "verify",
    "VerifyReplicatedOperator": "replication",
    "VmExportOperator": "export",
    "VmSnapshotOperator": "snapshot",
}

__all__ = [
    "AdmitOperator",
    "AdmitReplicationOperator",
    "AmiOperator",
    "BeginCatalogImportOperator",
    "BeginHealthCheckOperator",
    "CatalogInventoryOperator",
    "CloseCatalogImportOperator",
    "CompareOperator",
    "ConnectorCheckOperator",
    "DiskUploadOperator",
    "ImportImageOperator",
    "ImportServerOperator",
    "LaunchImportedOperator",
    "LaunchInstanceOperator",
    "MergeCatalogOperator",
    "PreflightOperator",
    "RecordHealthOperator",
    "RecordOperator",
    "ReleaseOperator",
    "ReleaseRunOperator",
    "RemoveSnapshotOperator",
    "ReplicationPreflightOperator",
    "ReplicationReportOperator",
    "ReplicationRunOperator",
    "ReportOperator",
    "ReserveOperator",
    "ReserveRunOperator",
    "VerifyImportedOperator",
    "VerifyOperator",
    "VerifyReplicatedOperator",
    "VmExportOperator",
    "VmSnapshotOperator",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
