"""Grants: what the control plane signs, and what a connector compares it with. Nothing here reads a file or the time.

A grant is an EdDSA JWT. It says that one user's right was looked at, and for what: a connector has no ledger, and all
that it is told comes by XCom, which can be edited over REST. A grant is no password. It is for one DAG run on one
connector, and it may be shown again there: a retry is no replay.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import ValidationError

from wavelift.base.domain import Message
from wavelift.base.errors import GrantError
from wavelift.rules.environment import VcenterCheck
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.rules.plans import ResolvedWave
from wavelift.rules.preflight_time import MOST_HOURS

Scope = Literal["look", "move", "stop", "live", "network"]
"""``look``: pre-flight may read the wave's servers in vCenter. ``move``: one server may be snapshotted and read.
``stop``: one server may be shut down, powered off and fenced, then snapshotted and read. ``live``: HCX may be told to
migrate the servers of one order, and to end that. ``network``: one step of the cutover of a network may be done, or
undone."""
MovingScope = Literal["move", "stop"]
"""Of a grant of one server, which its ``reserve`` issues."""
Work = Literal["migrate", "replicate", "cutover", "live", "network"]
"""The flow. Only a cutover stops a source, and whatever of a source it reads, it reads under that grant."""

ALGORITHM: Final = "EdDSA"
"""The only one: what the token's header says is not asked."""
LEEWAY: Final = timedelta(seconds=120)
"""How far the clocks of the control plane and of a connector may be apart."""
REQUIRED: Final = ("exp", "iat", "nbf", "sub", "aud")
ALL_SERVERS: Final = "*"
"""As the server of a grant, and in its principals."""
KID: Final = re.compile(r"[0-9a-f]{16}")
"""It becomes the name of a file."""
SUFFIX: Final = ".pem"
BEYOND_SNAPSHOT: Final = timedelta(hours=1)
"""For what comes before and after the snapshot."""
LOOK_LIFETIME: Final = timedelta(hours=24)
"""So long may pre-flight wait for its connector."""
LAST_SECOND: Final = int(datetime.max.replace(tzinfo=UTC).timestamp())
"""No clock shows a later one."""
LONGEST_SHUTDOWN: Final = timedelta(hours=4)
"""A guest gets as much at most, before its snapshot: as a wave's ``shutdown`` may say."""
LONGEST_LIFETIME: Final = max(LONGEST_SHUTDOWN + timedelta(hours=MOST_HOURS) + BEYOND_SNAPSHOT, LOOK_LIFETIME)
"""Of any grant, whatever a wave says."""


