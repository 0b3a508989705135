"""Parsing 50 wave files of 150 servers into DAGs and serialising them. The import of Airflow is not included.

This is the cost of each pass of the DAG processor. The peer is 50 hand-written DAG files that use only Airflow's own
classes, with the same number of tasks, the same number of mapped tasks, and the same form with the same names. Floor:
PyYAML's C loader reads the wave files, because every solution that keeps 7,500 servers in YAML must do this. No disk
is transferred, so no bytes are counted.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks import harness

WAVES, SERVERS = 50, 150
PEER: Final = "DAG files by hand"

BY_HAND: Final = """
from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param, task_group

SERVERS = {servers!r}

with DAG(
    "{wave}.byhand",
    description="Migrate the servers of {wave}",
    schedule=None,
    catchup=False,
    max_active_runs=16,
    tags=["wave:{wave}"],
    params={{
        "servers": Param(
            None,
            type=["null", "array"],
            items={{"type": "string"}},
            examples=SERVERS,
            title="Servers",
            description="If none is chosen: every server of the wave.",
        ),
        "launch": Param("spec", type="string", enum=["spec", "none", "running"], title="Launch"),
        "mode": Param("migrate", type="string", enum=["migrate", "plan", "preflight", "cleanup"], title="Mode"),
        "note": Param(None, type=["null", "string"], format="multiline", title="Note"),
    }},
    default_args={{"retries": 2, "retry_delay": timedelta(seconds=30), "retry_exponential_backoff": True}},
) as dag:
    before = [BashOperator(task_id=f"before_{{n}}", bash_command="true", queue="dc1") for n in range({single})]

    @task_group(group_id="server")
    def per_server(server):
        last = None
        for n in range({mapped}):
            step = BashOperator(task_id=f"step_{{n}}", bash_command="true", env={{"SERVER": server}}, queue="dc1")
            if last:
                last >> step
            last = step

    before[:-1] >> per_server.expand(server=before[0].output) >> before[-1]
