"""Links from a task to its AMI, its instance and its VM in vCenter.

The operator stores the address as an XCom. The link only reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

from wavelift.base.regions import console_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class _StoredLink(BaseOperatorLink):
    """Reads the address from the XCom :attr:`key`."""

    key = ""

    @property
    def name(self) -> str:
        raise NotImplementedError

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        from airflow.sdk.execution_time.xcom import XCom

        return str(
            XCom.get_one(
                run_id=ti_key.run_id,
                dag_id=ti_key.dag_id,
                task_id=ti_key.task_id,
                map_index=ti_key.map_index,
                key=self.key,
            )
            or ""
        )


class ImageLink(_StoredLink):
    """The AMI in the EC2 console."""

    key = "wavelift_image_link"

    @property
    def name(self) -> str:
        return "AMI"


class InstanceLink(_StoredLink):
    """The instance in the EC2 console."""

    key = "wavelift_instance_link"

    @property
    def name(self) -> str:
        return "EC2 instance"


class VcenterLink(_StoredLink):
    """The source VM in the vSphere client."""

    key = "wavelift_vcenter_link"

    @property
    def name(self) -> str:
        return "vCenter VM"


def image_url(region: str, image_id: str) -> str:
    return _console(region, f"ImageDetails:imageId={image_id}")


def instance_url(region: str, instance_id: str) -> str:
    return _console(region, f"InstanceDetails:instanceId={instance_id}")


def _console(region: str, place: str) -> str:
    """The address in the AWS console; empty if the console of the partition is not known."""
    domain = console_of(region)
    return f"https://{domain}/ec2/home?region={region}#{place}" if domain else ""
