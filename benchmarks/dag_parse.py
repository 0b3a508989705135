"""Parsing 50 wave files of 150 servers into DAGs and serialising them, importing Airflow excluded.

What the dag-processor pays each time; a task process builds only its own DAG (``one_dag_cpu_s``).
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

import yaml

from benchmarks import harness

WAVES, SERVERS = 50, 150


def make_specs(folder: Path) -> None:
    """``folder/waves`` and ``folder/environments``."""
    (folder / "waves").mkdir()
    (folder / "environments").mkdir()
    environment = {
        "environment": "prod",
        "aws_conn_id": "aws",
        "region": "eu-central-1",
        "staging": {"bucket": "staging-bucket", "prefix": "w"},
        "vpc": "vpc-0de30000000000001",
        "subnets": ["subnet-0de30000000000001"],
        "security_groups": ["sg-0de30000000000001"],
        "instance_types": ["m6i.large", "t3.small"],
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


def job(folder: str) -> None:
    os.environ.update(
        AIRFLOW_HOME=folder,
        AIRFLOW__CORE__DAGS_FOLDER=folder,
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR",
    )
    from airflow.sdk import DAG, Param, task_group  # noqa: F401
    from airflow.serialization.serialized_objects import DagSerialization

    import wavelift.dag_factory

    idle = harness.peak_mib()
    start = _cpu()
    namespace: dict[str, object] = {}
    wavelift.dag_factory.register_waves(namespace)
    parsed = _cpu()
    size = sum(len(str(DagSerialization.to_dict(dag))) for dag in namespace.values())
    done = _cpu()
    assert len(namespace) == WAVES, f"{len(namespace)} DAGs of {WAVES} files"
    harness.report_job(
        parse_cpu_s=parsed - start,
        serialise_cpu_s=done - parsed,
        parse_and_serialise_cpu_s=done - start,
        serialised_mib=size / (1 << 20),
        dags=len(namespace),
        added_mib=harness.peak_mib() - idle,
    )


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = harness.arguments(__doc__)
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return
    with harness.workspace(options) as folder:
        make_specs(folder)
        harness.compare(
            "dag_parse",
            ours=harness.Contender("wavelift", harness.job_command("benchmarks.dag_parse", folder)),
            peers=[],
            data_bytes=0,
            params={"waves": WAVES, "servers": SERVERS},
            runs=options.runs,
        )


if __name__ == "__main__":
    main()
