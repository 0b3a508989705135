"""Logins and their tokens."""

from __future__ import annotations

import hmac
import json
import secrets
from typing import Any, Final

from wavelift.simulators.hcx import invented
from wavelift.simulators.hcx.errors import HcxError
from wavelift.simulators.hcx.settings import Settings
from wavelift.simulators.kit.clock import Clock
from wavelift.simulators.kit.message import Response

USERNAME: Final = "administrator@vsphere.local"
PASSWORD: Final = "simulator-hcx-password"
TOKEN_HEADER: Final = "x-hm-authorization"


class Sessions:
    def __init__(self, clock: Clock, settings: Settings) -> None:
        self._clock, self._settings = clock, settings
        self._until: dict[str, float] = {}
        self.logins = 0

    def log_in(self, body: Any) -> Response:
        """The token is in a header only. Raises HcxError."""
        settings = self._settings
        if settings.starting:
            raise HcxError(invented.START_STATUS, "session", invented.STARTING, xml=True)
        user, password = (str(body.get(name, "")) for name in ("username", "password"))
        if user != USERNAME or not hmac.compare_digest(password.encode(), PASSWORD.encode()):
            message = invented.BAD_LOGIN.said(other_words=settings.other_words)
            raise HcxError(401, "session", message, xml=settings.xml_login_errors)
        token = ":".join(secrets.token_hex(size) for size in (4, 2, 2, 6))
        self._until[token] = self._clock.now() + settings.token_seconds
        self.logins += 1
        told = {
            "success": True,
            "completed": True,
            "time": int(1000 * self._clock.now()),
            "version": "1.0",
            "data": {
                "cloud": {"cloudType": "VC"},
                "user": {"username": user, "enterprise": "HybridityAdmin", "organization": ["DEFAULT"]},
                "organizations": [{"uuid": "DEFAULT"}],
            },
        }
        headers = {"Content-Type": "application/json", TOKEN_HEADER: token, "auth_token_name": TOKEN_HEADER}
        return Response(settings.login_status, headers, json.dumps(told).encode())

    def check(self, token: str) -> None:
        """Raises HcxError 401."""
        if self._until.get(token, 0.0) <= self._clock.now():
            raise HcxError(401, "session", invented.NO_SESSION.said(other_words=self._settings.other_words))

    def expire(self) -> int:
        ended = len(self._until)
        self._until.clear()
        return ended
