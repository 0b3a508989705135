"""Instances: they take time to start and to stop, and their status checks to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import InvalidInstanceTypeError

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import NOT_STARTABLE_MESSAGE, NOT_STOPPABLE_MESSAGE, STOPPED_ONLY_MESSAGE
from wavelift.simulators.aws.moto_bridge import addresses
from wavelift.simulators.aws.moto_bridge.account import Account, Launch
from wavelift.simulators.aws.moto_bridge.actions import plain
from wavelift.simulators.aws.moto_bridge.templates import apply_template
from wavelift.simulators.aws.tags import check_client_token

CODES: Final = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
FIXED_WHILE_RUNNING: Final = ("InstanceType", "Kernel", "Ramdisk", "UserData", "EbsOptimized", "EnaSupport")
INITIALIZATION_RATES: Final = range(100, 301)
"""MiB/s (EC2's service model)."""


def set_state(instance: Any, name: str) -> None:
    instance._state.name, instance._state.code = name, CODES[name]


def state_row(instance: Any) -> dict[str, Any]:
    return {"Code": CODES[instance.state], "Name": instance.state}


class NoCards(dict[int, Any]):
    """The interfaces of a terminated instance: it shows none, and no address."""

    def __missing__(self, index: int) -> Any:
        return SimpleNamespace(private_ip_address=None, public_ip=None, subnet=SimpleNamespace(id=None, vpc_id=None))


class InstanceActions:
    """A mixin of moto's EC2Response."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]
        ec2_backend: Any

        def _get_param(self, name: str, default: Any = None) -> Any: ...
        def _filters_from_querystring(self) -> dict[str, list[str]]: ...
        def error_on_dryrun(self) -> None: ...
        def _parse_tag_specification(self) -> dict[str, dict[str, str]]: ...

    # launch

    def run_instances(self) -> ActionResult:
        account = self.account
        token = self._get_param("ClientToken") or ""
        check_client_token(token)
        fingerprint = json.dumps(plain(self.params), sort_keys=True, default=str)
        known = account.repeated("RunInstances", token, fingerprint)
        if known is not None:
            if all(instance.state == "terminated" for instance in known.instances):
                raise AwsError("IdempotentInstanceTerminated", "The instance of this token was terminated.", 400)
            return ActionResult(known)
        template_tags = apply_template(self.ec2_backend, self.params)
        image = self._launch_image()
        addresses.check_cards(self.ec2_backend, self.params)
        asked = plain(self._get_param("BlockDeviceMappings") or [])
        mappings = _merged(image, asked)
        _check_rates(mappings)
        specs = plain(self._get_param("NetworkInterfaces") or [])
        card_tags = self._parse_tag_specification().get("network-interface", {})
        self.params["BlockDeviceMappings"] = mappings
        try:
            result: ActionResult = super().run_instances()  # type: ignore[misc]
        except InvalidInstanceTypeError:
            wrong = self._get_param("InstanceType")
            raise AwsError("InvalidParameterValue", f"Invalid value '{wrong}' for InstanceType.", 400) from None
        reservation: Any = result.result
        stores = _instance_store(image, asked)
        for instance in reservation.instances:
            self._finish_instance(instance, image)
            self._finish_cards(instance, specs, card_tags)
            self._finish_volumes(instance, mappings)
            volumes = frozenset(str(block.volume_id) for block in instance.block_device_mapping.values())
            account.launches[instance.id] = Launch(volumes, stores)
            instance.add_tags(template_tags)
        if token:
            account.made["RunInstances", token] = (fingerprint, reservation)
        return result

    def _launch_image(self) -> Any:
        image_id = self._get_param("ImageId") or ""
        image = self.ec2_backend.amis.get(image_id)
        if image is None:
            raise AwsError("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist", 400)
        if image.state != "available":
            raise AwsError("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is not available", 400)
        return image

    def _finish_instance(self, instance: Any, image: Any) -> None:
        """Set the attributes that moto's instances lack, and the state ``pending``."""
        self.account.hide(instance.id)
        self._begin(instance)
        boot_mode = getattr(image, "boot_mode", None)
        instance.boot_mode = boot_mode
        instance.current_instance_boot_mode = "uefi" if boot_mode in {"uefi", "uefi-preferred"} else "legacy-bios"
        instance.ena_support = getattr(image, "ena_support", True)
        instance.platform_details = getattr(image, "platform_details", "Linux/UNIX")
        instance.usage_operation = getattr(image, "usage_operation", "RunInstances")
        instance.product_codes = list(image.product_codes)
        instance.cpu_options = _cpu(self.ec2_backend, str(instance.instance_type))
        instance.launch_time = self._now()

    def _finish_cards(self, instance: Any, specs: list[dict[str, Any]], tags: dict[str, str]) -> None:
        """Interfaces that the launch made are deleted with the instance, unless it said otherwise; others stay."""
        by_index = {int(spec.get("DeviceIndex") or 0): spec for spec in specs}
        for index, nic in instance.nics.items():
            spec = by_index.get(index, {})
            if spec.get("NetworkInterfaceId"):
                nic.delete_on_termination = False
                continue
            nic.delete_on_termination = spec.get("DeleteOnTermination") is not False
            nic.add_tags(tags)
            _, others = addresses.asked_addresses(spec)
            nic.private_ip_addresses.extend({"Primary": False, "PrivateIpAddress": one} for one in others)
        if 0 in by_index:
            instance.security_groups = list(instance.nics[0]._group_set)

    def _finish_volumes(self, instance: Any, mappings: list[dict[str, Any]]) -> None:
        rates = {item["DeviceName"]: item["Ebs"].get("VolumeInitializationRate") for item in mappings}
        for device, block in instance.block_device_mapping.items():
            self.account.volume(block.volume_id)
            block.attach_time = self.ec2_backend.volumes[block.volume_id].attachment.attach_time = self._now()
            if rate := rates.get(device):
                self.ec2_backend.volumes[block.volume_id].volume_initialization_rate = int(rate)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.account.clock.now(), UTC)

    # states

    def _begin(self, instance: Any) -> None:
        """``pending``, then ``running``."""
        set_state(instance, "pending")
        self._move_on(instance, "running", self.account.settings.instance_pending_seconds)

    def _move_on(self, instance: Any, to: str, seconds: float) -> None:
        """Into the next state after some time, if nothing else happened to the instance."""
        coming_from, account = instance.state, self.account

        def move() -> None:
            if instance.state != coming_from:
                return
            set_state(instance, to)
            if to == "running":
                account.running_since[instance.id] = account.clock.now()

        account.after(seconds, move)

    def start_instances(self) -> ActionResult:
        found = self._named()
        for instance in found:
            if instance.state not in {"stopped", "pending", "running"}:
                raise AwsError("IncorrectInstanceState", NOT_STARTABLE_MESSAGE.format(instance=instance.id), 400)
        return ActionResult({"StartingInstances": _changes(found, self._start)})

    def _start(self, instance: Any) -> None:
        if instance.state == "stopped":
            instance.start()
            instance.launch_time = self._now()  # of the last start (EC2 user guide, "Stop and start your instance")
            self._begin(instance)

    def stop_instances(self) -> ActionResult:
        found = self._named()
        for instance in found:
            if instance.disable_api_stop is True:
                message = (
                    f"The instance '{instance.id}' may not be stopped. Modify its 'disableApiStop' instance attribute "
                    "and try again."
                )
                raise AwsError("OperationNotPermitted", message, 400)
            if instance.state not in {"running", "stopping", "stopped"}:
                raise AwsError("IncorrectInstanceState", NOT_STOPPABLE_MESSAGE.format(instance=instance.id), 400)
        return ActionResult({"StoppingInstances": _changes(found, self._stop)})

    def _stop(self, instance: Any) -> None:
        if instance.state != "running":
            return
        instance.stop()
        set_state(instance, "stopping")
        account = self.account
        rules = account.faults.take("unstoppable", service="ec2", operation="StopInstances", key=instance.id)

        def end() -> None:
            if any(account.faults.has(rule.id) for rule in rules):
                account.after(0.05, end)
            elif instance.state == "stopping":
                set_state(instance, "stopped")

        account.after(account.settings.instance_stopping_seconds, end)

    def reboot_instances(self) -> ActionResult:
        for instance in self._named():
            if instance.state not in {"running", "pending"}:
                raise AwsError("IncorrectInstanceState", f"The instance '{instance.id}' is not running", 400)
            reboot(self.account, instance)
        return EmptyResult()

    def terminate_instances(self) -> ActionResult:
        found = self._named()
        for instance in found:
            if instance.disable_api_termination is True:
                message = (
                    f"The instance '{instance.id}' may not be terminated. Modify its 'disableApiTermination' instance "
                    "attribute and try again."
                )
                raise AwsError("OperationNotPermitted", message, 400)
        seconds = self.account.settings.instance_terminating_seconds
        rows = []
        for instance in found:
            before = state_row(instance)
            if instance.state not in {"shutting-down", "terminated"}:
                set_state(instance, "shutting-down")
                if seconds:
                    self.account.after(seconds, partial(self._end, instance))
                else:
                    self._end(instance)
            now = state_row(instance) if before["Name"] == "terminated" else {"Code": 32, "Name": "shutting-down"}
            rows.append({"InstanceId": instance.id, "PreviousState": before, "CurrentState": now})
        return ActionResult({"TerminatingInstances": rows})

    def _end(self, instance: Any) -> None:
        ec2 = self.ec2_backend
        for nic in instance.nics.values():
            for address in [one for one in ec2.addresses if one.eni is nic]:
                ec2.disassociate_address(association_id=address.association_id)
        for nic in list(instance.nics.values()):
            if not nic.delete_on_termination:
                instance.detach_eni(nic)
                nic.device_index = None
        instance.terminate()
        instance.nics = NoCards()

    def _named(self) -> list[Any]:
        found = self.ec2_backend.get_multi_instances_by_id(self._get_param("InstanceIds") or [])
        self.error_on_dryrun()
        return list(found)

    def modify_instance_attribute(self) -> ActionResult:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        attribute = str(self._get_param("Attribute") or "")
        fixed = [
            name
            for name in FIXED_WHILE_RUNNING
            if self.params.get(name) is not None or attribute.lower() == name.lower()
        ]
        if fixed and instance.state != "stopped":
            raise AwsError("IncorrectInstanceState", STOPPED_ONLY_MESSAGE.format(instance=instance.id), 400)
        groups = addresses.known_groups(self.ec2_backend, self._get_param("Groups", []))
        result: ActionResult = super().modify_instance_attribute()  # type: ignore[misc]
        if groups:
            instance.nics[0]._group_set = list(groups)  # else moto shows the old ones of the interface, too
        return result

    # status

    def describe_instance_status(self) -> ActionResult:
        wanted = self._filters_from_querystring()
        self.error_on_dryrun()
        ids = self._get_param("InstanceIds", [])
        found = self.ec2_backend.get_multi_instances_by_id(ids) if ids else self.ec2_backend.all_instances()
        if not self._get_param("IncludeAllInstances", False):
            found = [one for one in found if one.state == "running"]
        rows = [self._status(one) for one in found if one.state != "terminated" or ids]
        known: dict[str, Callable[[dict[str, Any]], str]] = {
            "instance-state-name": lambda row: row["InstanceState"]["Name"],
            "instance-state-code": lambda row: str(row["InstanceState"]["Code"]),
            "instance-status.status": lambda row: row["InstanceStatus"]["Status"],
            "system-status.status": lambda row: row["SystemStatus"]["Status"],
            "availability-zone": lambda row: row["AvailabilityZone"],
        }
        for name, values in wanted.items():
            if name not in known:
                raise AwsError("InvalidParameterValue", f"The filter '{name}' is invalid", 400)
            rows = [row for row in rows if known[name](row) in values]
        return ActionResult({"InstanceStatuses": rows})

    def _status(self, instance: Any) -> dict[str, Any]:
        account = self.account
        system = checked = "not-applicable"
        if instance.state == "running":
            over = account.running_since[instance.id] + account.settings.status_check_seconds
            system = checked = "ok" if account.clock.now() >= over else "initializing"
            if checked == "ok" and account.faults.take(
                "impaired", service="ec2", operation="DescribeInstanceStatus", key=instance.id
            ):
                checked = "impaired"
        return {
            "InstanceId": instance.id,
            "AvailabilityZone": instance.availability_zone,
            "InstanceState": state_row(instance),
            "InstanceStatus": _check(checked),
            "SystemStatus": _check(system),
        }


