"""Calls without a client token: what AWS may have carried out is not sent again (invariant 5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from wavelift.adapters.aws.access import ONCE, AwsAccess

pytestmark = pytest.mark.unit
TRIES: Final = 3
INSTANCE: Final = "i-0123456789abcdef0"
CALLS: Final[dict[str, dict[str, Any]]] = {
    "CreateInstanceExportTask": {
        "InstanceId": INSTANCE,
        "TargetEnvironment": "vmware",
        "ExportToS3Task": {"S3Bucket": "b", "S3Prefix": ""},
    },
    "CreateSnapshots": {"InstanceSpecification": {"InstanceId": INSTANCE}},
    "DescribeExportTasks": {},
}


class Raw:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> Iterator[bytes]:
        yield self._body


def refused(status: int, code: str) -> tuple[int, bytes]:
    return status, f"<Response><Errors><Error><Code>{code}</Code></Error></Errors></Response>".encode()


def sent(operation: str, outcome: Exception | tuple[int, bytes]) -> int:
    """How often boto3 sent a call that ends like this each time."""
    config = Config(retries={"mode": "standard", "total_max_attempts": TRIES})
    session = boto3.Session("AKIDEXAMPLE", "not-a-key", region_name="eu-central-1")
    client = AwsAccess(session, endpoint_url="https://ec2.invalid", config=config).client("ec2")
    asked: list[str] = []

    def answer(request: Any, **_: object) -> AWSResponse:
        asked.append(request.url)
        if isinstance(outcome, Exception):
            raise outcome
        status, body = outcome
        return AWSResponse(request.url, status, {}, Raw(body))

    client.meta.events.register(f"before-send.ec2.{operation}", answer)
    method = {"CreateInstanceExportTask": "create_instance_export_task", "CreateSnapshots": "create_snapshots"}
    with pytest.raises((ClientError, type(outcome) if isinstance(outcome, Exception) else ClientError)):
        getattr(client, method.get(operation, "describe_export_tasks"))(**CALLS[operation])
    return len(asked)


@pytest.mark.parametrize("operation", ONCE["ec2"])
@pytest.mark.parametrize(
    "lost",
    [
        ReadTimeoutError(endpoint_url="https://ec2.invalid"),
        ConnectionClosedError(endpoint_url="https://ec2.invalid"),
        refused(500, "InternalError"),
        refused(503, "Unavailable"),
    ],
    ids=["no answer", "cut", "internal error", "unavailable"],
)
def test_inv_5_a_call_that_aws_may_have_carried_out_is_sent_once(operation: str, lost: Any) -> None:
    assert sent(operation, lost) == 1
    assert sent("DescribeExportTasks", lost) == TRIES


@pytest.mark.parametrize("operation", ONCE["ec2"])
@pytest.mark.parametrize(
    "again",
    [EndpointConnectionError(endpoint_url="https://ec2.invalid"), refused(503, "RequestLimitExceeded")],
    ids=["never sent", "throttled"],
)
def test_what_aws_did_not_carry_out_is_tried_again(operation: str, again: Any) -> None:
    assert sent(operation, again) == TRIES
