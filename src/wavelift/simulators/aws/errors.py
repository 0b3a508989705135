"""Errors of AWS, written in the protocol of the service that was called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

from wavelift.simulators.kit.message import Response
from wavelift.simulators.kit.world import Refusal

REST_XML_SERVICES: Final = frozenset({"s3"})
REST_JSON_SERVICES: Final = frozenset({"ebs"})
QUERY_SERVICES: Final = frozenset({"iam", "sts", "elasticloadbalancing", "autoscaling", "sns", "cloudformation", "rds"})
QUERY_XML_SERVICES: Final = QUERY_SERVICES | {"route53", "s3control"}


@dataclass(slots=True)
class AwsError(Refusal):
    """An error of a service. ``extra`` are further members of the error document, ``headers`` of S3's answer."""

    code: str
    message: str
    status: int = 400
    extra: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def render(error: AwsError, *, service: str, request_id: str, head: bool = False) -> Response:
    """``error`` as ``service`` writes it. The answer to a HEAD request has no body, as from S3."""
    if service in REST_XML_SERVICES:
        extra = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in error.extra.items())
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>{extra}"
            f"<RequestId>{request_id}</RequestId><HostId>simulator</HostId></Error>"
        )
        return _xml(error.status, "" if head else body, request_id, error.headers)
    if service == "ec2":
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Response><Errors><Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
            f"</Error></Errors><RequestID>{request_id}</RequestID></Response>"
        )
        return _xml(error.status, body, request_id)
    if service in QUERY_XML_SERVICES:
        kind = "Sender" if error.status < 500 else "Receiver"
        body = (
            f"<ErrorResponse><Error><Type>{kind}</Type><Code>{escape(error.code)}</Code>"
            f"<Message>{escape(error.message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        )
        return _xml(error.status, body, request_id)
    return _json(error, rest=service in REST_JSON_SERVICES, request_id=request_id)


def _xml(status: int, body: str, request_id: str, more: Mapping[str, str] | None = None) -> Response:
    headers = {"Content-Type": "application/xml", "x-amz-request-id": request_id, "x-amzn-RequestId": request_id}
    return Response(status, {**headers, **(more or {})}, body.encode())


def _json(error: AwsError, *, rest: bool, request_id: str) -> Response:
    document: dict[str, str] = {"message": error.message, **error.extra}
    headers = {"x-amzn-RequestId": request_id, "Content-Type": "application/x-amz-json-1.1"}
    if rest:
        headers |= {"Content-Type": "application/json", "x-amzn-ErrorType": error.code}
    else:
        document["__type"] = error.code
    return Response(error.status, headers, json.dumps(document).encode())
