"""The DAG ``environment_check``: pre-flight's account part of one environment, on Airflow's default queue.

There is one DAG for all environments, so that it does not depend on their files.
"""

from __future__ import annotations

from typing import Any, Final

from airflow.sdk import DAG, get_parsing_context

from wavelift.dag_factory.forms import form
from wavelift.operators.control.environments import EnvironmentCheckOperator
from wavelift.rules.authority import BY_NAME
from wavelift.rules.conf import EnvironmentConf
from wavelift.rules.environment import CHECK_DAG, CHECK_TASK

DOC: Final = """
Checks the AWS account of an environment: account number, service role, bucket, key, network, and how many addresses its
subnets have left. It only reads. `wavelift environments check NAME` starts it and prints the result. It is refused to
users to whom nothing of the environment is granted.
"""


def register_environments(namespace: dict[str, Any]) -> None:
    """Add the DAG to ``namespace`` (a DAG file's ``globals()``)."""
    if get_parsing_context().dag_id in (None, CHECK_DAG):
        namespace[CHECK_DAG] = check_dag()


def check_dag() -> DAG:
    dag = DAG(
        CHECK_DAG,
        description="Check the account of an environment",
        doc_md=DOC,
        schedule=None,
        catchup=False,
        params=form(EnvironmentConf),
        tags=["wavelift"],
        # The DAG file registers the DAG through its globals. Only building a DAG must not assign it to a file.
        auto_register=False,
        allowed_run_types=BY_NAME,  # type: ignore[arg-type]  # Airflow converts the words
    )
    with dag:
        EnvironmentCheckOperator(task_id=CHECK_TASK)
    return dag
