"""Names of everything that is created outside. They derive from the run, so that a retry finds it (invariant 5)."""

from __future__ import annotations

import hashlib
import re
from typing import Final

TAG_RUN: Final = "wavelift:run"
TAG_SERVER: Final = "wavelift:server"
TAG_WAVE: Final = "wavelift:wave"
TAG_ATTEMPT: Final = "wavelift:attempt"
"""Of what an export makes: a run that is cleared after its end begins anew, and must not take what its last attempt
left for its own."""
SNAPSHOT_PREFIX: Final = "wavelift-"
ON_DEMAND: Final = "on_demand__"
"""Of the ids of DAG runs that are asked for by name: Airflow gives its own others, so that a name which a caller chose
is never one of those."""
RUN_HASH_LENGTH: Final = 12
"""48 bits: the probability of a collision among a million runs is 1 in 500."""


MADE_BY: Final = "wavelift: "
"""Prefix of the description of an EBS snapshot that wavelift made. A tag alone is no proof: AWS Backup and lifecycle
policies copy the tags of what they back up."""


def run_key(dag_id: str, dag_run_id: str, server: str) -> str:
    """The key of one server in one run. It stays the same after retries and clears."""
    return f"{dag_id}/{dag_run_id}/{server}"


def run_hash(key: str) -> str:
    """A short form of :func:`run_key` that is safe in file names and tags."""
    return hashlib.sha256(key.encode()).hexdigest()[:RUN_HASH_LENGTH]


def snapshot_name(key: str) -> str:
    return f"{SNAPSHOT_PREFIX}{run_hash(key)}"


def instant_of(*what: str) -> str:
    """Twelve hex digits that identify one instant: of the vSphere snapshot that was read, or of its results.

    A checkpoint outlives a clear, and after a clear the source is read again. So every remembered value, idempotency
    token and S3 key contains the instant that it belongs to.
    """
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:RUN_HASH_LENGTH]


def client_token(key: str, purpose: str, attempt: int = 0, *, instant: str = "") -> str:
    """An idempotency token of at most 64 characters.

    :param attempt: increases if wavelift itself cancelled the previous call, because its token can't be used again.
    :param instant: :func:`instant_of` the subject of the call, so that a token never returns the result of another
        instant.
    """
    return "-".join(part for part in ("wl", run_hash(key), purpose, instant, str(attempt)) if part)[:64]


def slug(name: str) -> str:
    """``name`` as one component of an S3 key. Different names give different components.

    Only characters that S3 calls safe in keys are used. There is no dot at either end, because many clients treat
    ``..`` as the parent folder.
    """
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80].strip("-.")
    if clean == name:
        return clean
    digest = hashlib.sha256(name.encode(errors="surrogatepass"))  # JSON may hold lone surrogates
    return f"{clean}-{digest.hexdigest()[:6]}"


def staging_prefix(prefix: str, wave: str, key: str, server: str) -> str:
    """Folder of the staging objects of one server, without a trailing slash."""
    return "/".join(part for part in (prefix.strip("/"), slug(wave), run_hash(key), slug(server)) if part)


def tags(wave: str, server: str, key: str) -> dict[str, str]:
    """The tags of every AWS object that wavelift creates."""
    return {TAG_RUN: run_hash(key), TAG_SERVER: server, TAG_WAVE: wave, "Name": f"{wave}/{server}"}
