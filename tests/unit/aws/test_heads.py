"""The heads of requests that carry bytes to AWS: one request, whatever a connection or a peer says."""

from __future__ import annotations

from xml.etree import ElementTree

import boto3
import h11
import pytest
from hypothesis import example, given
from tests.hostile import texts

from wavelift.adapters.aws.access import AwsAccess, Keys
from wavelift.adapters.aws.bulk import BulkClient, BulkRequest
from wavelift.adapters.aws.texts import metadata, tag_value
from wavelift.base.errors import UnsafeTextError
from wavelift.base.names import slug

pytestmark = pytest.mark.unit

URL = "https://ebs.eu-central-1.amazonaws.com/snapshots/snap-1/blocks/1"


@pytest.fixture(scope="module")
def client() -> BulkClient:
    session = boto3.Session(aws_access_key_id="AKIA", aws_secret_access_key="geheim", region_name="eu-central-1")
    return BulkClient(AwsAccess(session), "ebs")


def requests_in(head: bytes) -> int:
    server = h11.Connection(h11.SERVER)
    server.receive_data(head)
    found = 0
    while isinstance(event := server.next_event(), h11.Request | h11.EndOfMessage):
        found += isinstance(event, h11.Request)
        if isinstance(event, h11.EndOfMessage):
            assert server.trailing_data == (b"", False)
            break
    return found


@given(text=texts)
def test_neither_a_session_token_nor_an_address_nor_a_header_makes_a_second_request(
    client: BulkClient, text: str
) -> None:
    for keys, request in (
        (Keys("AKIA", "geheim", text), BulkRequest("PUT", URL, "", "")),
        (Keys(f"AKIA{text}", "geheim"), BulkRequest("PUT", URL, "", "")),
        (Keys("AKIA", "geheim"), BulkRequest("PUT", f"{URL}/{text}", "", "")),
        (Keys("AKIA", "geheim"), BulkRequest("PUT", URL, "", "", headers={"x-amz-Evil": text})),
    ):
        try:
            head = client.head(request, keys)
        except (UnsafeTextError, UnicodeEncodeError):
            continue
        names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:-2]]
        assert b"x-evil" not in names
        assert len(names) == len(set(names))
        assert requests_in(head) == 1


@example(name="\ud800")
@example(name="a\ufffe")
@given(name=texts)
def test_a_name_of_a_vm_is_a_key_a_tag_and_metadata_of_any_service(name: str) -> None:
    assert slug(name).isascii()
    assert not set(slug(name)) & set(" \r\n\0/?#")
    tag = ElementTree.Element("value")
    tag.text = tag_value(name)
    assert len(ElementTree.fromstring(ElementTree.tostring(tag)).text or "") == len(tag.text)
    assert metadata({"server": name})["server"].isascii()
