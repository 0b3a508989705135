"""Names with any characters, in the form that each service accepts."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
from botocore.session import Session

from wavelift.adapters.aws import tagging, texts
from wavelift.adapters.aws.vmimport import ImportDisk, ImportRequest
from wavelift.base.names import slug, staging_prefix

pytestmark = pytest.mark.unit

NAMES: Final = (
    "web01",
    "Zoë-Büro",
    "サーバ 本番",
    "сервер",
    "خادم",
    "वेब",
    "🚀💾",
    "web01.",
    "...",
    "..",
    "a/b%2fc\\d%5c%25",
    "tab\there\nand there\x01",
    "n" * 80,
    "本" * 80,
    "💾" * 300,
    "100 % (old), [x] & 'y' \"z\" <w>",
    "*?\\",
)


def _limits(service: str, shape: str, member: str) -> dict[str, Any]:
    found: dict[str, Any] = Session().get_service_model(service).shape_for(shape).members[member].metadata
    return found


@pytest.mark.parametrize("name", NAMES)
def test_each_service_gets_what_it_takes(name: str) -> None:
    said = texts.description(f"wave/{name}")
    assert re.fullmatch(r"[ -~]{1,255}", said)
    value = texts.tag_value(name)
    limit = _limits("ebs", "Tag", "Value")
    assert len(value) <= limit["max"]
    assert not re.search(r"[\x00-\x1f]", value)
    ((key, stored),) = texts.object_tags({"wavelift:server": name}).items()
    assert re.fullmatch(r"[\w .:/=+\-@]{1,255}", stored)
    assert key == "wavelift:server"
    header = texts.metadata({"wavelift-server": name})["wavelift-server"]
    assert header.isascii()
    assert len(header) <= 900
    part = slug(name)
    assert re.fullmatch(r"[A-Za-z0-9_-]([A-Za-z0-9._-]*[A-Za-z0-9_-])?", part)
    key = staging_prefix("stage", "wave", "dag/run/x", name) + "/disk-0.vmdk"
    assert len(key.encode()) < 1024
    assert ".." not in key.split("/")


def test_a_plain_name_stays_and_others_stay_distinct() -> None:
    assert texts.description("shop/web01 (SCSI 0:0)") == "shop/web01 (SCSI 0:0)"
    assert texts.description("Zoë") == "Zoe"
    assert texts.tag_value("サーバ 🚀") == "サーバ 🚀"
    assert slug("web01") == "web01"
    assert len({slug(name) for name in NAMES}) == len(NAMES)


def test_an_object_has_ten_tags_and_the_run_s_is_one() -> None:
    found = texts.object_tags({"wavelift:run": "1", **{f"tag{n}": "x" for n in range(20)}})
    assert len(found) == 10
    assert "wavelift:run" in found


def test_metadata_is_never_cut_within_a_character() -> None:
    header = texts.metadata({"s": "é" * 300})["s"]
    assert re.fullmatch(r"(%C3%A9)+", header)


def test_the_limits_are_those_of_the_service_models() -> None:
    assert _limits("ebs", "Tag", "Value")["max"] == texts.MAX_TAG_VALUE
    assert _limits("ebs", "Tag", "Key")["max"] == texts.MAX_TAG_NAME
    assert _limits("ebs", "StartSnapshotRequest", "Description")["max"] == texts.MAX_DESCRIPTION
    assert _limits("ec2", "RegisterImageRequest", "Description")["max"] == texts.MAX_DESCRIPTION


def test_a_filter_finds_what_was_stored() -> None:
    tags = {"wavelift:server": "web*01?\\" + "x" * 300}
    (stored,) = tagging.to_aws(tags)
    assert tagging.has_tags({stored["Key"]: stored["Value"]}, tags)
    (found,) = tagging.filters(tags)
    assert found["Values"] == [stored["Value"].replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")]


def test_an_import_s_texts_are_plain() -> None:
    request = ImportRequest(
        disks=[ImportDisk(bucket="b", key="k", description="サーバ SCSI 0:0")],
        client_token="t",
        description="wave/サーバ",
    )
    sent = request.parameters()
    assert sent["Description"] == "wave/???"
    assert sent["DiskContainers"][0]["Description"] == "??? SCSI 0:0"
