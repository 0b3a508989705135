"""NSX's errors, and those of VMware Cloud."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

from wavelift.simulators.kit import faults
from wavelift.simulators.kit.message import Response
from wavelift.simulators.kit.world import Refusal
from wavelift.simulators.nsx import invented


@dataclass
class NsxError(Refusal):
    """``code`` is NSX's ``error_code``."""

    status: int
    code: int
    message: str
    module: str = "policy"

    def response(self) -> Response:
        body = {
            "httpStatus": HTTPStatus(self.status).name,
            "error_code": self.code,
            "module_name": self.module,
            "error_message": self.message,
        }
        return Response(self.status, {"Content-Type": "application/json"}, json.dumps(body).encode())


@dataclass
class CloudError(Refusal):
    """Of VMware Cloud's own services."""

    status: int
    message: str

    def response(self) -> Response:
        body = {"statusCode": self.status, "message": self.message}
        return Response(self.status, {"Content-Type": "application/json"}, json.dumps(body).encode())


@dataclass
class PlainError(Refusal):
    """Of a gateway in front: no JSON."""

    status: int
    text: str

    def response(self) -> Response:
        return Response(self.status, {"Content-Type": "text/html"}, self.text.encode())


def failure(rule: faults.Rule, service: str) -> Refusal:
    """The error because of a fault rule. ``code`` is NSX's number; without one, a 5xx is that of a gateway."""
    status = rule.status or (429 if rule.throttle or rule.per_second else 500)
    if rule.code:
        return NsxError(status, int(rule.code), rule.message or invented.BROKEN)
    if status in {502, 503, 504}:
        return PlainError(status, f"<html><body>{rule.message or invented.BROKEN}</body></html>")
    if service != "nsx":
        return CloudError(status, rule.message or invented.BROKEN)
    return NsxError(status, invented.BROKEN_CODE, rule.message or invented.BROKEN)
