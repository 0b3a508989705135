"""Names of everything that is created outside, derived from the run so that a retry finds it (invariant 5)."""

from __future__ import annotations

import hashlib
import re
from typing import Final

TAG_RUN: Final = "wavelift:run"
TAG_SERVER: Final = "wavelift:server"
TAG_WAVE: Final = "wavelift:wave"
SNAPSHOT_PREFIX: Final = "wavelift-"
RUN_HASH_LENGTH: Final = 12
"""48 bits: a clash among a million runs has a chance of 1 in 500."""


MADE_BY: Final = "wavelift: "
"""How the description of an EBS snapshot of ours begins. A tag alone proves nothing: AWS Backup and lifecycle policies
copy the tags of what they back up."""


def run_key(dag_id: str, dag_run_id: str, server: str) -> str:
    """The one name of one server's way through one run; survives retries and clears."""
    return f"{dag_id}/{dag_run_id}/{server}"


def run_hash(key: str) -> str:
    """A short, file- and tag-safe form of :func:`run_key`."""
    return hashlib.sha256(key.encode()).hexdigest()[:RUN_HASH_LENGTH]


def snapshot_name(key: str) -> str:
    return f"{SNAPSHOT_PREFIX}{run_hash(key)}"


def instant_of(*what: str) -> str:
    """Twelve hex digits that stand for one instant: of the vSphere snapshot that was read, or of what was made of it.

    A checkpoint outlives a clear, which reads the source again: what is remembered, an idempotency token and a key in
    S3 say of *which* instant they are.
    """
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:RUN_HASH_LENGTH]


def client_token(key: str, purpose: str, attempt: int = 0, *, instant: str = "") -> str:
    """An idempotency token of at most 64 characters; ``attempt`` grows when our own cancellation spoiled the last.

    :param instant: :func:`instant_of` what the call is about: a token never answers with what was made of another.
    """
    return "-".join(part for part in ("wl", run_hash(key), purpose, instant, str(attempt)) if part)[:64]


def slug(name: str) -> str:
    """``name`` as one component of an S3 key; distinct names stay distinct.

    Of what S3 calls safe in keys; no dot at either end, since ``..`` is a step up to many clients.
    """
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80].strip("-.")
    return clean if clean == name else f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def staging_prefix(prefix: str, wave: str, key: str, server: str) -> str:
    """Folder of one server's staging objects, without a trailing slash."""
    return "/".join(part for part in (prefix.strip("/"), slug(wave), run_hash(key), slug(server)) if part)


def tags(wave: str, server: str, key: str) -> dict[str, str]:
    """The tags that every AWS object of ours carries."""
    return {TAG_RUN: run_hash(key), TAG_SERVER: server, TAG_WAVE: wave, "Name": f"{wave}/{server}"}
