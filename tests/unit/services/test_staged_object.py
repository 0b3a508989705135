"""When an object that S3 describes is the one that was stored."""

from __future__ import annotations

import pytest

from wavelift.adapters.aws.s3 import ObjectInfo
from wavelift.base.domain import ObjectVersion
from wavelift.services.dataplane.staged_object import difference

pytestmark = pytest.mark.unit

AT = "2026-11-30T01:00:00+00:00"


@pytest.mark.parametrize(
    ("stored", "found", "same"),
    [
        ("v1", "v1", True),
        ("", "", True),
        ("", "v2", False),
        ("v1", "v2", False),
        ("v1", "", False),
    ],
)
def test_the_version_of_an_object(stored: str, found: str, same: bool) -> None:
    version = ObjectVersion(checksum="abc=-2", etag="e", version_id=stored, modified=AT)
    info = ObjectInfo("k", 5, "e", "abc=-2", {}, found, AT)
    assert (difference(version, 5, info) == "") is same


@pytest.mark.parametrize("changes", [{"etag": "f"}, {"modified": "2026-11-30T01:00:01+00:00"}])
def test_without_versions_etag_and_time_tell_that_it_was_written_again(changes: dict[str, str]) -> None:
    said = {"checksum": "abc=-2", "etag": "e", "modified": AT}
    info = ObjectInfo("k", 5, **{**said, **changes})  # type: ignore[arg-type]
    assert "written again" in difference(ObjectVersion(**said), 5, info)
