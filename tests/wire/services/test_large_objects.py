"""Objects of a size that somebody who may write to the bucket chose: no more of them is read than the disk allows."""

from __future__ import annotations

import pytest
from tests.contexts import context_of

from wavelift.base.errors import CorruptStreamError, ProofError
from wavelift.base.units import MIB
from wavelift.services.dataplane.staging import ServerStaging
from wavelift.services.dataplane.unfinished import noted_seeds
from wavelift.services.dataplane.verify import verify_server

from .journey import Stage

pytestmark = pytest.mark.wire


def test_a_manifest_that_is_larger_than_the_disk_s_can_be_is_not_read(stage: Stage) -> None:
    journey = stage.journey("web01", defaults={"verify": "off"})
    before = journey.before

    def blow_up() -> None:
        assert journey.outcome.export is not None
        disk = journey.outcome.export.disks[0]
        stage.aws.client("s3").put_object(Bucket=disk.bucket, Key=disk.manifest_key, Body=bytes(MIB))

    before["verify"] = blow_up
    done = journey.run()
    assert isinstance(done.error, ProofError)
    assert "manifest in S3 is not the one that was stored" in str(done.error)
    assert isinstance(done.error.__cause__, CorruptStreamError), "its size was enough to refuse it"


def test_notes_that_are_none_of_ours_stop_nothing(stage: Stage) -> None:
    plan = stage.wave("web01").servers[0]
    with ServerStaging.of(stage.access(), plan, "d/r/web01") as staging:
        names = ("disk-x", "disk-", "disk-1/../0", "disk-²", f"disk-{'9' * 200}")
        for name in names:
            staging.s3.put_object(f"{staging.prefix}{name}.unfinished", b"{}")
        staging.s3.put_object(staging.seed_key(3), bytes(MIB))
        staging.s3.put_object(staging.seed_key(4), b"a note")
        try:
            assert list(staging.seed_notes()) == [(3, b""), (4, b"a note")]
            assert noted_seeds(staging.s3, staging.prefix) == frozenset()
        finally:
            staging.discard()


def test_verify_reads_no_more_than_was_stored(stage: Stage) -> None:
    """Of an object that grew by as much as it likes."""
    journey = stage.journey("web01")

    def grow() -> None:
        export = journey.outcome.export
        assert export is not None
        disk = export.disks[0]
        s3 = stage.aws.client("s3")
        body = s3.get_object(Bucket=disk.bucket, Key=disk.object_key)["Body"].read()
        s3.put_object(Bucket=disk.bucket, Key=disk.object_key, Body=body + bytes(4 * MIB))
        stage.aws.control("DELETE", "counters")

    journey.before["verify"] = grow
    done = journey.run()
    assert isinstance(done.error, ProofError)
    assert "bytes) instead of" in str(done.error)
    assert done.export is not None
    with pytest.raises(ProofError):
        verify_server(stage.access(), journey.preflight()[0], done.export, context_of("d/r/verify"))
