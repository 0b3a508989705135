"""boto3 takes a success whose body is cut off, or is not JSON, for an answer without members. We never believe it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs import SnapshotBlocks
from wavelift.base.errors import UnreachableError

pytestmark = pytest.mark.unit
GOOD: Final = json.dumps({"Blocks": [{"BlockIndex": 3, "BlockToken": "t"}], "VolumeSize": 1, "BlockSize": 524288})
PROXY: Final = "<html><body>Please sign in</body></html>"


class Raw:
    """A body as urllib3 gives it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> Iterator[bytes]:
        yield self._body


def blocks_of(*answers: tuple[str, Mapping[str, str]], tries: int) -> tuple[SnapshotBlocks, list[str]]:
    """A reader whose calls get these answers with status 200, the last one again and again; and what was sent."""
    session = boto3.Session("AKIDEXAMPLE", "not-a-key", region_name="eu-central-1")
    config = Config(retries={"mode": "standard", "total_max_attempts": tries})
    access = AwsAccess(session, endpoint_url="https://ebs.invalid", config=config)
    sent: list[str] = []

    def answer(request: Any, **_: object) -> AWSResponse:
        sent.append(request.url)
        body, headers = answers[min(len(sent), len(answers)) - 1]
        return AWSResponse(request.url, 200, dict(headers), Raw(body.encode()))

    access.client("ebs").meta.events.register("before-send.ebs.ListSnapshotBlocks", answer)
    return SnapshotBlocks(access, "snap-1"), sent


@pytest.mark.parametrize(
    "damaged",
    [
        (PROXY, {"content-length": str(len(PROXY))}),
        (GOOD[:40], {"content-length": str(len(GOOD))}),
        (GOOD[:40], {}),
        ("", {"content-length": str(len(GOOD))}),
    ],
    ids=["the page of a proxy", "cut by its length", "cut without a length", "nothing of it"],
)
def test_inv_1_a_damaged_success_is_asked_for_again_and_never_believed(damaged: tuple[str, dict[str, str]]) -> None:
    blocks, sent = blocks_of(damaged, (GOOD, {"content-length": str(len(GOOD))}), tries=2)
    assert [block.index for block in blocks.page().blocks] == [3]
    assert len(sent) == 2

    blocks, sent = blocks_of(damaged, tries=2)
    with pytest.raises(UnreachableError):
        blocks.page()
    assert len(sent) == 2


def test_a_whole_answer_is_believed_at_once() -> None:
    for headers in ({"content-length": str(len(GOOD))}, {}, {"content-length": "20", "content-encoding": "gzip"}):
        blocks, sent = blocks_of((GOOD, headers), tries=2)
        assert [block.index for block in blocks.page().blocks] == [3]
        assert len(sent) == 1
