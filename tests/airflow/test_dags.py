"""What a DAG file costs and builds; a process of their own each, since imports can't be undone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.airflow

VENDORS = ("boto3", "botocore", "pyVmomi", "moto", "isal", "cryptography.x509", "wavelift.ledger", "wavelift.adapters")
PARSE = """
import json, os, runpy, sys
from airflow.sdk.definitions import _internal
import airflow.sdk

def parse(job):
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = job["dags"]
    if job["context"]:
        os.environ["_AIRFLOW_PARSING_CONTEXT_DAG_ID"] = job["context"]
    before = set(sys.modules)
    found = runpy.run_path(os.path.join(job["dags"], job["file"]))
    dags = {{name: value for name, value in found.items() if type(value).__name__ == "DAG"}}
    tasks = [
        [task.task_id, task.retries, bool(task.retry_exponential_backoff), task.queue,
         getattr(task, "is_teardown", False), task.pool]
        for dag in dags.values() for task in dag.tasks
    ]
    vendors = sorted(name for name in set(sys.modules) - before if name.startswith({vendors!r}))
    forms = {{name: list(dag.params) for name, dag in dags.items()}}
    with_forms = [task.task_id for dag in dags.values() for task in dag.tasks if task.params]
    paused = [name for name, dag in dags.items() if dag.is_paused_upon_creation is not False]
    return {{"dags": sorted(dags), "paused": sorted(paused), "tasks": tasks, "vendors": vendors, "forms": forms,
            "tasks_with_forms": with_forms}}

for line in sys.stdin:
    if os.fork() == 0:
        print(json.dumps(parse(json.loads(line))), flush=True)
        os._exit(0)
    if os.wait()[1]:
        break
"""


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A process that has imported Airflow's SDK and nothing of ours; each file is parsed in a child of it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "_AIRFLOW"))}
    home = tmp_path_factory.mktemp("home")
    with (home / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", PARSE.format(vendors=VENDORS)],
            env={**environment, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with process:
            yield process
    assert process.returncode == 0, (home / "stderr").read_text()


def _parse(parser: subprocess.Popen[str], dags: Path, *, file: str = "waves.py", context: str = "") -> dict[str, Any]:
    assert parser.stdin is not None
    assert parser.stdout is not None
    parser.stdin.write(json.dumps({"dags": str(dags), "file": file, "context": context}) + "\n")
    parser.stdin.flush()
    while not (line := parser.stdout.readline()).startswith('{"dags"'):
        assert line, "it ended"
    return dict(json.loads(line))


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DAGs folder with three copies of the demo's wave under other names."""
    root = Path(__file__).resolve().parents[2] / "dags"
    folder = tmp_path_factory.mktemp("dags")
    for name in ("waves", "environments"):
        (folder / name).mkdir()
    for name in ("waves.py", "wave_errors.py", "exports.py", "catalog.py", "environments/demo.yaml"):
        (folder / name).write_text((root / name).read_text())
    text = (root / "waves" / "demo.yaml").read_text()
    for name in ("one", "two", "three"):
        (folder / "waves" / f"{name}.yaml").write_text(text.replace("wave: demo", f"wave: {name}", 1))
    return folder


def test_parsing_waves_imports_no_vendor_library_and_no_ledger(dags: Path, parser: Any) -> None:
    parsed = _parse(parser, dags)
    assert parsed["dags"] == ["one.migrate", "three.migrate", "two.migrate"]
    assert parsed["vendors"] == []


def test_a_task_process_builds_its_own_dag_only(dags: Path, parser: Any) -> None:
    assert _parse(parser, dags, context="two.migrate")["dags"] == ["two.migrate"]


def test_the_file_of_errors_has_no_dag(dags: Path, parser: Any) -> None:
    """A DAG that is built in two files belongs to the one that was parsed last: its tasks would not find it."""
    assert _parse(parser, dags, file="wave_errors.py")["dags"] == []


def test_air_03_every_task_retries_with_back_off(dags: Path, parser: Any) -> None:
    parsed = _parse(parser, dags, context="one.migrate")
    tasks = {
        name: dict(zip(("retries", "backoff", "queue", "teardown", "pool"), rest, strict=True))
        for name, *rest in parsed["tasks"]
    }
    assert len(tasks) == 14
    assert all(task["retries"] >= 2 and task["backoff"] for task in tasks.values()), tasks
    assert {name for name, task in tasks.items() if task["teardown"]} == {
        "server.remove_snapshot",
        "server.release",
        "report",
    }
    assert sum(name.startswith("server.") for name in tasks) == 9
    assert tasks["server.remove_snapshot"]["retries"] >= 8, "a snapshot that stays hurts the customer"


