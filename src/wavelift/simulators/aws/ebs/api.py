"""The six calls of EBS direct."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, Final

from wavelift.simulators.aws.digests import b64
from wavelift.simulators.aws.ebs.snapshot import BLOCK, PENDING, Snapshot
from wavelift.simulators.aws.ebs.store import DEFAULT_TIMEOUT, EbsStore, StartRequest, changed_indices, invalid, page
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.keys import FindKey, key_for_snapshot
from wavelift.simulators.aws.settings import ACCOUNT, Settings
from wavelift.simulators.aws.tags import snapshot_tags
from wavelift.simulators.kit.clock import Clock
from wavelift.simulators.kit.message import BodyBroken, Request, Response

MIN_PAGE: Final = 100
MAX_PAGE: Final = 10_000
MAX_TEXT: Final = 255
"""Characters of a description and of a client token; both must not be empty (EBS's service model)."""
ROUTES: Final = (
    ("POST", re.compile(r"/snapshots"), "StartSnapshot"),
    ("POST", re.compile(r"/snapshots/completion/([^/]+)"), "CompleteSnapshot"),
    ("PUT", re.compile(r"/snapshots/([^/]+)/blocks/([^/]+)"), "PutSnapshotBlock"),
    ("GET", re.compile(r"/snapshots/([^/]+)/blocks/([^/]+)"), "GetSnapshotBlock"),
    ("GET", re.compile(r"/snapshots/([^/]+)/blocks"), "ListSnapshotBlocks"),
    ("GET", re.compile(r"/snapshots/([^/]+)/changedblocks"), "ListChangedBlocks"),
)


def route(request: Request) -> tuple[str, tuple[str, ...]]:
    """The operation and what its path names; ("", ()) for none."""
    for method, pattern, operation in ROUTES:
        match = pattern.fullmatch(request.path) if method == request.method else None
        if match is not None:
            return operation, match.groups()
    return "", ()


class EbsApi:
    def __init__(self, store: EbsStore, clock: Clock, settings: Settings, find_key: FindKey) -> None:
        self._store, self._clock, self._settings, self._find_key = store, clock, settings, find_key
        self._calls: dict[str, Callable[..., Response]] = {
            "StartSnapshot": self._start,
            "CompleteSnapshot": self._complete,
            "PutSnapshotBlock": self._put,
            "GetSnapshotBlock": self._get,
            "ListSnapshotBlocks": self._list,
            "ListChangedBlocks": self._changed,
        }

    def handle(self, request: Request) -> Response:
        operation, names = route(request)
        if not operation:
            raise AwsError("UnknownOperationException", f"No operation at {request.method} {request.path}", 404)
        return self._calls[operation](request, *names)

    def _start(self, request: Request) -> Response:
        values = _json(request)
        tags = tuple(snapshot_tags(values.get("Tags") or []).items())
        for name in ("Description", "ClientToken"):
            if name in values and not 1 <= len(values[name]) <= MAX_TEXT:
                raise invalid("INVALID_PARAMETER_VALUE", f"{name} does not have 1 to {MAX_TEXT} characters")
        start = StartRequest(
            size=int(values.get("VolumeSize") or 0),
            parent=values.get("ParentSnapshotId") or "",
            description=values.get("Description") or "",
            encrypted=values.get("Encrypted"),
            kms_key=values.get("KmsKeyArn") or "",
            timeout=int(values.get("Timeout") or DEFAULT_TIMEOUT),
            tags=tags,
        )
        if start.kms_key:
            key_for_snapshot(start.kms_key, self._find_key)
        snapshot = self._store.start(start, values.get("ClientToken") or "")
        answer = {
            "SnapshotId": snapshot.id,
            "OwnerId": ACCOUNT,
            "Status": PENDING,  # also for a token that was used before: AWS repeats the first answer
            "StartTime": snapshot.started,
            "VolumeSize": snapshot.size,
            "BlockSize": BLOCK,
            "Description": snapshot.description,
            "Tags": [{"Key": key, "Value": value} for key, value in tags],
            "SseType": "sse-kms" if snapshot.kms_key else "sse-ebs" if snapshot.encrypted else "none",
        }
        if start.parent:
            answer["ParentSnapshotId"] = start.parent
        if snapshot.kms_key:
            answer["KmsKeyArn"] = snapshot.kms_key
        return _answer(answer, 201)

    def _put(self, request: Request, snapshot_id: str, index: str) -> Response:
        stated = request.headers.get("x-amz-checksum", "")
        if request.headers.get("x-amz-checksum-algorithm") != "SHA256" or not stated:
            raise invalid("INVALID_PARAMETER_VALUE", "The checksum and its algorithm SHA256 are required")
        if request.headers.get("x-amz-data-length") != str(BLOCK):
            raise invalid("INVALID_PARAMETER_VALUE", f"DataLength must be {BLOCK}")
        number = _index(index)
        try:
            data = request.body.content
        except BodyBroken as error:
            raise invalid("INVALID_BLOCK", f"The block is incomplete: {error}") from error
        if len(data) != BLOCK:
            raise invalid("INVALID_BLOCK", f"The block has {len(data)} bytes, not {BLOCK}")
        digest = hashlib.sha256(data).digest()
        if b64(digest) != stated:
            raise invalid("INVALID_BLOCK", "The checksum is not that of the data")
        self._store.put(snapshot_id, number, data, digest)
        return Response(201, {"x-amz-Checksum": stated, "x-amz-Checksum-Algorithm": "SHA256"})

    def _complete(self, request: Request, snapshot_id: str) -> Response:
        count = request.headers.get("x-amz-changedblockscount", "")
        if not count.isdigit():
            raise invalid("INVALID_PARAMETER_VALUE", "ChangedBlocksCount is required")
        checksum = None
        if stated := request.headers.get("x-amz-checksum"):
            manners = (
                request.headers.get("x-amz-checksum-algorithm"),
                request.headers.get("x-amz-checksum-aggregation-method"),
            )
            if manners != ("SHA256", "LINEAR"):
                raise invalid("INVALID_PARAMETER_VALUE", "A checksum is SHA256 and LINEAR")
            checksum = _decode(stated)
        snapshot = self._store.complete(snapshot_id, changed=int(count), checksum=checksum)
        return _answer({"Status": snapshot.state}, 202)

    def _get(self, request: Request, snapshot_id: str, index: str) -> Response:
        snapshot, number = self._store.readable(snapshot_id), _index(index)
        self._store.check_block_token(request.query().get("blockToken", ""), snapshot, number)
        owner = snapshot.owner(number)
        if owner is None:
            raise invalid("INVALID_BLOCK", f"Block {number} is not in the snapshot")
        data = owner.own_bytes(number)
        headers = {
            "Content-Type": "application/octet-stream",
            "x-amz-Data-Length": str(BLOCK),
            "x-amz-Checksum": b64(hashlib.sha256(data).digest()),
            "x-amz-Checksum-Algorithm": "SHA256",
        }
        return Response(200, headers, data)

    def _list(self, request: Request, snapshot_id: str) -> Response:
        snapshot = self._store.readable(snapshot_id)
        start, size, context = self._paging(request, snapshot_id)
        indices, following = page(snapshot.indices(), start, size)
        blocks = [{"BlockIndex": index, "BlockToken": self._store.block_token(snapshot, index)} for index in indices]
        return self._listing(snapshot, {"Blocks": blocks}, following, context)

    def _changed(self, request: Request, second_id: str) -> Response:
        second = self._store.readable(second_id)
        first_id = request.query().get("firstSnapshotId", "")
        first = self._store.readable(first_id) if first_id else None
        if first is not None and first.size > second.size:
            raise invalid("INVALID_VOLUME_SIZE", "The second snapshot is smaller than the first")
        start, size, context = self._paging(request, f"{first_id}>{second_id}")
        rows = {index: (old, new) for index, old, new in changed_indices(first, second)}
        indices, following = page(list(rows), start, size)
        blocks = []
        for index in indices:
            block: dict[str, Any] = {"BlockIndex": index}
            if first is not None and rows[index][0]:
                block["FirstBlockToken"] = self._store.block_token(first, index)
            if rows[index][1]:
                block["SecondBlockToken"] = self._store.block_token(second, index)
            blocks.append(block)
        return self._listing(second, {"ChangedBlocks": blocks}, following, context)

    def _paging(self, request: Request, context: str) -> tuple[int, int, str]:
        query = request.query()
        size = int(query.get("maxResults") or MAX_PAGE)
        if not MIN_PAGE <= size <= MAX_PAGE:
            raise invalid("INVALID_PARAMETER_VALUE", f"MaxResults is between {MIN_PAGE} and {MAX_PAGE}")
        size = min(size, self._settings.page_blocks or size)
        if self._settings.thin_pages:
            size = size * 2 // 3 if "pageToken" in query else 0
        if token := query.get("pageToken"):
            return self._store.page_start(token, context), size, context
        return _index(query.get("startingBlockIndex") or "0"), size, context

    def _listing(self, snapshot: Snapshot, answer: dict[str, Any], following: int | None, context: str) -> Response:
        answer |= {
            "ExpiryTime": self._clock.now() + self._settings.block_token_seconds,
            "VolumeSize": snapshot.size,
            "BlockSize": BLOCK,
        }
        if following is not None:
            answer["NextToken"] = self._store.page_token(following, context)
        return _answer(answer, 200)


def _json(request: Request) -> dict[str, Any]:
    try:
        values = json.loads(request.body.content or b"{}")
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise AwsError("SerializationException", "The body is not a JSON object", 400)
    return values


def _answer(values: dict[str, Any], status: int) -> Response:
    return Response(status, {"Content-Type": "application/json"}, json.dumps(values).encode())


def _index(text: str) -> int:
    if not text.isdigit():
        raise invalid("INVALID_BLOCK", f"Block index {text!r} is not a number")
    return int(text)


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise invalid("INVALID_PARAMETER_VALUE", "The checksum is not Base64") from None
