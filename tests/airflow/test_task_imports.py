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
    "AdmitCutoverOperator": "ledger specs",
    "AdmitOperator": "ledger specs",
    "AdmitReplicationOperator": "ledger specs",
    "AdmitTestOperator": "ledger specs",
    "AmiOperator": "aws ledger specs",
    "ApproveCutoverOperator": "ledger specs",
    "ApproveFinalizeOperator": "ledger specs",
    "ApproveOperator": "ledger specs",
    "BackupInstanceOperator": "aws ledger specs",
    "BeginCatalogImportOperator": "ledger",
    "BeginHealthCheckOperator": "ledger",
    "CatalogInventoryOperator": "vsphere",
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
    "FenceSourcesOperator": "vsphere",
    "FinalRunOperator": "aws vsphere",
    "FinalizeOperator": "aws ledger specs",
    "GoOperator": "ledger specs",
    "ImportImageOperator": "aws",
    "ImportServerOperator": "aws ledger specs",
    "JudgeSourcesOperator": "aws ledger specs",
    "LaunchImportedOperator": "aws ledger specs",
    "LaunchInstanceOperator": "aws ledger specs",
    "LaunchTargetOperator": "aws ledger specs",
    "LaunchTestOperator": "aws ledger specs",
    "LookAtSourcesOperator": "vsphere",
    "MergeCatalogOperator": "ledger",
    "PlanCutoverOperator": "aws ledger",
    "PreflightOperator": "aws vsphere",
    "PrepareOperator": "aws ledger specs",
    "PresyncOperator": "ledger",
    "RecordFinalOperator": "aws ledger specs",
    "RecordHealthOperator": "ledger",
    "RecordOperator": "aws ledger specs",
    "ReleaseOperator": "ledger specs",
    "ReleaseRunOperator": "ledger specs",
    "RemoveSnapshotOperator": "aws vsphere",
    "ReplicationPreflightOperator": "aws vsphere",
    "ReplicationReportOperator": "aws ledger",
    "ReplicationRunOperator": "aws vsphere",
    "ReportOperator": "aws ledger",
    "ReserveCutoverOperator": "ledger specs",
    "ReserveOperator": "ledger specs",
    "ReserveRunOperator": "ledger specs",
    "RevertFailedOperator": "aws ledger",
    "RevertedOperator": "aws ledger specs",
    "StartSourcesOperator": "vsphere",
    "StopSourceOperator": "vsphere",
    "SwitchOperator": "aws ledger specs",
    "TestImagesOperator": "aws ledger",
    "TestReportOperator": "ledger",
    "TestResultOperator": "aws ledger specs",
    "UndoOperator": "aws ledger specs",
    "VerifyImportedOperator": "aws",
    "VerifyOperator": "aws",
    "VerifyRecordedOperator": "aws",
    "VerifyReplicatedOperator": "aws",
    "VmExportOperator": "aws vsphere",
    "VmSnapshotOperator": "vsphere",
    "WatchedSourcesOperator": "aws ledger",
    "WindowOperator": "ledger",
    "ImportImageSensor": "aws",
    "ReplicationRunSensor": "ledger",
    "VmPowerStateSensor": "vsphere",
}
ASKED: Final = ("aws", "aws_of", "vcenter", "ledger", "resolved", "rights", "terms", "wait_in_queue", "wait_for_slot")
"""Methods whose imports count only for a class that calls them, by its own methods or its bases'."""
LOADER: Final = """
import ast, importlib, inspect, json, os, sys, textwrap
import airflow.sdk, airflow.sdk.execution_time.task_runner
from airflow.sdk import BaseOperator

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

for package, name in names:
    sys.stdout.flush()
    if not os.fork():
        kind = getattr(importlib.import_module(package), name)
        for module in needed(kind):
            importlib.import_module(module)
        loaded = [w for w, m in heavy.items() if any(one == m or one.startswith(m + ".") for one in sys.modules)]
        print(json.dumps([name, loaded]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What importing an operator and everything that its methods import brings, each in a process of its own."""
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
