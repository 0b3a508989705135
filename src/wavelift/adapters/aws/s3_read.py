"""Reads objects: as one long stream that survives cut connections, and by ranges."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3.exceptions import HTTPError

from wavelift.adapters.aws.bulk import BulkClient, BulkRequest, Patience, connection_failure
from wavelift.base.errors import CorruptStreamError, UnreachableError
from wavelift.base.run import CancelFlag

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a bucket; ``url`` is where it lies. With ``etag``, only while it is this one."""

    url: str
    bucket: str
    key: str
    etag: str = ""


class S3Stream(io.RawIOBase):
    """An object from its first byte to its last, for one thread.

    A cut connection is opened again from the position reached, on the condition that the object is still the same
    (``If-Match``). Raw bytes: nothing is decoded.

    :ivar size: of the object in bytes.
    :ivar etag: of the object.
    :ivar position: bytes handed out so far.
    :ivar resumed: how often the connection was opened again.
    """

    def __init__(self, bulk: BulkClient, stored: StoredObject, cancel: CancelFlag) -> None:
        super().__init__()
        self.position = 0
        self.resumed = 0
        self._bulk = bulk
        self._url = stored.url
        self._where: dict[str, Any] = {"bucket": stored.bucket, "key": stored.key}
        self._cancel = cancel
        self.etag = stored.etag
        self._answer: urllib3.BaseHTTPResponse | None = self._open()
        self.size = int(self._answer.headers["Content-Length"])
        self.etag = self._answer.headers.get("ETag", "")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Up to ``len(buffer)`` bytes; 0 only at the true end.

        :raises UnreachableError: the connection could not be opened again.
        :raises ObjectChangedError: the object was replaced while it was read.
        """
        view = memoryview(buffer).cast("B")
        patience = Patience(self._bulk.policy, self._cancel)
        while self.position < self.size and len(view):
            self._cancel.check()
            try:
                count = self._read(view)
            except (HTTPError, OSError) as error:
                self._drop()
                patience.spend(connection_failure(self._request(), error))
                continue
            if count:
                self.position += count
                return count
            self._drop()  # the end of the answer, but not of the object
            patience.spend(connection_failure(self._request(), ConnectionError("the answer ended early")))
        return 0

    def _read(self, view: memoryview) -> int:
        if self._answer is None:
            self.resumed += 1
            self._answer = self._open()
        data = self._answer.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _request(self) -> BulkRequest:
        headers = {}
        if self.position:
            headers["Range"] = f"bytes={self.position}-"
        if self.etag:
            headers["If-Match"] = self.etag
        return BulkRequest(
            method="GET",
            url=self._url,
            doing="could not read the object",
            action="s3:GetObject",
            headers=headers,
            where={**self._where, "position": self.position},
        )

    def _open(self) -> urllib3.BaseHTTPResponse:
        answer = self._bulk.open(self._request(), self._cancel)
        if self.position and answer.status != 206:
            answer.close()
            # Says nothing about the content: verify must not take it for a proof that it is damaged.
            raise UnreachableError(
                "S3 ignored the range of a resumed read",
                next_step="A proxy on the way may have answered: go around it, then try again",
                **self._where,
                position=self.position,
            )
        return answer

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def close(self) -> None:
        self._drop()
        super().close()


def read_range(bulk: BulkClient, stored: StoredObject, offset: int, length: int, cancel: CancelFlag) -> bytes:
    """Bytes ``offset`` to ``offset + length`` of an object, all of them.

    :raises CorruptStreamError: the object is shorter.
    """
    if length <= 0:
        return b""
    # Not "offset": that names a place on a disk.
    where: dict[str, Any] = {"bucket": stored.bucket, "key": stored.key, "position": offset}
    request = BulkRequest(
        method="GET",
        url=stored.url,
        doing=f"could not read {length} bytes of the object",
        action="s3:GetObject",
        headers={
            "Range": f"bytes={offset}-{offset + length - 1}",
            **({"If-Match": stored.etag} if stored.etag else {}),
        },
        where=where,
        at_most=length,
    )
    data = bulk.send(request, cancel).data
    if len(data) != length:
        raise CorruptStreamError(
            f"the object ends early: {len(data)} of {length} bytes",
            next_step="Another process may have replaced it: export this disk again",
            **where,
        )
    return data
