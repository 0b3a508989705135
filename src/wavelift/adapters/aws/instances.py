"""Power of EC2 instances: stop, start, and what EC2 says of their health. Nothing here terminates one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.errors import aws_errors

BATCH: Final = 100
"""Ids in one describe."""


@dataclass(frozen=True, slots=True)
class Health:
    """EC2's own checks. Each is ``ok``, ``initializing``, ``impaired``, ``insufficient-data`` or ``not-applicable``.

    :ivar state: ``pending``, ``running``, ``stopping``, ``stopped`` …
    :ivar system: of the host. :ivar instance: of the guest: it answers on its network interface.
    """

    instance_id: str
    state: str
    system: str = ""
    instance: str = ""

    @property
    def passed(self) -> bool:
        return self.state == "running" and self.system == self.instance == "ok"


class Instances:
    """Instances of one account and region."""

    def __init__(self, access: AwsAccess) -> None:
        self._access, self._ec2 = access, Ec2(access)

    @property
    def _client(self) -> Any:
        return self._access.client("ec2")

    def health(self, instance_ids: Iterable[str]) -> dict[str, Health]:
        """State and checks by id; unknown ids are left out."""
        # DescribeInstanceStatus has no filter by id, and one unknown id would fail all: so first, who is there.
        found = self.states(instance_ids)
        running = [one.instance_id for one in found.values() if one.state == "running"]
        for start in range(0, len(running), BATCH):
            with aws_errors("could not look at the instances' status", service="ec2"):
                page = self._client.describe_instance_status(InstanceIds=running[start : start + BATCH])
            found |= {one["InstanceId"]: _read(one) for one in page["InstanceStatuses"]}
        return found

    def states(self, instance_ids: Iterable[str]) -> dict[str, Health]:
        """The same without the checks: one call less."""
        return {one: Health(one, found.state) for one, found in self._ec2.describe_instances(instance_ids).items()}

    def stop(self, instance_id: str, *, force: bool = False) -> str:
        """Shut down the guest and stop; the state that follows (``stopping`` or ``stopped``). Repeated: nothing more.

        :param force: end it at once if the guest does not shut down. What the guest has not written is lost.
        """
        with aws_errors("could not stop the instance", service="ec2", instance=instance_id):
            answer = self._client.stop_instances(InstanceIds=[instance_id], Force=force)
        return str(answer["StoppingInstances"][0]["CurrentState"]["Name"])

    def start(self, instance_id: str) -> str:
        """The state that follows (``pending`` or ``running``). Repeated: nothing more.

        :raises BusyError: it is still stopping. :raises LimitReachedError: there is no capacity.
        """
        with aws_errors("could not start the instance", service="ec2", instance=instance_id):
            answer = self._client.start_instances(InstanceIds=[instance_id])
        return str(answer["StartingInstances"][0]["CurrentState"]["Name"])


def _read(one: dict[str, Any]) -> Health:
    return Health(
        instance_id=one["InstanceId"],
        state=one.get("InstanceState", {}).get("Name", ""),
        system=one.get("SystemStatus", {}).get("Status", ""),
        instance=one.get("InstanceStatus", {}).get("Status", ""),
    )
