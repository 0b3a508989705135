"""STS: temporary credentials. The setting ``session_seconds`` sets their life."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl

from wavelift.simulators.aws.credentials import DEFAULT_SESSION, MIN_SESSION, Credential, Credentials
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.moto_bridge.backends import Role
from wavelift.simulators.aws.s3.xml import iso
from wavelift.simulators.aws.settings import ACCOUNT, Settings
from wavelift.simulators.aws.vmimport.roles import trusts_account
from wavelift.simulators.kit.message import Request, Response

NAMESPACE: Final = "https://sts.amazonaws.com/doc/2011-06-15/"
ROLE_ARN: Final = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}):role/(?:.*/)?([^/]+)")


class StsApi:
    def __init__(self, credentials: Credentials, settings: Settings, find_role: Callable[[str], Role | None]) -> None:
        self._credentials, self._settings, self._find_role = credentials, settings, find_role

    def handle(self, request: Request, caller: Credential) -> Response:
        values = dict(parse_qsl(request.body.content.decode(), keep_blank_values=True))
        if request.operation == "AssumeRole":
            return self._assume(request, values)
        if request.operation == "GetCallerIdentity":
            return _answer(request, _identity(caller, self._settings.partition))
        if request.operation == "GetSessionToken":
            issued = self._credentials.issue(role_arn="", session="session", seconds=_life(values), held=caller.held)
            return _answer(request, _keys(issued))
        raise AwsError("InvalidAction", f"Could not find operation {request.operation}", 400)

    def _assume(self, request: Request, values: dict[str, str]) -> Response:
        arn, session = values.get("RoleArn", ""), values.get("RoleSessionName", "")
        match = ROLE_ARN.fullmatch(arn)
        role = self._find_role(match.group(2)) if match and match.group(1) == ACCOUNT else None
        if role is None or not trusts_account(role.trust, ACCOUNT):
            raise AwsError("AccessDenied", f"User is not authorized to perform: sts:AssumeRole on resource: {arn}", 403)
        issued = self._credentials.issue(role_arn=arn, session=session, seconds=_life(values))
        user = f"<AssumedRoleUser><AssumedRoleId>AROASIMULATOR:{session}</AssumedRoleId>"
        user += f"<Arn>{_assumed_arn(issued)}</Arn></AssumedRoleUser>"
        return _answer(request, _keys(issued) + user)


def _life(values: dict[str, str]) -> float:
    seconds = float(values.get("DurationSeconds") or DEFAULT_SESSION)
    if seconds < MIN_SESSION:
        raise AwsError("ValidationError", f"DurationSeconds must be at least {MIN_SESSION:.0f}", 400)
    return seconds


def _assumed_arn(credential: Credential) -> str:
    partition = credential.role_arn.split(":")[1]
    return f"arn:{partition}:sts::{ACCOUNT}:assumed-role/{credential.role_arn.rpartition('/')[2]}/{credential.session}"


def _identity(caller: Credential, partition: str) -> str:
    arn = _assumed_arn(caller) if caller.role_arn else f"arn:{partition}:iam::{ACCOUNT}:user/{caller.user}"
    user = f"AROASIMULATOR:{caller.session}" if caller.role_arn else "AIDASIMULATOR"
    return f"<Arn>{arn}</Arn><UserId>{user}</UserId><Account>{ACCOUNT}</Account>"


def _keys(issued: Credential) -> str:
    return (
        f"<Credentials><AccessKeyId>{issued.access_key}</AccessKeyId>"
        f"<SecretAccessKey>{issued.secret_key}</SecretAccessKey><SessionToken>{issued.token}</SessionToken>"
        f"<Expiration>{iso(issued.expires or 0.0)}</Expiration></Credentials>"
    )


def _answer(request: Request, result: str) -> Response:
    name = request.operation
    body = (
        f'<{name}Response xmlns="{NAMESPACE}"><{name}Result>{result}</{name}Result>'
        f"<ResponseMetadata><RequestId>{request.request_id}</RequestId></ResponseMetadata></{name}Response>"
    )
    return Response(200, {"Content-Type": "text/xml"}, body.encode())
