"""Checks of KMS keys, by the services that encrypt with them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wavelift.simulators.aws.errors import AwsError

KEY_ARN: Final = re.compile(r"arn:aws[a-z\-]*:kms:.*:[0-9]{12}:key/.*")
"""The pattern of StartSnapshot's KmsKeyArn in EBS's service model: no alias, no bare id, no alias's ARN."""
SERVICE_ALIAS: Final = "alias/aws/"


@dataclass(frozen=True, slots=True)
class Key:
    """``service`` is set for an AWS managed key: the service that uses it. It is empty for a customer's key."""

    arn: str
    state: str
    spec: str
    usage: str
    service: str = ""

    @property
    def symmetric(self) -> bool:
        return self.spec == "SYMMETRIC_DEFAULT" and self.usage == "ENCRYPT_DECRYPT"


FindKey = Callable[[str], Key | None]
"""Finds a key of the region by its id, its ARN, an alias or an alias's ARN."""


def key_for_snapshot(text: str, find: FindKey) -> Key:
    """The key that StartSnapshot is given. Raises AwsError.

    EBS API reference: the parameter is an ARN, and EBS uses symmetric keys only. The reasons are those of its model.
    """
    if not KEY_ARN.fullmatch(text):
        raise _invalid("INVALID_PARAMETER_VALUE", "KmsKeyArn does not match the pattern of a key's ARN")
    key = find(text)
    if key is None:
        raise AwsError(
            "ResourceNotFoundException",
            f"The key '{text}' does not exist",
            404,
            {"Reason": "DEPENDENCY_RESOURCE_NOT_FOUND"},
        )
    if (problem := _unfit(key, "ebs")) is not None:
        raise _invalid("INVALID_CUSTOMER_KEY", f"The key '{text}' {problem}")
    return key


def key_for_object(text: str, find: FindKey) -> Key:
    """The key that an object is encrypted with, given by id, ARN or alias. Raises AwsError."""
    key = find(text)
    if key is None:
        raise AwsError("KMS.NotFoundException", f"Invalid keyId '{text}'", 400)
    if key.state == "Disabled":
        raise AwsError("KMS.DisabledException", f"{key.arn} is disabled.", 400)
    if key.state != "Enabled":
        raise AwsError("KMS.KMSInvalidStateException", f"{key.arn} is in state {key.state}.", 400)
    if not key.symmetric:
        raise AwsError("KMS.InvalidKeyUsageException", f"{key.arn} is not a symmetric encryption key.", 400)
    if key.service not in ("", "s3"):
        raise AwsError("AccessDenied", f"not authorized to perform: kms:GenerateDataKey on resource: {key.arn}", 403)
    return key


def import_key_problem(text: str, find: FindKey) -> str:
    """Why an import can't encrypt with this key; empty if it can. AWS checks this after it has accepted the call."""
    key = find(text)
    if key is None:
        return f"ClientError: The KMS key {text} does not exist in this region"
    problem = _unfit(key, "ebs")
    return f"ClientError: The KMS key {text} {problem}" if problem else ""


def _unfit(key: Key, service: str) -> str | None:
    if key.state != "Enabled":
        return f"is {key.state}"
    if not key.symmetric:
        return "is not a symmetric encryption key"
    return f"is kept by AWS for {key.service}" if key.service not in ("", service) else None


def _invalid(reason: str, message: str) -> AwsError:
    return AwsError("ValidationException", message, 400, {"Reason": reason})
