"""Power of EC2 instances: stop, start, and what EC2 says of their health. Nothing here terminates one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import aws_errors

BATCH: Final = 100
"""Ids in one describe."""
GONE: Final = frozenset({"terminated", "shutting-down"})


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
        self._access = access

    @property
    def _client(self) -> Any:
        return self._access.client("ec2")

    def health(self, instance_ids: Iterable[str]) -> dict[str, Health]:
        """State and checks by id, of stopped instances as well; unknown ids are left out."""
        wanted = list(dict.fromkeys(instance_ids))
        found: dict[str, Health] = {}
        for start in range(0, len(wanted), BATCH):
            # Not by InstanceIds: one unknown id would fail all.
            chosen = [{"Name": "instance-id", "Values": wanted[start : start + BATCH]}]
            pages = self._client.get_paginator("describe_instance_status")
            with aws_errors("could not look at the instances' status", service="ec2"):
                for page in pages.paginate(IncludeAllInstances=True, Filters=chosen):
                    found |= {one["InstanceId"]: _read(one) for one in page["InstanceStatuses"]}
        return {one: found[one] for one in wanted if one in found}

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