"""
"""One DAG file; the last of the single tasks is its report."""


def make_specs(folder: Path) -> None:
    """``folder/waves`` and ``folder/environments``."""
    (folder / "waves").mkdir()
    (folder / "environments").mkdir()
    environment = {
        "environment": "prod",
        "aws_conn_id": "aws",
        "account": "123456789012",
        "may": {"migrate": ["user:admin"], "cut_over": ["user:admin"], "administer": ["user:admin"]},
        "region": "eu-central-1",
        "staging": {"bucket": "staging-bucket", "prefix": "w"},
        "vpc": "vpc-0de30000000000001",
        "subnets": ["subnet-0de30000000000001"],
        "security_groups": ["sg-0de30000000000001"],
        "instance_types": ["m6i.large", "t3.small"],
        "sources": [{"connection": "vc", "connectors": ["dc1"]}],
    }
    (folder / "environments" / "prod.yaml").write_text(yaml.safe_dump(environment))
    for number in range(WAVES):
        wave = {
            "wave": f"wave{number:02}",
            "source": {"connection": "vc", "connector": "dc1"},
            "environment": "prod",
            "defaults": {"instance_type": "m6i.large"},
            "servers": [
                {"name": f"server-{number:02}-{index:03}", "tags": {"role": "web"}, "instance_type": "t3.small"}
                for index in range(SERVERS)
            ],
        }
        (folder / "waves" / f"wave{number:02}.yaml").write_text(yaml.safe_dump(wave))


def make_peers(folder: Path, *, single: int, mapped: int) -> None:
    """``folder/by_hand``."""
    (folder / "by_hand").mkdir()
    for number in range(WAVES):
        names = [f"server-{number:02}-{index:03}" for index in range(SERVERS)]
        text = BY_HAND.format(wave=f"wave{number:02}", servers=names, single=single, mapped=mapped)
        (folder / "by_hand" / f"wave{number:02}.py").write_text(text)


def ours(folder: Path) -> Iterable[Any]:
    import wavelift.dag_factory

    namespace: dict[str, object] = {}
    wavelift.dag_factory.register_waves(namespace)
    return namespace.values()


def by_hand(folder: Path) -> Iterable[Any]:
    from airflow.sdk import DAG

    found = [runpy.run_path(str(path)) for path in sorted((folder / "by_hand").glob("*.py"))]
    return [value for names in found for value in names.values() if isinstance(value, DAG)]


def job(who: str, folder: str) -> None:
    os.environ.update(
        AIRFLOW_HOME=folder,
        AIRFLOW__CORE__DAGS_FOLDER=folder,
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR",
    )
    import airflow.providers.standard.operators.bash  # noqa: F401
    from airflow.sdk import DAG, Param, task_group  # noqa: F401
    from airflow.serialization.serialized_objects import DagSerialization

    import wavelift.dag_factory  # noqa: F401

    idle = harness.peak_mib()
    start = _cpu()
    dags = list({"ours": ours, "by_hand": by_hand}[who](Path(folder)))
    parsed = _cpu()
    size = sum(len(json.dumps(DagSerialization.to_dict(dag))) for dag in dags)
    done = _cpu()
    assert len(dags) == WAVES, f"{len(dags)} DAGs of {WAVES} files"
    tasks = [task.task_id for dag in dags for task in dag.tasks]
    harness.report_job(
        parse_cpu_s=parsed - start,
        serialise_cpu_s=done - parsed,
        parse_and_serialise_cpu_s=done - start,
        serialised_mib=size / (1 << 20),
        dags=len(dags),
        tasks=len(tasks),
        mapped_tasks=sum(task.startswith("server.") for task in tasks),
        added_mib=harness.peak_mib() - idle,
    )


def read_yaml(folder: str) -> None:
    began = _cpu()
    for path in sorted(Path(folder, "waves").iterdir()):
        with path.open("rb") as file:
            yaml.load(file, Loader=yaml.CSafeLoader)
    harness.report_job(yaml=_cpu() - began)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _tasks_of(folder: Path) -> dict[str, int]:
    """How many tasks one of our DAGs has, for the peer to have as many."""
    command = harness.job_command("benchmarks.dag_parse", "ours", folder)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    tasks, mapped = told["tasks"] // WAVES, told["mapped_tasks"] // WAVES
    return {"single": tasks - mapped, "mapped": mapped}


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        who, folder = options.job
        read_yaml(folder) if who == "yaml" else job(who, folder)
        return
    with harness.workspace(options) as place:
        make_specs(place)
        tasks = _tasks_of(place)
        make_peers(place, **tasks)

        def contender(name: str, who: str) -> harness.Contender:
            return harness.Contender(name, harness.job_command("benchmarks.dag_parse", who, place))

        harness.compare(
            "dag_parse",
            ours=contender("wavelift", "ours"),
            peers=[contender(PEER, "by_hand")],
            data_bytes=0,
            params={"waves": WAVES, "servers": SERVERS, **tasks},
            runs=options.runs,
            floor=harness.Floor(contender("floor", "yaml"), {"yaml": 1}, unit=1),
            cpu="parse_and_serialise_cpu_s",
            limits=_limits,
        )


def _limits(result: Mapping[str, Any]) -> list[harness.Limit]:
    ours, peer = result["ours"], result["peers"][PEER]
    assert (ours["tasks"], ours["mapped_tasks"]) == (peer["tasks"], peer["mapped_tasks"]), "the peer has other tasks"
    return [
        harness.Limit(f"CPU / {PEER}", ours["ratio_to_peer"][PEER], at_most=1),
        harness.Limit("CPU / floor", ours["ratio_to_floor"], at_most=5),
        harness.Limit(f"bytes serialised / {PEER}", ours["serialised_mib"] / peer["serialised_mib"], at_most=1),
    ]


if __name__ == "__main__":
    main()