def reboot(account: Account, instance: Any) -> None:
    account.reboots[instance.id] = account.reboots.get(instance.id, 0) + 1
    account.running_since[instance.id] = account.clock.now()


def _check(status: str) -> dict[str, Any]:
    details = {"ok": "passed", "initializing": "initializing", "impaired": "failed"}
    if status not in details:
        return {"Status": status}
    return {"Status": status, "Details": [{"Name": "reachability", "Status": details[status]}]}


def _changes(found: Iterable[Any], change: Callable[[Any], None]) -> list[dict[str, Any]]:
    rows = []
    for instance in found:
        before = state_row(instance)
        change(instance)
        rows.append({"InstanceId": instance.id, "PreviousState": before, "CurrentState": state_row(instance)})
    return rows


def _check_rates(mappings: Iterable[dict[str, Any]]) -> None:
    for item in mappings:
        rate = item["Ebs"].get("VolumeInitializationRate")
        if rate is None:
            continue
        if int(rate) not in INITIALIZATION_RATES or not item["Ebs"].get("SnapshotId"):
            raise AwsError("InvalidParameterValue", f"Volume initialization rate {rate} is not valid", 400)


def _instance_store(image: Any, asked: list[dict[str, Any]]) -> tuple[str, ...]:
    """The devices that the mappings of image and request give an instance-store volume."""
    named = {item["DeviceName"]: item for item in [*image.block_device_mappings, *asked]}
    return tuple(device for device, item in named.items() if item.get("VirtualName") and "NoDevice" not in item)


def _cpu(ec2: Any, kind: str) -> dict[str, int] | None:
    """Cores and threads of an instance type, as an instance shows them."""
    found = ec2.describe_instance_types([kind])
    info = found[0].get("VCpuInfo") if found else None
    if not info or "DefaultCores" not in info:
        return None
    return {"CoreCount": int(info["DefaultCores"]), "ThreadsPerCore": int(info["DefaultThreadsPerCore"])}


def _merged(image: Any, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The image's mappings, overridden by the request's, as RunInstances does."""
    merged = {item["DeviceName"]: json.loads(json.dumps(item)) for item in image.block_device_mappings}
    for item in asked:
        if "NoDevice" in item:
            merged.pop(item["DeviceName"], None)
            continue
        if "VirtualName" in item and "Ebs" not in item:
            continue
        known = merged.setdefault(item["DeviceName"], {"DeviceName": item["DeviceName"], "Ebs": {}})
        known["Ebs"] = {**known.get("Ebs", {}), **(item.get("Ebs") or {})}
    return [item for item in merged.values() if "Ebs" in item]
