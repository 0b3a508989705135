"""VMware Cloud's own services: tokens (CSP), and where an SDDC's NSX is."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from typing import Any
from urllib.parse import parse_qs

from wavelift.simulators.kit.clock import Clock
from wavelift.simulators.kit.message import Request
from wavelift.simulators.nsx import invented
from wavelift.simulators.nsx.errors import CloudError, NsxError
from wavelift.simulators.nsx.settings import (
    CLIENT_ID,
    CLIENT_SECRET,
    ORG,
    PASSWORD,
    REFRESH_TOKEN,
    SDDC,
    USERNAME,
    Settings,
)

PROXY = f"/vmc/reverse-proxy/api/orgs/{ORG}/sddcs/{SDDC}/sks-nsxt-manager"
CSP = "/csp/gateway/am/api/auth"
SDDC_PATH = f"/vmc/api/orgs/{ORG}/sddcs/{SDDC}"


class Cloud:
    """Who may call: by Basic on premises, by access tokens in VMware Cloud."""

    def __init__(self, clock: Clock, settings: Settings) -> None:
        self._clock, self._settings = clock, settings
        self._tokens: dict[str, float] = {}

    def expire(self) -> int:
        """End all access tokens."""
        count = len(self._tokens)
        self._tokens.clear()
        return count

    def exchange(self, request: Request) -> dict[str, Any]:
        """A refresh token, or an app's id and secret, for an access token."""
        form = {key: values[0] for key, values in parse_qs(request.body.content.decode()).items()}
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            raise CloudError(415, "an HTML form is wanted")
        if request.path == f"{CSP}/authorize":
            fits = form.get("grant_type") == "client_credentials" and basic(request) == (CLIENT_ID, CLIENT_SECRET)
        else:
            fits = (form.get("refresh_token") or form.get("api_token")) == REFRESH_TOKEN
        if not fits:
            raise CloudError(400, invented.GRANT_MESSAGE)
        token = secrets.token_urlsafe(24)
        self._tokens[token] = self._clock.now() + self._settings.token_seconds
        return {"access_token": token, "token_type": "bearer", "expires_in": int(self._settings.token_seconds)}

    def sddc(self, request: Request) -> dict[str, Any]:
        self.check_token(request)
        if request.path != SDDC_PATH:
            raise CloudError(404, "no such SDDC")
        url = f"https://{request.headers['host']}{PROXY}"
        if self._settings.nsx_url:
            url = json.loads(self._settings.nsx_url)
        return {"id": SDDC, "org_id": ORG, "name": "SDDC", "resource_config": {"nsx_api_public_endpoint_url": url}}

    def check_token(self, request: Request) -> None:
        told = request.headers.get("csp-auth-token", "")
        bearer = request.headers.get("authorization", "")
        token = told or (bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else "")
        if self._tokens.get(token, 0.0) <= self._clock.now():
            raise CloudError(401, invented.TOKEN_MESSAGE)

    def check_basic(self, request: Request) -> None:
        if basic(request) != (USERNAME, PASSWORD):
            raise NsxError(invented.LOGIN_STATUS, invented.LOGIN_CODE, invented.LOGIN_MESSAGE, module="common-services")


def basic(request: Request) -> tuple[str, str]:
    """User and password; empty if there are none."""
    told = request.headers.get("authorization", "")
    try:
        user, _, password = base64.b64decode(told.removeprefix("Basic "), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return (user, password) if told.startswith("Basic ") else ("", "")
