"""Checksums of request bodies, by S3's names of the algorithms."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping


class Digests:
    """The checksums of one body, computed in one pass: SHA-256 always, the others if the caller states one."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        trailer = headers.get("x-amz-trailer", "").lower()
        stated = {name for name in headers if name.startswith("x-amz-checksum-")} | {trailer}
        self._sha256 = hashlib.sha256()
        self._sha1 = hashlib.sha1(usedforsecurity=False) if "x-amz-checksum-sha1" in stated else None
        self._crc32: int | None = 0 if "x-amz-checksum-crc32" in stated else None
        self._md5 = hashlib.md5(usedforsecurity=False) if "content-md5" in headers else None
        self.size = 0

    def update(self, piece: bytes | memoryview) -> None:
        self.size += len(piece)
        self._sha256.update(piece)
        if self._sha1 is not None:
            self._sha1.update(piece)
        if self._crc32 is not None:
            self._crc32 = zlib.crc32(piece, self._crc32)
        if self._md5 is not None:
            self._md5.update(piece)

    @property
    def sha256(self) -> bytes:
        return self._sha256.digest()

    @property
    def md5(self) -> bytes | None:
        return self._md5.digest() if self._md5 is not None else None

    def checksum(self, algorithm: str) -> bytes | None:
        """By S3's name of the algorithm (``SHA256``); None if it was not computed."""
        if algorithm == "SHA256":
            return self.sha256
        if algorithm == "SHA1" and self._sha1 is not None:
            return self._sha1.digest()
        if algorithm == "CRC32" and self._crc32 is not None:
            return self._crc32.to_bytes(4, "big")
        return None


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
