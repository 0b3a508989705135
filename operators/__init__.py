"""wavelift's operators; import them as ``wavelift.operators`` (the short form would load every class twice).

Names are resolved on first use: a DAG file pays only for what it uses, and the connector's operators stay apart from
those that open the ledger.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from wavelift.operators.approval import ApproveOperator as ApproveOperator
    from wavelift.operators.connector.checks import CheckInstanceOperator as CheckInstanceOperator
    from wavelift.operators.connector.checks import CheckTestOperator as CheckTestOperator
    from wavelift.operators.connector.cutover import CutoverSnapshotOperator as CutoverSnapshotOperator
    from wavelift.operators.connector.cutover import FinalRunOperator as FinalRunOperator
    from wavelift.operators.connector.cutover import StopSourceOperator as StopSourceOperator
    from wavelift.operators.connector.cutover_back import FenceSourcesOperator as FenceSourcesOperator
    from wavelift.operators.connector.cutover_back import LookAtSourcesOperator as LookAtSourcesOperator
    from wavelift.operators.connector.cutover_back import StartSourcesOperator as StartSourcesOperator
    from wavelift.operators.connector.cutover_preflight import CutoverPreflightOperator as CutoverPreflightOperator
    from wavelift.operators.connector.export import DiskUploadOperator as DiskUploadOperator
    from wavelift.operators.connector.export import VmExportOperator as VmExportOperator
    from wavelift.operators.connector.export_instance import ReadInstanceOperator as ReadInstanceOperator
    from wavelift.operators.connector.export_instance import VerifyExportOperator as VerifyExportOperator
    from wavelift.operators.connector.inventory import CatalogInventoryOperator as CatalogInventoryOperator
    from wavelift.operators.connector.inventory import ConnectorCheckOperator as ConnectorCheckOperator
    from wavelift.operators.connector.live import LiveCancelOperator as LiveCancelOperator
    from wavelift.operators.connector.live import LiveFollowNearOperator as LiveFollowNearOperator
    from wavelift.operators.connector.live import LivePreflightOperator as LivePreflightOperator
    from wavelift.operators.connector.live import LiveVerifyDestinationOperator as LiveVerifyDestinationOperator
    from wavelift.operators.connector.live import LiveVerifySourceOperator as LiveVerifySourceOperator
    from wavelift.operators.connector.network import ActNetworkOperator as ActNetworkOperator
    from wavelift.operators.connector.network import FinishNetworkOperator as FinishNetworkOperator
    from wavelift.operators.connector.network import LookNetworkOperator as LookNetworkOperator
    from wavelift.operators.connector.network import ProbeNetworkOperator as ProbeNetworkOperator
    from wavelift.operators.connector.preflight import PreflightOperator as PreflightOperator
    from wavelift.operators.connector.replication import ReplicationPreflightOperator as ReplicationPreflightOperator
    from wavelift.operators.connector.replication import ReplicationRunOperator as ReplicationRunOperator
    from wavelift.operators.connector.replication import VerifyRecordedOperator as VerifyRecordedOperator
    from wavelift.operators.connector.replication import VerifyReplicatedOperator as VerifyReplicatedOperator
    from wavelift.operators.connector.snapshot import RemoveSnapshotOperator as RemoveSnapshotOperator
    from wavelift.operators.connector.snapshot import VmSnapshotOperator as VmSnapshotOperator
    from wavelift.operators.connector.verify import CompareOperator as CompareOperator
    from wavelift.operators.connector.verify import VerifyImportedOperator as VerifyImportedOperator
    from wavelift.operators.connector.verify import VerifyOperator as VerifyOperator
    from wavelift.operators.control.admit import AdmitOperator as AdmitOperator
    from wavelift.operators.control.admit import AdmitReplicationOperator as AdmitReplicationOperator
    from wavelift.operators.control.backup import BackupInstanceOperator as BackupInstanceOperator
    from wavelift.operators.control.catalog import BeginCatalogImportOperator as BeginCatalogImportOperator
    from wavelift.operators.control.catalog import BeginHealthCheckOperator as BeginHealthCheckOperator
    from wavelift.operators.control.catalog import CloseCatalogImportOperator as CloseCatalogImportOperator
    from wavelift.operators.control.catalog import MergeCatalogOperator as MergeCatalogOperator
    from wavelift.operators.control.catalog import RecordHealthOperator as RecordHealthOperator
    from wavelift.operators.control.cutover_back import CutoverReportOperator as CutoverReportOperator
    from wavelift.operators.control.cutover_back import FinalizeOperator as FinalizeOperator
    from wavelift.operators.control.cutover_back import PrepareOperator as PrepareOperator
    from wavelift.operators.control.cutover_back import RevertedOperator as RevertedOperator
    from wavelift.operators.control.cutover_back import RevertFailedOperator as RevertFailedOperator
    from wavelift.operators.control.cutover_back import UndoOperator as UndoOperator
    from wavelift.operators.control.cutover_move import CutoverAmiOperator as CutoverAmiOperator
    from wavelift.operators.control.cutover_move import LaunchTargetOperator as LaunchTargetOperator
    from wavelift.operators.control.cutover_move import RecordFinalOperator as RecordFinalOperator
    from wavelift.operators.control.cutover_move import ReserveCutoverOperator as ReserveCutoverOperator
    from wavelift.operators.control.cutover_move import SwitchOperator as SwitchOperator
    from wavelift.operators.control.cutover_plan import AdmitCutoverOperator as AdmitCutoverOperator
    from wavelift.operators.control.cutover_plan import ApproveCutoverOperator as ApproveCutoverOperator
    from wavelift.operators.control.cutover_plan import ApproveFinalizeOperator as ApproveFinalizeOperator
    from wavelift.operators.control.cutover_plan import GoOperator as GoOperator
    from wavelift.operators.control.cutover_plan import PlanCutoverOperator as PlanCutoverOperator
    from wavelift.operators.control.cutover_plan import PresyncOperator as PresyncOperator
    from wavelift.operators.control.cutover_plan import WindowOperator as WindowOperator
    from wavelift.operators.control.cutover_watch import CutoverUpkeepOperator as CutoverUpkeepOperator
    from wavelift.operators.control.cutover_watch import JudgeSourcesOperator as JudgeSourcesOperator
    from wavelift.operators.control.cutover_watch import WatchedSourcesOperator as WatchedSourcesOperator
    from wavelift.operators.control.export import AdmitExportOperator as AdmitExportOperator
    from wavelift.operators.control.export import BeginExportOperator as BeginExportOperator
    from wavelift.operators.control.export import CheckExportOperator as CheckExportOperator
    from wavelift.operators.control.export import ExportReportOperator as ExportReportOperator
    from wavelift.operators.control.export import RecordExportOperator as RecordExportOperator
    from wavelift.operators.control.export import ReleaseExportOperator as ReleaseExportOperator
    from wavelift.operators.control.export import RemoveExportOperator as RemoveExportOperator
    from wavelift.operators.control.export import ReserveExportOperator as ReserveExportOperator
    from wavelift.operators.control.export import SetupExportOperator as SetupExportOperator
    from wavelift.operators.control.export_upkeep import ExportUpkeepOperator as ExportUpkeepOperator
    from wavelift.operators.control.image import AmiOperator as AmiOperator
    from wavelift.operators.control.image import ImportImageOperator as ImportImageOperator
    from wavelift.operators.control.image import ImportServerOperator as ImportServerOperator
    from wavelift.operators.control.instance_export import InstanceExportOperator as InstanceExportOperator
    from wavelift.operators.control.launch import LaunchImportedOperator as LaunchImportedOperator
    from wavelift.operators.control.launch import LaunchInstanceOperator as LaunchInstanceOperator
    from wavelift.operators.control.live_move import ApproveSwitchoverOperator as ApproveSwitchoverOperator
    from wavelift.operators.control.live_move import FollowLiveOperator as FollowLiveOperator
    from wavelift.operators.control.live_move import LiveReportOperator as LiveReportOperator
    from wavelift.operators.control.live_move import MovedOperator as MovedOperator
    from wavelift.operators.control.live_move import RecordStartedOperator as RecordStartedOperator
    from wavelift.operators.control.live_move import VerifiedOperator as VerifiedOperator
    from wavelift.operators.control.live_plan import AdmitLiveOperator as AdmitLiveOperator
    from wavelift.operators.control.live_plan import ApproveLiveOperator as ApproveLiveOperator
    from wavelift.operators.control.live_plan import PlanLiveOperator as PlanLiveOperator
    from wavelift.operators.control.live_plan import ReserveLiveOperator as ReserveLiveOperator
    from wavelift.operators.control.live_plan import WindowLiveOperator as WindowLiveOperator
    from wavelift.operators.control.network import AdmitNetworkOperator as AdmitNetworkOperator
    from wavelift.operators.control.network import ApproveFinishOperator as ApproveFinishOperator
    from wavelift.operators.control.network import ApproveNetworkOperator as ApproveNetworkOperator
    from wavelift.operators.control.network import FinishedNetworkOperator as FinishedNetworkOperator
    from wavelift.operators.control.network import NetworkReportOperator as NetworkReportOperator
    from wavelift.operators.control.network import OrderFinishOperator as OrderFinishOperator
    from wavelift.operators.control.network import OrderNetworkOperator as OrderNetworkOperator
    from wavelift.operators.control.network import RecordNetworkOperator as RecordNetworkOperator
    from wavelift.operators.control.network import RevertedNetworkOperator as RevertedNetworkOperator
    from wavelift.operators.control.network import RevertFailedNetworkOperator as RevertFailedNetworkOperator
    from wavelift.operators.control.network import SettleNetworkOperator as SettleNetworkOperator
    from wavelift.operators.control.network_cutover import NetworkCutoverOperator as NetworkCutoverOperator
    from wavelift.operators.control.record import RecordOperator as RecordOperator
    from wavelift.operators.control.report import ReplicationReportOperator as ReplicationReportOperator
    from wavelift.operators.control.report import ReportOperator as ReportOperator
    from wavelift.operators.control.slots import ReleaseOperator as ReleaseOperator
    from wavelift.operators.control.slots import ReleaseRunOperator as ReleaseRunOperator
    from wavelift.operators.control.slots import ReserveOperator as ReserveOperator
    from wavelift.operators.control.slots import ReserveRunOperator as ReserveRunOperator
    from wavelift.operators.control.trial import AdmitTestOperator as AdmitTestOperator
    from wavelift.operators.control.trial import EndTestsOperator as EndTestsOperator
    from wavelift.operators.control.trial import LaunchTestOperator as LaunchTestOperator
    from wavelift.operators.control.trial import TestImagesOperator as TestImagesOperator
    from wavelift.operators.control.trial import TestReportOperator as TestReportOperator
    from wavelift.operators.control.trial import TestResultOperator as TestResultOperator
    from wavelift.operators.control.upkeep import DeleteReplicasOperator as DeleteReplicasOperator
    from wavelift.operators.hcx import HcxMigrateOperator as HcxMigrateOperator
    from wavelift.operators.hcx import HcxValidateOperator as HcxValidateOperator
    from wavelift.operators.network import SegmentConnectivityOperator as SegmentConnectivityOperator
    from wavelift.operators.network import UnextendNetworkOperator as UnextendNetworkOperator

OPERATORS: Final = {
    "connector.checks": (
        "CheckInstanceOperator",
        "CheckTestOperator",
    ),
    "connector.cutover": (
        "CutoverSnapshotOperator",
        "FinalRunOperator",
        "StopSourceOperator",
    ),
    "approval": ("ApproveOperator",),
    "connector.cutover_preflight": ("CutoverPreflightOperator",),
    "control.cutover_plan": (
        "AdmitCutoverOperator",
        "ApproveCutoverOperator",
        "ApproveFinalizeOperator",
        "GoOperator",
        "PlanCutoverOperator",
        "PresyncOperator",
        "WindowOperator",
    ),
    "connector.cutover_back": ("FenceSourcesOperator", "LookAtSourcesOperator", "StartSourcesOperator"),
    "connector.export": (
        "DiskUploadOperator",
        "VmExportOperator",
    ),
    "connector.export_instance": ("ReadInstanceOperator", "VerifyExportOperator"),
    "connector.inventory": (
        "CatalogInventoryOperator",
        "ConnectorCheckOperator",
    ),
    "connector.live": (
        "LiveCancelOperator",
        "LiveFollowNearOperator",
        "LivePreflightOperator",
        "LiveVerifyDestinationOperator",
        "LiveVerifySourceOperator",
    ),
    "connector.network": (
        "ActNetworkOperator",
        "FinishNetworkOperator",
        "LookNetworkOperator",
        "ProbeNetworkOperator",
    ),
    "hcx": ("HcxMigrateOperator", "HcxValidateOperator"),
    "network": ("SegmentConnectivityOperator", "UnextendNetworkOperator"),
    "connector.preflight": ("PreflightOperator",),
    "connector.replication": (
        "ReplicationPreflightOperator",
        "ReplicationRunOperator",
        "VerifyRecordedOperator",
        "VerifyReplicatedOperator",
    ),
    "connector.snapshot": (
        "RemoveSnapshotOperator",
        "VmSnapshotOperator",
    ),
    "connector.verify": (
        "CompareOperator",
        "VerifyImportedOperator",
        "VerifyOperator",
    ),
    "control.admit": (
        "AdmitOperator",
        "AdmitReplicationOperator",
    ),
    "control.backup": ("BackupInstanceOperator",),
    "control.catalog": (
        "BeginCatalogImportOperator",
        "BeginHealthCheckOperator",
        "CloseCatalogImportOperator",
        "MergeCatalogOperator",
        "RecordHealthOperator",
    ),
    "control.cutover_back": (
        "CutoverReportOperator",
        "FinalizeOperator",
        "PrepareOperator",
        "RevertFailedOperator",
        "RevertedOperator",
        "UndoOperator",
    ),
    "control.cutover_move": (
        "CutoverAmiOperator",
        "LaunchTargetOperator",
        "RecordFinalOperator",
        "ReserveCutoverOperator",
        "SwitchOperator",
    ),
    "control.cutover_watch": ("CutoverUpkeepOperator", "JudgeSourcesOperator", "WatchedSourcesOperator"),
    "control.export": (
        "AdmitExportOperator",
        "BeginExportOperator",
        "CheckExportOperator",
        "ExportReportOperator",
        "RecordExportOperator",
        "ReleaseExportOperator",
        "RemoveExportOperator",
        "ReserveExportOperator",
        "SetupExportOperator",
    ),
    "control.export_upkeep": ("ExportUpkeepOperator",),
    "control.image": (
        "AmiOperator",
        "ImportImageOperator",
        "ImportServerOperator",
    ),
    "control.instance_export": ("InstanceExportOperator",),
    "control.launch": (
        "LaunchImportedOperator",
        "LaunchInstanceOperator",
    ),
    "control.live_move": (
        "ApproveSwitchoverOperator",
        "FollowLiveOperator",
        "LiveReportOperator",
        "MovedOperator",
        "RecordStartedOperator",
        "VerifiedOperator",
    ),
    "control.live_plan": (
        "AdmitLiveOperator",
        "ApproveLiveOperator",
        "PlanLiveOperator",
        "ReserveLiveOperator",
        "WindowLiveOperator",
    ),
    "control.network": (
        "AdmitNetworkOperator",
        "ApproveFinishOperator",
        "ApproveNetworkOperator",
        "FinishedNetworkOperator",
        "NetworkReportOperator",
        "OrderFinishOperator",
        "OrderNetworkOperator",
        "RecordNetworkOperator",
        "RevertFailedNetworkOperator",
        "RevertedNetworkOperator",
        "SettleNetworkOperator",
    ),
    "control.network_cutover": ("NetworkCutoverOperator",),
    "control.record": ("RecordOperator",),
    "control.report": (
        "ReplicationReportOperator",
        "ReportOperator",
    ),
    "control.slots": (
        "ReleaseOperator",
        "ReleaseRunOperator",
        "ReserveOperator",
        "ReserveRunOperator",
    ),
    "control.trial": (
        "AdmitTestOperator",
        "EndTestsOperator",
        "LaunchTestOperator",
        "TestImagesOperator",
        "TestReportOperator",
        "TestResultOperator",
    ),
    "control.upkeep": ("DeleteReplicasOperator",),
}
"""Module → its public operators."""
_HOME = {name: module for module, names in OPERATORS.items() for name in names}


def __dir__() -> list[str]:
    return sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_HOME)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
