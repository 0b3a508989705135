"""The DAGs ``environment_check`` (pre-flight's account part of one environment) and ``instance_backup``, on Airflow's
default queue.

There is one of each for all environments, so that they do not depend on their files.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import DAG, get_parsing_context

from wavelift.dag_factory.forms import form
from wavelift.operators.control.backup import BackupInstanceOperator
from wavelift.operators.control.environments import EnvironmentCheckOperator
from wavelift.rules.authority import BY_NAME
from wavelift.rules.conf import BackupConf, EnvironmentConf, RunConf
from wavelift.rules.environment import BACKUP_DAG, BACKUP_TASK, CHECK_DAG, CHECK_TASK
from wavelift.rules.wave import DEFAULT_RETRY_DELAY_S

DOC: Final = """
Checks the AWS account of an environment: account number, service role, bucket, key, network, and how many addresses its
subnets have left. It only reads. `wavelift environments check NAME` starts it and prints the result. It is refused to
users to whom nothing of the environment is granted.
"""
BACKUP_DOC: Final = """
Makes an image of an instance that a migration or a cutover made, and a launch template that starts it. Without
*Reboot*, the image is crash-consistent. `wavelift backup ID` starts it. It needs the right to cut over in the
environment of the instance.
"""
BACKUP_RETRIES: Final = 3


def register_environments(namespace: dict[str, Any]) -> None:
    """Add the DAG to ``namespace`` (a DAG file's ``globals()``)."""
    for dag_id, make in ((CHECK_DAG, check_dag), (BACKUP_DAG, backup_dag)):
        if get_parsing_context().dag_id in (None, dag_id):
            namespace[dag_id] = make()


def check_dag() -> DAG:
    dag = _dag(CHECK_DAG, "Check the account of an environment", DOC, EnvironmentConf)
    with dag:
        EnvironmentCheckOperator(task_id=CHECK_TASK)
    return dag


def backup_dag() -> DAG:
    dag = _dag(BACKUP_DAG, "Make an image of a migrated instance", BACKUP_DOC, BackupConf)
    with dag:
        BackupInstanceOperator(
            task_id=BACKUP_TASK, retries=BACKUP_RETRIES, retry_delay=timedelta(seconds=DEFAULT_RETRY_DELAY_S)
        )
    return dag


def _dag(dag_id: str, words: str, doc: str, conf: type[RunConf]) -> DAG:
    return DAG(
        dag_id,
        description=words,
        doc_md=doc,
        schedule=None,
        catchup=False,
        params=form(conf),
        tags=["wavelift"],
        # The DAG file registers the DAG through its globals. Only building a DAG must not assign it to a file.
        auto_register=False,
        allowed_run_types=BY_NAME,  # type: ignore[arg-type]  # Airflow converts the words
    )
