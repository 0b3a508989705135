"""Commands in the guest through Systems Manager. The instance needs the agent and an instance profile for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import ClientError

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import aws_errors, error_code
from wavelift.adapters.aws.texts import description
from wavelift.base.errors import BusyError

COMMENT_LONGEST: Final = 100
"""Characters of a command's comment (SSM API reference, SendCommand)."""
UNDER_WAY: Final = frozenset({"Pending", "InProgress", "Delayed", "Cancelling"})
LEAST_TIMEOUT_S: Final = 30
"""TimeoutSeconds of SendCommand: how long the agent may take to fetch the command."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One command on one instance.

    :ivar status: ``Pending``, ``InProgress``, ``Delayed``, ``Success``, ``Cancelled``, ``Cancelling``, ``TimedOut`` or
        ``Failed``. :ivar exit_code: -1 until the command has ended.
    :ivar output: first 24,000 characters of standard output. :ivar error: first 8,000 of the error output.
    """

    status: str
    detail: str = ""
    exit_code: int = -1
    output: str = ""
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.status not in UNDER_WAY

    @property
    def succeeded(self) -> bool:
        return self.status == "Success"


class Ssm:
    """Systems Manager of one account and region."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access

    @property
    def _client(self) -> Any:
        return self._access.client("ssm")

    def send(
        self,
        instance_id: str,
        document: str,
        parameters: Mapping[str, Sequence[str]],
        *,
        token: str,
        timeout_s: int = 600,
    ) -> str:
        """Run a document on an instance; the command's id.

        SendCommand has no client token, so ours is the comment, and a command with it is looked for first.

        :param token: at most 100 characters of ASCII; the same token gives the same command.
        :raises BusyError: the agent of the instance has not reported to Systems Manager (yet).
        """
        comment = description(token)[:COMMENT_LONGEST]
        with aws_errors("could not send the command", service="ssm", instance=instance_id, document=document):
            pages = self._client.get_paginator("list_commands").paginate(InstanceId=instance_id)
            for page in pages:
                for one in page["Commands"]:
                    if one.get("Comment") == comment:
                        return str(one["CommandId"])
            try:
                answer = self._client.send_command(
                    InstanceIds=[instance_id],
                    DocumentName=document,
                    Parameters={name: list(values) for name, values in parameters.items()},
                    Comment=comment,
                    TimeoutSeconds=max(LEAST_TIMEOUT_S, timeout_s),
                )
            except ClientError as error:
                if error_code(error) != "InvalidInstanceId":
                    raise
                raise BusyError(
                    "the instance does not report to Systems Manager",
                    next_step="Wait for its agent; it needs the instance profile and a way to the SSM endpoints",
                    instance=instance_id,
                ) from error
        return str(answer["Command"]["CommandId"])

    def invocation(self, command_id: str, instance_id: str) -> Invocation:
        """How the command stands. One that was just sent may not be known yet: ``Pending``."""
        with aws_errors("could not look at the command", service="ssm", command=command_id, instance=instance_id):
            try:
                one = self._client.get_command_invocation(CommandId=command_id, InstanceId=instance_id)
            except ClientError as error:
                if error_code(error) != "InvocationDoesNotExist":
                    raise
                return Invocation("Pending")
        return Invocation(
            status=one.get("Status", ""),
            detail=one.get("StatusDetails", ""),
            exit_code=int(one.get("ResponseCode", -1)),
            output=one.get("StandardOutputContent", ""),
            error=one.get("StandardErrorContent", ""),
        )
