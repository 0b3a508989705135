"""Where a manifest lies in S3, how it is stored, and how it is read and checked (invariant 1)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Self

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import DiskLineage, StoredDisk
from wavelift.base.errors import CorruptStreamError, ProofError
from wavelift.transfer.manifest import Manifest

PARENT_HEADER: Final = "built_on"
"""In a manifest's header: the lineage that the transfer was told to build on, if it was a delta."""
LINEAGE_HEADER: Final = "lineage"
"""In a manifest's header: the lineage of a replicated disk, but for where the manifest lies."""


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """The S3 object that holds one disk's manifest.

    :param digest: SHA-256 of the object's bytes, hex.
    :param capacity: of the disk, bytes: bounds how much is read.
    """

    bucket: str
    key: str
    digest: str
    capacity: int

    @classmethod
    def save(cls, s3: S3Staging, key: str, manifest: Manifest, *, metadata: Mapping[str, str] | None = None) -> Self:
        """Store ``manifest`` under ``key``.

        :param metadata: user metadata of the object.
        """
        body = manifest.to_bytes()
        s3.put_object(key, body, metadata=metadata)
        return cls(s3.bucket, key, hashlib.sha256(body).hexdigest(), manifest.capacity)

    @classmethod
    def of(cls, disk: StoredDisk | DiskLineage) -> Self:
        """The manifest that a record names."""
        return cls(disk.bucket, disk.manifest_key, disk.manifest_digest, disk.capacity)

    def load(self, access: AwsAccess, *, next_step: str = "", disk: str | None = None) -> Manifest:
        """Read the manifest.

        :param next_step: what the user does if the object is not the one that was stored.
        :param disk: for the error.
        :raises ProofError: the object is not the one that was stored. :raises NotFoundError: it is gone.
        :raises CorruptStreamError: it is not a manifest of a known version.
        """
        changed = ProofError(
            "The manifest in S3 is not the one that was stored", next_step=next_step, disk=disk, object=self.key
        )
        with closing(S3Staging(access, self.bucket)) as s3:
            try:
                body = s3.get_object(self.key, at_most=Manifest.most_bytes(self.capacity))
            except CorruptStreamError as error:
                raise changed from error
        if hashlib.sha256(body).hexdigest() != self.digest:
            raise changed
        return Manifest.from_bytes(body)


class LoadedManifests:
    """Stored manifests of one task that are needed more than once: each is read once. For one thread."""

    def __init__(self, access: AwsAccess) -> None:
        self.access = access
        self._loaded: dict[StoredManifest, Manifest] = {}

    def load(self, stored: StoredManifest) -> Manifest:
        """See :meth:`StoredManifest.load`. The caller does not change what it gets."""
        if stored not in self._loaded:
            self._loaded[stored] = stored.load(self.access)
        return self._loaded[stored]
