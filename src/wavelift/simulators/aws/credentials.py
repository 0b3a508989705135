"""Valid credentials: one permanent pair, and the temporary ones that STS issues."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import Any, Final

from wavelift.simulators.aws.settings import Settings
from wavelift.simulators.kit.clock import Clock

KEY_CHARACTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
MIN_SESSION: Final = 900.0
DEFAULT_SESSION: Final = 3600.0


@dataclass(slots=True)
class Credential:
    """``expires`` is a time of the simulator's clock; None for a permanent pair."""

    access_key: str
    secret_key: str
    token: str = ""
    expires: float | None = None
    role_arn: str = ""
    session: str = ""


class Credentials:
    """Every pair that was ever valid, so that an expired pair gets another error than an unknown one."""

    def __init__(self, access_key: str, secret_key: str, clock: Clock, settings: Settings) -> None:
        self._clock, self._settings = clock, settings
        self._lock = threading.Lock()
        self.permanent = Credential(access_key, secret_key)
        self._known: dict[str, Credential] = {access_key: self.permanent}

    def find(self, access_key: str) -> Credential | None:
        return self._known.get(access_key)

    def expired(self, credential: Credential) -> bool:
        return credential.expires is not None and self._clock.now() >= credential.expires

    def issue(self, *, role_arn: str, session: str, seconds: float) -> Credential:
        """Issue temporary credentials. The setting ``session_seconds`` overrides the life that the caller asks for."""
        life = self._settings.session_seconds or seconds
        credential = Credential(
            access_key="ASIA" + "".join(secrets.choice(KEY_CHARACTERS) for _ in range(16)),
            secret_key=secrets.token_urlsafe(30),
            token=secrets.token_urlsafe(120),
            expires=self._clock.now() + life,
            role_arn=role_arn,
            session=session,
        )
        with self._lock:
            self._known[credential.access_key] = credential
        return credential

    def expire(self, access_key: str = "") -> int:
        """End one session, or all of them. Returns how many ended."""
        ended = 0
        with self._lock:
            for credential in self._known.values():
                if credential.expires is None or (access_key and credential.access_key != access_key):
                    continue
                credential.expires = min(credential.expires, self._clock.now())
                ended += 1
        return ended

    def sessions(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {
                    "access_key": credential.access_key,
                    "role_arn": credential.role_arn,
                    "session": credential.session,
                    "expires": credential.expires,
                    "expired": self.expired(credential),
                }
                for credential in self._known.values()
                if credential.expires is not None
            ]
