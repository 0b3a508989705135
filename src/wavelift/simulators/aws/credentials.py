"""Valid credentials: one permanent pair, and the temporary ones that STS issues."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import Any, Final

from wavelift.simulators.aws.held import Held
from wavelift.simulators.aws.settings import Settings
from wavelift.simulators.kit.clock import Clock

KEY_CHARACTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
MIN_SESSION: Final = 900.0
DEFAULT_SESSION: Final = 3600.0
USER: Final = "simulator"
"""The user with the permanent pair."""


@dataclass(slots=True)
class Credential:
    """``expires`` is a time of the simulator's clock; None for a permanent pair."""

    access_key: str
    secret_key: str
    token: str = ""
    expires: float | None = None
    role_arn: str = ""
    session: str = ""
    held: Held | None = None
    """The policies of whoever has it; None: everything is allowed."""

    @property
    def user(self) -> str:
        return self.held.user if self.held else USER


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

    def hold(self, access_key: str, secret_key: str, held: Held) -> None:
        """Add a permanent pair that may do only what its policies say. Raises ValueError if the key is known."""
        with self._lock:
            if access_key in self._known:
                raise ValueError(f"the access key {access_key} is known already")
            self._known[access_key] = Credential(access_key, secret_key, held=held)

    def let_go(self, access_key: str = "") -> int:
        """Forget such a pair, or all of them, and the sessions that they asked for. Returns how many pairs went."""
        with self._lock:
            users = {one.held for key, one in self._known.items() if one.held and access_key in ("", key)}
            self._known = {key: one for key, one in self._known.items() if one.held not in users}
        return len(users)

    def held(self) -> dict[str, Held]:
        """By access key, without sessions."""
        with self._lock:
            return {key: one.held for key, one in self._known.items() if one.held and one.expires is None}

    def issue(self, *, role_arn: str, session: str, seconds: float, held: Held | None = None) -> Credential:
        """Issue temporary credentials. The setting ``session_seconds`` overrides the life that the caller asks for.

        :param held: of the caller, for a session of the same user.
        """
        life = self._settings.session_seconds or seconds
        credential = Credential(
            access_key="ASIA" + "".join(secrets.choice(KEY_CHARACTERS) for _ in range(16)),
            secret_key=secrets.token_urlsafe(30),
            token=secrets.token_urlsafe(120),
            expires=self._clock.now() + life,
            role_arn=role_arn,
            session=session,
            held=held,
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