def test_air_05_a_wave_with_a_replication_section_has_a_replicate_dag(dags: Path, parser: Any) -> None:
    path = dags / "waves" / "copied.yaml"
    text = (dags / "waves" / "one.yaml").read_text().replace("wave: one", "wave: copied", 1)
    path.write_text(text + "\nreplication: {frequency_hours: 12}\n")
    try:
        parsed = _parse(parser, dags)
        assert parsed["dags"] == ["copied.migrate", "copied.replicate", "one.migrate", "three.migrate", "two.migrate"]
        assert parsed["vendors"] == []
        parsed = _parse(parser, dags, context="copied.replicate")
    finally:
        path.unlink()
    assert parsed["dags"] == ["copied.replicate"]
    tasks = {name: (retries, teardown) for name, retries, _, _, teardown, _ in parsed["tasks"]}
    teardowns = {"server.remove_snapshot", "server.release", "report"}
    assert {name for name, (_, teardown) in tasks.items() if teardown} == teardowns
    assert sum(name.startswith("server.") for name in tasks) == 8
    assert all(retries >= 2 for retries, _ in tasks.values())


def test_the_form_is_not_copied_into_every_task(dags: Path, parser: Any) -> None:
    """Airflow gives each task a copy of the parameters that its DAG has by then: 14 lists of all servers' names."""
    parsed = _parse(parser, dags, context="one.migrate")
    assert parsed["forms"] == {"one.migrate": ["servers", "launch", "mode", "priority", "note"]}
    assert parsed["tasks_with_forms"] == []


def test_the_catalogue_has_dags_for_each_connector_and_no_vendor_library(dags: Path, parser: Any) -> None:
    connector = yaml.safe_load((dags / "waves" / "one.yaml").read_text())["source"].get("connector", "default")
    parsed = _parse(parser, dags, file="catalog.py")
    ids = {"server_catalog", "connector_health", "cutover_watch"}
    named = {f"{name}.{connector}" for name in ids if connector != "default"}
    assert parsed["dags"] == sorted(ids | named | {"environment_check", "instance_backup", "cutover_upkeep"})
    assert parsed["vendors"] == []
    unpaused = set(parsed["dags"]) - set(parsed["paused"])
    assert unpaused == {name for name in parsed["dags"] if name.startswith("cutover_")}, "before any wave cuts over"
    queues = {task: queue for task, _, _, queue, _, _ in parsed["tasks"] if queue != "default"}
    assert set(queues.values()) <= {connector}


def test_amp_10_only_an_environment_with_exports_has_a_dag_for_them(dags: Path, parser: Any) -> None:
    path = dags / "environments" / "wayout.yaml"
    spec = yaml.safe_load((dags / "environments" / "demo.yaml").read_text())
    others = set(_parse(parser, dags, file="exports.py")["dags"])
    path.write_text(yaml.safe_dump({**spec, "environment": "wayout", "queue": "near", "exports": {"name": "acme"}}))
    try:
        parsed = _parse(parser, dags, file="exports.py")
        assert set(parsed["dags"]) - others == {"instance_export.wayout"}
        assert (parsed["vendors"], parsed["tasks_with_forms"]) == ([], [])
        one = _parse(parser, dags, file="exports.py", context="instance_export.wayout")
        path.write_text("environment: [")
        broken = _parse(parser, dags, file="exports.py")
    finally:
        path.unlink()
    assert one["dags"] == ["instance_export.wayout"]
    assert {task for task, _, _, queue, _, _ in one["tasks"] if queue == "near"} == {"read", "verify"}
    assert all(retries >= 2 for _, retries, *_ in one["tasks"])
    assert "instance_export.wayout" in broken["dags"], "a typing error ends no run"
    gone = _parse(parser, dags, file="exports.py", context="instance_export.wayout")
    assert gone["dags"] == ["instance_export.wayout"], "its run goes on"


def test_a_task_process_of_the_catalogue_reads_no_spec(dags: Path, parser: Any) -> None:
    """Its connector may be named by no wave any more: the run still ends."""
    parsed = _parse(parser, dags, file="catalog.py", context="server_catalog.gone")
    assert parsed["dags"] == ["server_catalog.gone"]
    tasks = {task: (queue, teardown) for task, _, _, queue, teardown, _ in parsed["tasks"]}
    assert tasks == {
        "begin": ("default", False),
        "inventory": ("gone", False),
        "merge": ("default", False),
        "close": ("default", True),
    }
    assert _parse(parser, dags, file="catalog.py", context="one.migrate")["dags"] == []


def test_airflow_itself_refuses_runs_that_nobody_stands_behind() -> None:
    """``admit`` refuses them, too; here a backfill is not even made."""
    from airflow.sdk.api.datamodels._generated import DagRunType

    from wavelift.dag_factory.environments import check_dag
    from wavelift.dag_factory.migrate import migrate_dag
    from wavelift.dag_factory.replicate import replicate_dag
    from wavelift.rules.plans import WaveShape

    shape = WaveShape("one", replicates=True)
    by_name = {"manual", "operator_triggered"}
    for dag, kinds in (
        (migrate_dag(shape), by_name),
        (replicate_dag(shape), {*by_name, "scheduled"}),
        (check_dag(), by_name),
    ):
        assert {DagRunType(kind) for kind in dag.allowed_run_types or ()} == {DagRunType(kind) for kind in kinds}
        assert dag.access_control is None, "an unknown role there would be an import error of the whole file"
