"""A DAG that a user wrote with wavelift's operators and sensors, outside any wave; the tests put it into the folder."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from wavelift.operators import DiskUploadOperator, ImportImageOperator
from wavelift.sensors import ImportImageSensor, VmPowerStateSensor

FOLDER, BUCKET = os.environ.get("WAVELIFT_LAB", "/nowhere:none").split(":")
AWS: dict[str, Any] = {
    "aws_conn_id": "aws_demo",
    "region_name": "eu-central-1",
    "botocore_config": {"user_agent_extra": "lab-tools"},
}

with DAG("lab_tools", schedule=None, default_args={"retries": 2, "retry_delay": timedelta(seconds=1)}):
    raw = DiskUploadOperator(
        task_id="upload_raw", path=f"{FOLDER}/tools.raw", bucket=BUCKET, key="tools/raw.vmdk", **AWS
    )
    vmdk = DiskUploadOperator(
        task_id="upload_vmdk", path=f"{FOLDER}/tools.vmdk", bucket=BUCKET, key="tools/vmdk.vmdk", **AWS
    )
    image = ImportImageOperator(
        task_id="image", disks=[{"bucket": BUCKET, "key": "tools/raw.vmdk"}], tags={"made-by": "lab_tools"}, **AWS
    )
    watch = ImportImageSensor(task_id="watch", import_task_id="{{ ti.xcom_pull(task_ids='image')['task_id'] }}", **AWS)
    again = ImportImageOperator(
        task_id="image_of_snapshot",
        disks=[{"snapshot_id": "{{ ti.xcom_pull(task_ids='image')['snapshot_ids'][0] }}"}],
        tags={"made-by": "lab_tools"},
        **AWS,
    )
    off = VmPowerStateSensor(
        task_id="off", vm="tools-vm", power_state="poweredOff", vsphere_conn_id="vsphere_demo", poke_interval=1
    )
    nobody = VmPowerStateSensor(
        task_id="nobody", vm="no-such-vm", power_state="poweredOff", vsphere_conn_id="vsphere_demo", poke_interval=1
    )
    raw >> image >> [watch, again]