class Grant(Message):
    """What the control plane allows."""

    scope: Scope
    user: str
    """Who asked for the run (``sub``)."""
    action: Work
    environment: str
    dag_id: str
    run_id: str
    server: str
    """:data:`ALL_SERVERS` with the scopes ``look`` and ``live``; with ``network``, the network's name."""
    vm: str = ""
    """Instance UUID. Empty with the scope ``look``: which VMs the entries select, only vCenter knows. Empty with
    ``live``: the order, whose digest is :attr:`plan`, names them. With ``network``, the cutover."""
    vcenter: str
    """The Airflow connection; of an HCX manager in the flows that drive HCX."""
    connections: tuple[str, ...] = ()
    """Further connections that the task may open: both vCenters of an HCX pairing, and the NSX managers."""
    connector: str
    """The queue (``aud``)."""
    plan: str
    """``move`` and ``stop``: digest of the server's plan as ``reserve`` compared it with the frozen one. ``look``: of
    the wave as ``admit`` froze it. ``live`` and ``network``: of the order."""
    entry: str = ""
    """``move`` and ``stop``: digest of the entry of the frozen wave that the plan came from."""
    principals: Mapping[str, str] = {}
    """Server, or :data:`ALL_SERVERS` → the user in vCenter whose right to export is asked; absent: nobody's."""
    vcenter_check: VcenterCheck = "require"
    tags: tuple[str, ...] = ()
    """``move`` and ``stop``: the wave selects the VM only by one of these vSphere tags. Only vCenter knows which VMs
    have them."""
    clear_number: int | None = None
    """``live`` and ``network``: how often any task of the run had been cleared when this was issued. Airflow counts
    that. A task that acts refuses once the run has another number: see :func:`require_uncleared`."""

    def principal(self, server: str) -> str | None:
        """The user in vCenter whose right to export a server is asked. None: nobody's. Empty: nobody said who."""
        return self.principals.get(server, self.principals.get(ALL_SERVERS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What a task is about to do: from its own DAG run and queue, and from what came by XCom."""

    scope: Scope
    user: str
    action: Work
    environment: str
    dag_id: str
    run_id: str
    server: str
    vm: str
    vcenter: str
    connector: str
    plan: str


WORDS: Final[Mapping[str, str]] = {
    "scope": "another kind of work",
    "user": "another user",
    "action": "another action",
    "environment": "another environment",
    "dag_id": "another DAG",
    "run_id": "another DAG run",
    "server": "another server",
    "vm": "another VM",
    "vcenter": "another vCenter",
    "connector": "another connector",
    "plan": "another plan",
}
CLAIMS: Final[Mapping[str, str]] = {"user": "sub", "connector": "aud"}
"""Fields with a registered name in the token; the others have their own."""


def sign(grant: Grant, key: Ed25519PrivateKey, *, now: datetime, lifetime: timedelta) -> str:
    """The token of a grant that begins now.

    :param lifetime: at most :data:`LONGEST_LIFETIME`: so long the public key of a rotated pair is kept.
    """
    begins = int(now.timestamp())
    claims = {CLAIMS.get(name, name): value for name, value in grant.model_dump(mode="json").items()}
    ends = begins + int(min(lifetime, LONGEST_LIFETIME).total_seconds())
    stated = {**claims, "iat": begins, "nbf": begins, "exp": ends}
    return jwt.encode(stated, key, algorithm=ALGORITHM, headers={"kid": kid_of(key.public_key())})


def kid_of(key: Ed25519PublicKey) -> str:
    """The name of a public key: the first half of the SHA-256 of its bytes, 16 hexadecimal digits."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def public_from(pem: bytes) -> Ed25519PublicKey:
    """:raises ValueError: this is no such key."""
    try:
        key = load_pem_public_key(pem)
    except UnsupportedAlgorithm as error:
        raise ValueError("unsupported key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("no Ed25519 key")
    return key


def kid_in(token: str, scope: Scope, *, issuer: str = "") -> str:
    """Which key a token says that it was signed with. Nothing of the token is believed yet.

    :param scope: of the grant that there should be: it says which task issues it.
    :param issuer: the task of the run that issues it, if it is another one.
    :raises GrantError: there is none, or this is no grant.
    """
    if not token:
        raise GrantError(
            "The task before left no grant",
            field="token",
            next_step=f"{expired_step(scope, issuer)}: it issues one. A run that began before an upgrade to grants "
            "has none",
        )
    if not isinstance(token, str) or not token.isascii():  # half of a surrogate pair cannot even be encoded
        raise _forged("token", issuer)
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError as error:
        raise _forged("token", issuer) from error
    kid, algorithm = header.get("kid"), header.get("alg")
    if algorithm != ALGORITHM:
        raise _forged("alg", issuer)
    if not isinstance(kid, str) or not KID.fullmatch(kid):
        raise _forged("kid", issuer)
    return kid


def read(token: str, key: Ed25519PublicKey, *, now: datetime, issuer: str = "") -> Grant:
    """What a token grants, if this key signed it and it holds now.

    The times are compared here, not by PyJWT, which would ask the system's clock.

    :param issuer: as in :func:`kid_in`.
    :raises GrantError: forged, expired, or not yet valid.
    """
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            options={
                "require": list(REQUIRED),
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_aud": False,  # `difference` names it as every other field
            },
        )
    except jwt.MissingRequiredClaimError as error:
        raise _forged(error.claim, issuer) from error
    except jwt.InvalidTokenError as error:
        raise _forged("signature", issuer) from error
    _in_time(claims, now, issuer)
    stated = {name: claims.get(CLAIMS.get(name, name)) for name in Grant.model_fields}
    try:
        return Grant.load({name: value for name, value in stated.items() if value is not None})
    except ValidationError as error:
        raise _forged(".".join(str(part) for part in error.errors()[0]["loc"]), issuer) from error


def _in_time(claims: Mapping[str, Any], now: datetime, issuer: str) -> None:
    for name in ("iat", "nbf", "exp"):
        if type(claims[name]) is not int or not 0 <= claims[name] <= LAST_SECOND:
            raise _forged(name, issuer)
    seconds, leeway = now.timestamp(), LEEWAY.total_seconds()
    if seconds >= claims["exp"] + leeway:
        ended = datetime.fromtimestamp(claims["exp"], UTC)
        raise GrantError(
            f"The grant expired at {ended:%Y-%m-%d %H:%M:%S} UTC",
            field="exp",
            now=f"{now:%Y-%m-%d %H:%M:%S} UTC",
            next_step=expired_step(str(claims.get("scope")), issuer),
        )
    for name in ("nbf", "iat"):
        if seconds < claims[name] - leeway:
            begins = datetime.fromtimestamp(claims[name], UTC)
            raise GrantError(
                f"The grant begins at {begins:%Y-%m-%d %H:%M:%S} UTC, by the clock of the control plane",
                field=name,
                now=f"{now:%Y-%m-%d %H:%M:%S} UTC",
                next_step=f"Set the clocks: they may be {LEEWAY.total_seconds():.0f} s apart; then clear this task",
            )


def expired_step(scope: str, issuer: str = "") -> str:
    """The way out of a grant that is over."""
    if issuer:
        return f"Clear the run's {issuer} task"
    return "Clear the run's admit task" if scope == "look" else f"Clear the server's {CONTINUE_FROM} task"


def require(grant: Grant, intent: Intent, *, issuer: str = "") -> None:
    """:param issuer: as in :func:`kid_in`.

    :raises GrantError: the grant is for something else; it names the first field that differs.
    """
    for each in fields(intent):
        granted, wanted = getattr(grant, each.name), getattr(intent, each.name)
        if granted != wanted:
            raise GrantError(
                f"The grant is for {WORDS[each.name]}",
                field=CLAIMS.get(each.name, each.name),
                expected=granted,
                found=wanted,
                server=None if intent.server == ALL_SERVERS else intent.server,
                next_step=_other_step(each.name, grant.scope, issuer),
            )


def require_uncleared(issued: int | None, now: int, *, issuer: str) -> None:
    """The fence against a clear: a task that acts outside was ordered for the run as it stood then.

    Who clears such a task alone, perhaps weeks later, would have it act on an order that was taken back meanwhile.

    :param issued: what the grant or the order carries; None: it is not fenced.
    :param now: Airflow's ``dag_run.clear_number`` at this try.
    :param issuer: the task that gives orders: it asks the ledger whether the work may go on.
    :raises GrantError: the run was cleared in between.
    """
    if issued is not None and issued != now:
        raise GrantError(
            "This run was cleared after the order was given",
            field="clear_number",
            expected=issued,
            found=now,
            next_step=f"Clear the run's {issuer} task with downstream: it asks the ledger whether the work may go on",
        )


def _other_step(field: str, scope: Scope, issuer: str) -> str:
    if field == "connector":
        return "Trigger a new run of the wave: this one was admitted for the connector that the wave named then"
    return f"{expired_step(scope, issuer)}; find out who edited the run's XComs"


def _forged(field: str, issuer: str) -> GrantError:
    step = expired_step("", issuer) if issuer else f"Clear the run's admit task, or the server's {CONTINUE_FROM}"
    return GrantError(
        "The grant was not made by this control plane",
        field=field,
        next_step=f"{step}; if it comes again, find out who edited the run's XComs",
    )


def digest_of_wave(wave: ResolvedWave) -> str:
    """SHA-256 of the whole wave with its environment, hex: as :func:`wavelift.rules.frozen.digest_of`."""
    stated = wave.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(stated, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def lifetime_of_move(max_snapshot_hours: float, *, before: timedelta = timedelta()) -> timedelta:
    """:param before: what the server may take until its snapshot: its guest shuts down."""
    return before + timedelta(hours=max_snapshot_hours) + BEYOND_SNAPSHOT
