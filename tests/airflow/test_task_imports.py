"""The modules that the process of each operator may import: without the preload, every start imports them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import wavelift.operators
import wavelift.sensors

pytestmark = pytest.mark.airflow

HEAVY: Final = {
    "aws": "boto3",
    "vsphere": "pyVmomi",
    "ledger": "wavelift.ledger",
    "specs": "wavelift.specs",
}
"""Word → what is dear to import, or may not be where a connector stands."""
# The tasks of a server read the specs only if their run has ended and is continued.
MAY_LOAD: Final = {
    "ActNetworkOperator": "vsphere",
    "AdmitCutoverOperator": "ledger specs",
    "AdmitExportOperator": "ledger specs",
    "AdmitLiveOperator": "ledger specs",
    "AdmitNetworkOperator": "ledger specs",
    "AdmitOperator": "ledger specs",
    "AdmitReplicationOperator": "ledger specs",
    "AdmitTestOperator": "ledger specs",
    "AmiOperator": "aws ledger specs",
    "ApproveCutoverOperator": "ledger specs",
    "ApproveFinalizeOperator": "ledger specs",
    "ApproveFinishOperator": "ledger specs",
    "ApproveLiveOperator": "ledger specs",
    "ApproveNetworkOperator": "ledger specs",
    "ApproveOperator": "ledger specs",
    "ApproveSwitchoverOperator": "ledger specs",
    "BackupInstanceOperator": "aws ledger specs",
    "BeginCatalogImportOperator": "ledger",
    "BeginExportOperator": "aws ledger",
    "BeginHealthCheckOperator": "ledger",
    "CatalogInventoryOperator": "vsphere",
    "CheckExportOperator": "aws ledger",
    "CheckInstanceOperator": "aws",
    "CheckTestOperator": "aws",
    "CloseCatalogImportOperator": "ledger",
    "CompareOperator": "aws",
    "ConnectorCheckOperator": "aws vsphere",
    "CutoverAmiOperator": "aws ledger specs",
    "CutoverPreflightOperator": "aws vsphere",
    "CutoverReportOperator": "aws ledger",
    "CutoverSnapshotOperator": "vsphere",
    "CutoverUpkeepOperator": "aws ledger",
    "DeleteReplicasOperator": "aws ledger",
    "DiskUploadOperator": "aws",
    "EndTestsOperator": "aws ledger",
    "ExportReportOperator": "ledger",
    "ExportUpkeepOperator": "aws ledger",
    "FenceSourcesOperator": "vsphere",
    "FinalRunOperator": "aws vsphere",
    "FinalizeOperator": "aws ledger specs",
    "FinishNetworkOperator": "vsphere",
    "FinishedNetworkOperator": "ledger specs",
    "FollowLiveOperator": "ledger specs",
    "GoOperator": "ledger specs",
    "HcxMigrateOperator": "",
    "HcxMigrationSensor": "",
    "HcxValidateOperator": "",
    "ImportImageOperator": "aws",
    "ImportImageSensor": "aws",
    "ImportServerOperator": "aws ledger specs",
    "InstanceExportOperator": "ledger specs",
    "InstanceExportSensor": "ledger",
    "JudgeSourcesOperator": "aws ledger specs",
    "LaunchImportedOperator": "aws ledger specs",
    "LaunchInstanceOperator": "aws ledger specs",
    "LaunchTargetOperator": "aws ledger specs",
    "LaunchTestOperator": "aws ledger specs",
    "LiveCancelOperator": "",
    "LiveFollowNearOperator": "",
    "LivePreflightOperator": "vsphere",
    "LiveReportOperator": "ledger",
    "LiveVerifyDestinationOperator": "vsphere",
    "LiveVerifySourceOperator": "vsphere",
    "LookAtSourcesOperator": "vsphere",
    "LookNetworkOperator": "vsphere",
    "MergeCatalogOperator": "ledger",
    "MovedOperator": "ledger specs",
    "NetworkCutoverOperator": "ledger specs",
    "NetworkReportOperator": "ledger",
    "OrderFinishOperator": "ledger specs",
    "OrderNetworkOperator": "ledger specs",
    "PlanCutoverOperator": "aws ledger",
    "PlanLiveOperator": "ledger specs",
    "PreflightOperator": "aws vsphere",
    "PrepareOperator": "aws ledger specs",
    "PresyncOperator": "ledger",
    "ProbeNetworkOperator": "aws",
    "ReadInstanceOperator": "aws",
    "RecordExportOperator": "aws ledger",
    "RecordFinalOperator": "aws ledger specs",
    "RecordHealthOperator": "ledger",
    "RecordNetworkOperator": "ledger specs",
    "RecordOperator": "aws ledger specs",
    "RecordStartedOperator": "ledger specs",
    "ReleaseExportOperator": "ledger",
    "ReleaseOperator": "ledger specs",
    "ReleaseRunOperator": "ledger specs",
    "RemoveExportOperator": "aws ledger",
    "RemoveSnapshotOperator": "aws vsphere",
    "ReplicationPreflightOperator": "aws vsphere",
    "ReplicationReportOperator": "aws ledger",
    "ReplicationRunOperator": "aws vsphere",
    "ReportOperator": "aws ledger",
    "ReserveCutoverOperator": "ledger specs",
    "ReserveExportOperator": "ledger specs",
    "ReserveLiveOperator": "ledger specs",
    "ReserveOperator": "ledger specs",
    "ReserveRunOperator": "ledger specs",
    "RevertFailedNetworkOperator": "ledger specs",
    "RevertFailedOperator": "aws ledger",
    "RevertedNetworkOperator": "ledger specs",
    "RevertedOperator": "aws ledger specs",
    "SegmentConnectivityOperator": "vsphere",
    "SettleNetworkOperator": "ledger specs",
    "SetupExportOperator": "aws ledger specs",
    "StartSourcesOperator": "vsphere",
    "StopSourceOperator": "vsphere",
    "SwitchOperator": "aws ledger specs",
    "TestImagesOperator": "aws ledger",
    "TestReportOperator": "ledger",
    "TestResultOperator": "aws ledger specs",
    "UndoOperator": "aws ledger specs",
    "UnextendNetworkOperator": "vsphere",
    "VerifiedOperator": "ledger specs",
    "VerifyExportOperator": "aws",
    "VerifyImportedOperator": "aws",
    "VerifyOperator": "aws",
    "VerifyRecordedOperator": "aws",
    "VerifyReplicatedOperator": "aws",
    "VmExportOperator": "aws vsphere",
    "VmSnapshotOperator": "vsphere",
    "WatchedSourcesOperator": "aws ledger",
    "WindowLiveOperator": "ledger specs",
    "WindowOperator": "ledger",
    "NetworkCutoverSensor": "ledger",
    "ReplicationRunSensor": "ledger",
    "VmPowerStateSensor": "vsphere",
}
ASKED: Final = (
    "aws",
    "aws_of",
    "vcenter",
    "ledger",
    "resolved",
    "lost_rights",
    "rights",
    "terms",
    "wait_in_queue",
    "wait_for_slot",
)
"""Methods whose imports count only for a class that calls them, by its own methods or its bases'."""
LOADER: Final = """
import ast, importlib, inspect, json, os, sys, textwrap
import airflow.sdk, airflow.sdk.execution_time.task_runner
from airflow.sdk import BaseOperator
# What most share, once: nothing of it is held against an operator.
import alembic.config, botocore.client, botocore.credentials, sqlalchemy.dialects.sqlite
import wavelift.operators._base, wavelift.services.dataplane.messages

heavy, asked, names = json.loads(sys.argv[1])

def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (one.name for one in node.names)

def needed(kind):
    classes = [one for one in kind.__mro__ if one.__module__.startswith("wavelift.")]
    trees = {one: ast.parse(textwrap.dedent(inspect.getsource(one))).body[0] for one in classes}
    methods = [one for tree in trees.values() for one in tree.body if isinstance(one, ast.FunctionDef)]
    used = [one for one in methods if one.name not in asked]
    for method in used:  # grows
        called = {one.attr for one in ast.walk(method) if isinstance(one, ast.Attribute)}
        used += [one for one in methods if one.name in asked and one.name in called and one not in used]
        yield from imports(method)

def apart(work, *given):
    sys.stdout.flush()
    if not os.fork():
        work(*given)
        sys.stdout.flush()
        os._exit(0)
    os.wait()

def of_module(module, names):
    kinds = importlib.import_module(module)
    alike = {}
    for name in names:
        alike.setdefault(frozenset(needed(getattr(kinds, name))), []).append(name)
    for modules, names in alike.items():
        apart(load, modules, names)

def load(modules, names):
    for module in modules:
        importlib.import_module(module)
    loaded = [w for w, m in heavy.items() if any(one == m or one.startswith(m + ".") for one in sys.modules)]
    for name in names:
        print(json.dumps([name, loaded]))

homes = {}
for package, name in names:
    homes.setdefault(f"{package}.{importlib.import_module(package)._HOME[name]}", []).append(name)
for module, names in homes.items():
    apart(of_module, module, names)
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What importing an operator and everything that its methods import brings: a process for each set of imports."""
    names = [(module.__name__, name) for module in (wavelift.operators, wavelift.sensors) for name in module.__all__]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, json.dumps([HEAVY, ASKED, names])],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    found = {name: set(words) for name, words in rows}
    assert set(found) == {name for _, name in names}, done.stderr[-2000:]
    return found


def test_each_operator_loads_only_what_its_task_uses(loaded: dict[str, set[str]]) -> None:
    allowed = {name: set(words.split()) for name, words in MAY_LOAD.items()}
    assert set(allowed) == set(loaded)
    too_much = {name: words - allowed[name] for name, words in loaded.items() if words - allowed[name]}
    assert not too_much
    stale = {name: words - loaded[name] for name, words in allowed.items() if words - loaded[name]}
    assert not stale, "allowed, and not used any more"
