"""A DAG that asks for approval, outside any wave; its tests put it into the folder."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, task

from wavelift.operators import ApproveOperator

ASKED = {"kind": "lab", "id": "{{ run_id }}", "digest": "d1", "environment": "lab"}
MODES = ("required", "four_eyes", "none")

for mode in MODES:
    with DAG(f"lab_approval_{mode}", schedule=None, default_args={"retries": 2, "retry_delay": timedelta(seconds=1)}):
        approve = ApproveOperator(
            task_id="approve",
            question={**ASKED, "mode": mode},
            subject="Do it?",
            body="The **plan**",
            trigger_rule="all_success",
        )

        @task(retries=0)
        def go() -> str:
            return "gone"

        approve >> go()
