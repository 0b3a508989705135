"""Systems Manager's Run Command: who can be commanded, and commands that take time."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from moto.core.responses import ActionResult

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import NO_INVOCATION_MESSAGE
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.settings import ACCOUNT

OURS: Final = ("AWS-RunPowerShellScript", "AWS-RunShellScript")
"""Documents that every account has, of those that run a command."""
PLUGINS: Final = {"AWS-RunPowerShellScript": "aws:runPowerShellScript"}
CODES: Final = {"Success": 0, "Failed": 1}
DETAILS: Final = {"InProgress": "InProgress", "TimedOut": "Execution Timed Out"}
UNENDED: Final = ("Pending", "InProgress")
MAX_INSTANCES: Final = 50
"""InstanceIds in one SendCommand (API reference)."""


@dataclass(slots=True)
class Invocation:
    """A command on one instance. ``sent`` is of the simulator's clock; ``rule`` decides how it ends."""

    command: str
    instance: str
    document: str
    comment: str
    sent: float
    outcome: str
    output: str
    rule: int = 0
    cancelled: bool = False


class CommandActions:
    """A mixin of moto's SimpleSystemManagerResponse."""

    account: Account

    if TYPE_CHECKING:
        body: str
        ssm_backend: Any

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.body or "{}")
        return values

    def send_command(self) -> ActionResult:
        values, account = self._values(), self.account
        document = str(values.get("DocumentName") or "")
        ids: list[str] = values.get("InstanceIds") or []
        if document not in OURS and document not in self.ssm_backend._documents:
            raise AwsError("InvalidDocument", f"Document with name {document} does not exist.", 400)
        if not ids or len(ids) > MAX_INSTANCES:
            raise AwsError("ValidationException", f"Between 1 and {MAX_INSTANCES} InstanceIds are needed", 400)
        unknown = [one for one in ids if not is_managed(account, one)]
        if unknown:
            text = f"Instances [[{', '.join(unknown)}]] not in a valid state for account {ACCOUNT}"
            raise AwsError("InvalidInstanceId", text, 400)
        command = str(uuid.uuid4())
        for one in dict.fromkeys(ids):
            account.commands[command, one] = self._invocation(command, one, values)
        now = datetime.fromtimestamp(account.clock.now(), UTC)
        shown: dict[str, Any] = {
            name: values[name] for name in ("Comment", "Parameters", "TimeoutSeconds") if name in values
        }
        return ActionResult(
            {
                "Command": {
                    **shown,
                    "CommandId": command,
                    "DocumentName": document,
                    "InstanceIds": ids,
                    "RequestedDateTime": now,
                    "Status": "Pending",
                    "StatusDetails": "Pending",
                    "TargetCount": len(ids),
                }
            }
        )

    def _invocation(self, command: str, instance: str, values: Mapping[str, Any]) -> Invocation:
        account = self.account
        rules = account.faults.take("command", service="ssm", operation="SendCommand", key=instance)
        rule = rules[0] if rules else None
        return Invocation(
            command,
            instance,
            values["DocumentName"],
            values.get("Comment") or "",
            account.clock.now(),
            outcome=rule.outcome if rule else "Success",
            output=rule.output if rule else "",
            rule=rule.id if rule else 0,
        )

    def get_command_invocation(self) -> ActionResult:
        values = self._values()
        found = self._found(str(values.get("CommandId")), str(values.get("InstanceId")))
        status, ended = self._standing(found), found.sent + 2 * self.account.settings.command_seconds
        answer: dict[str, Any] = {
            "CommandId": found.command,
            "InstanceId": found.instance,
            "Comment": found.comment,
            "DocumentName": found.document,
            "PluginName": PLUGINS.get(found.document, "aws:runShellScript"),
            "ResponseCode": CODES.get(status, -1),
            "Status": status,
            "StatusDetails": DETAILS.get(status, status),
            "StandardOutputContent": found.output if status == "Success" else "",
            "StandardErrorContent": found.output if status == "Failed" else "",
            "ExecutionStartDateTime": "" if status == "Pending" else _stamp(found.sent),
            "ExecutionEndDateTime": "" if status in UNENDED else _stamp(ended),
        }
        return ActionResult(answer)

    def _found(self, command: str, instance: str) -> Invocation:
        """Raises AwsError; also for one that is too new (setting ``unseen_seconds``)."""
        account = self.account
        found: Invocation | None = account.commands.get((command, instance))
        if found is None or account.clock.now() < found.sent + account.settings.unseen_seconds:
            raise AwsError("InvocationDoesNotExist", NO_INVOCATION_MESSAGE, 400)
        return found

    def _standing(self, found: Invocation) -> str:
        account, step = self.account, self.account.settings.command_seconds
        if found.cancelled:
            return "Cancelled"
        passed = account.clock.now() - found.sent
        if passed < step:
            return "Pending"
        stuck = found.outcome == "stuck" and account.faults.has(found.rule)
        if passed < 2 * step or stuck:
            return "InProgress"
        return "Success" if found.outcome == "stuck" else found.outcome

    def list_commands(self) -> ActionResult:
        """Those of an instance, or the one of an id; the newest first."""
        values, account = self._values(), self.account
        wanted = {name: values.get(name) for name in ("CommandId", "InstanceId")}
        rows: dict[str, dict[str, Any]] = {}
        for one in sorted(account.commands.values(), key=lambda one: -one.sent):
            if wanted["CommandId"] in (None, one.command) and wanted["InstanceId"] in (None, one.instance):
                row = rows.setdefault(
                    one.command,
                    {"CommandId": one.command, "DocumentName": one.document, "Comment": one.comment, "InstanceIds": []},
                )
                row["InstanceIds"].append(one.instance)
        return ActionResult({"Commands": list(rows.values())})

    def cancel_command(self) -> ActionResult:
        command = self._values().get("CommandId")
        found = [one for (name, _), one in self.account.commands.items() if name == command]
        if not found:
            raise AwsError("InvalidCommandId", "Invalid command id.", 400)
        for one in found:
            one.cancelled = self._standing(one) in {*UNENDED, "Cancelled"}
        return ActionResult({})

    def describe_instance_information(self) -> ActionResult:
        values = self._values()
        wanted = {
            item.get("Key") or item.get("key"): item.get("Values") or item.get("valueSet") or []
            for item in [*values.get("Filters", []), *values.get("InstanceInformationFilterList", [])]
        }
        if set(wanted) - {"InstanceIds"}:
            raise AwsError("InvalidInstanceInformationFilterValue", "Only InstanceIds is known here", 400)
        ids = [str(one.id) for one in self.account.backends.ec2.all_instances()]
        rows = [
            {"InstanceId": one, "PingStatus": "Online", "ResourceType": "EC2Instance", "PlatformType": "Linux"}
            for one in ids
            if is_managed(self.account, one) and one in wanted.get("InstanceIds", ids)
        ]
        return ActionResult({"InstanceInformationList": rows})


def is_managed(account: Account, instance_id: str) -> bool:
    """Whether an agent has reported: the instance runs, and its profile lets the agent call."""
    ec2 = account.backends.ec2
    instance = ec2.get_instance_by_id(instance_id)
    if instance is None or instance.state != "running" or instance_id not in ec2.iam_instance_profile_associations:
        return False
    if account.clock.now() < account.running_since[instance_id] + account.settings.agent_seconds:
        return False
    return not account.faults.take("no_agent", service="ssm", operation="SendCommand", key=instance_id)


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
