"""What is imported before Airflow forks its task processes, and what that must not do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wavelift.airflow.preload import LOCAL_SETTINGS, packages_for

pytestmark = pytest.mark.airflow

OUR_WORK = (
    "boto3",
    "pyVmomi",
    "wavelift.services.dataplane.transfer",
    "wavelift.operators.connector.export",
    "wavelift.ledger",
)
"""Some of what task processes import."""
SECRET = "a-secret-nobody-may-read"
OPENS_NOTHING = """
import os, pathlib, sys, sysconfig
import airflow.sdk  # a parent has loaded Airflow and opened its log: what it opens itself is not ours
events = []
trusted = (*sysconfig.get_paths().values(), sys.base_prefix, sys.prefix, os.environ["SOURCES"], "/proc", os.devnull)

def hook(event, args):
    # croniter asks `file` what Python is, while it is imported. urllib3 binds a socket for a moment, to no harm.
    if event == "subprocess.Popen" and args[1][0] == "file":
        return
    if event in ("socket.connect", "subprocess.Popen", "os.fork", "_thread.start_new_thread"):
        events.append([event, repr(args)[:200]])
    if event == "open" and isinstance(args[0], str) and not os.path.realpath(args[0]).startswith(trusted):
        events.append([event, args[0]])

def state():
    return [sorted(os.listdir("/proc/self/fd")), os.listdir("/proc/self/task")]

import wavelift.airflow.preload as preload
before = state()
sys.addaudithook(hook)
preload.load()
seen = list(events)
import gc
frozen = gc.get_freeze_count()
gc.unfreeze()  # what is frozen is in no list
told = {
    "events": seen, "before": before, "after": state(), "frozen": frozen,
    "sessions": [
        repr(one) for one in gc.get_objects() if type(one).__module__ in ("botocore.session", "boto3.session")
    ],
    "loaded": sorted(sys.modules),
}
"""


def python(code: str, tmp_path: Path, **environment: str) -> Any:
    """What ``code`` left in ``told``, run in a new interpreter whose Airflow has the shipped file."""
    home = tmp_path / "airflow"
    (home / "config").mkdir(parents=True, exist_ok=True)
    (home / "config" / LOCAL_SETTINGS.name).write_bytes(LOCAL_SETTINGS.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json\nprint(json.dumps(told))"],
        env={**os.environ, "AIRFLOW_HOME": str(home), "HOME": str(tmp_path), **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *said, told = done.stdout.splitlines()
    return {**json.loads(told), "said": "\n".join([*said, done.stderr])}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("scheduler", True),
        ("scheduler --num-runs 3", True),
        ("triggerer", True),
        ("dag-processor", True),
        ("celery worker --queues default", True),
        ("edge worker", True),
        ("celery flower", False),
        ("api-server", False),
        ("version", False),
        ("db migrate", False),
        ("dags list", False),
        ("", False),
    ],
)
def test_only_commands_that_fork_tasks_preload(words: str, wanted: bool) -> None:
    assert bool(packages_for(["airflow", *words.split()])) is wanted


def test_preloading_opens_nothing_and_reads_no_secret(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    for name in ("credentials", "config"):
        (tmp_path / ".aws" / name).write_text(f"[default]\naws_secret_access_key = {SECRET}\n")
    sources = str(Path(__file__).parents[2])
    told = python(OPENS_NOTHING, tmp_path, SOURCES=sources, AWS_SECRET_ACCESS_KEY=SECRET)
    assert not told["events"], "\n".join(map(str, told["events"]))
    assert told["before"] == told["after"], "file handles and threads"
    assert told["sessions"] == []
    assert told["frozen"] > 100_000
    assert set(OUR_WORK) <= set(told["loaded"])
    assert "not be preloaded" not in told["said"]


def test_a_command_that_forks_has_it_in_its_children_and_loads_once(tmp_path: Path) -> None:
    told = python(
        f"""
import os, sys
sys.argv = ["airflow", "scheduler"]
import airflow
import wavelift.airflow.preload as preload
early = [name for name in {OUR_WORK} if name in sys.modules]
loads = []
real = preload.load
preload.load = lambda packages: (loads.append(1), real(packages))
for _ in range(2):
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, b"1" * sum(name in sys.modules for name in {OUR_WORK}))
        os._exit(0)
    os.close(writing)
    os.wait()
    children = len(os.read(reading, 100))
told = {{"early": early, "loads": len(loads), "children": children}}
""",
        tmp_path,
    )
    assert told["early"] == [], "the file itself imports nothing"
    assert told["loads"] == 1
    assert told["children"] == len(OUR_WORK)


def test_airflow_version_pays_nothing(tmp_path: Path) -> None:
    told = python(
        """
import sys
sys.argv = ["airflow", "version"]
import airflow, os
if not os.fork():
    os._exit(0)
os.wait()
told = {"ours": sorted(name for name in sys.modules if name.split(".")[0] in ("wavelift", "boto3", "pyVmomi"))}
""",
        tmp_path,
    )
    # Airflow loads provider_info, since it asks every provider for its settings; they come from base.settings.
    allowed = {"wavelift", "wavelift.airflow", "wavelift.airflow.preload", "wavelift.airflow.provider_info"}
    allowed |= {"wavelift.base", "wavelift.base.settings"}
    assert set(told["ours"]) == allowed


def test_a_cluster_policy_may_stand_in_the_same_file(tmp_path: Path) -> None:
    told = python(
        """
import os, pathlib, sys
file = pathlib.Path(os.environ["AIRFLOW_HOME"]) / "config" / "airflow_local_settings.py"
file.write_text(file.read_text() + "\\ndef task_policy(task):\\n    task.doc = 'seen'\\n")
sys.argv = ["airflow", "version"]
import airflow
from airflow.settings import task_policy
from types import SimpleNamespace
task = SimpleNamespace(doc="")
task_policy(task)
told = {"doc": task.doc}
""",
        tmp_path,
    )
    assert told["doc"] == "seen"


def test_what_cannot_be_preloaded_is_a_log_line(tmp_path: Path) -> None:
    told = python(
        """
import wavelift.airflow.preload as preload
preload.SERVICES = ("ec2", "no-such-service")
preload.load(("wavelift.nowhere", *preload.TASKS))
import sys
told = {"loaded": sorted(sys.modules)}
""",
        tmp_path,
    )
    assert set(OUR_WORK) <= set(told["loaded"])
    assert "wavelift.nowhere could not be preloaded" in told["said"]
    assert "AWS's service models could not be preloaded" in told["said"]


def test_airflow_starts_with_a_wavelift_that_cannot_be_imported(tmp_path: Path) -> None:
    told = python(
        """
import sys
sys.modules["wavelift.airflow.preload"] = None
sys.argv = ["airflow", "scheduler"]
import airflow
told = {"version": airflow.__version__}
""",
        tmp_path,
    )
    assert told["version"]
    assert "wavelift could not be preloaded" in told["said"]


LOOKS = f"""
import sys
LOADED = [name for name in {OUR_WORK} if name in sys.modules]
from airflow.sdk import DAG, task

with DAG("preloaded", schedule=None, catchup=False):

    @task
    def tell():
        return LOADED

    tell()
"""


def test_a_running_airflow_hands_its_imports_to_its_tasks(world: Any) -> None:
    """A DAG file that imports nothing of ours finds it all there in a task's process."""
    (world.dags / "preloaded.py").write_text(LOOKS)
    run_id = world.airflow.trigger("preloaded")
    assert world.airflow.wait_for_run("preloaded", run_id, timeout=240) == "success"
    assert world.api.xcom("preloaded", run_id, "tell") == list(OUR_WORK)
