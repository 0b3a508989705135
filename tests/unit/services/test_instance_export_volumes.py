"""What is exported has the disks that were checked: a change meanwhile is refused, with the volume's name."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from wavelift.base.errors import PermanentError
from wavelift.base.units import GIB
from wavelift.rules.export_facts import ImageFacts, InstanceFacts, VolumeFacts
from wavelift.services.dataplane.export_messages import ExportPlace, ExportPlan
from wavelift.services.instance_export.begin import require_same_volumes

BOOT, DATA, LATER = "vol-0000000000000000a", "vol-0000000000000000b", "vol-0000000000000000c"
ACCOUNT, REGION = "111122223333", "eu-central-1"


def _plan() -> ExportPlan:
    place = ExportPlace(
        environment="lab",
        aws_conn_id="aws_lab",
        region=REGION,
        account=ACCOUNT,
        bucket=f"export-to-s3-acme-{REGION}",
        role="vmimport",
        queue="near",
        limit=5,
    )
    instance = InstanceFacts(
        instance_id="i-0123456789abcdef0",
        region=REGION,
        account=ACCOUNT,
        caller=ACCOUNT,
        state="running",
        volumes=(
            VolumeFacts(volume_id=BOOT, device="/dev/sda1", size=8 * GIB, boot=True),
            VolumeFacts(volume_id=DATA, device="/dev/sdb", size=2 * GIB),
        ),
        image=ImageFacts(image_id="ami-0123456789abcdef0"),
        seen_at=datetime(2026, 12, 1, 10, 0, tzinfo=UTC),
    )
    return ExportPlan(
        export="exp-0123456789ab",
        place=place,
        instance=instance,
        method="direct",
        why="",
        target="vmware",
        format="ova",
        controller="lsilogic",
        prefix="",
        may_reboot=False,
        verify="sample:1",
    )


def test_the_checked_volumes_pass_in_any_order() -> None:
    require_same_volumes(_plan(), [(DATA, 2 * GIB), (BOOT, 8 * GIB)])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([(BOOT, 8 * GIB), (DATA, 2 * GIB), (LATER, GIB)], f"{LATER} was attached"),
        ([(BOOT, 8 * GIB)], f"{DATA} was detached"),
        ([(BOOT, 8 * GIB), (DATA, 3 * GIB)], f"{DATA} has another size"),
        ([(BOOT, 8 * GIB), (LATER, 2 * GIB)], f"{LATER} was attached, {DATA} was detached"),
    ],
    ids=["attached", "detached", "grown", "replaced"],
)
def test_a_change_since_the_check_is_refused(found: list[tuple[str, int]], words: str) -> None:
    with pytest.raises(PermanentError, match=words):
        require_same_volumes(_plan(), found)
