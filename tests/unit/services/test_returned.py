"""The lineage that a manifest's header says, compared with the one that came by XCom."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tests.unit.services.test_frozen import task_of

from wavelift.base.domain import DiskLineage
from wavelift.base.errors import TamperedError
from wavelift.services.common.returned import Returned

pytestmark = pytest.mark.unit

LINEAGE = DiskLineage(
    key=2000,
    address="SCSI 0:0",
    uuid="6000C29",
    file="[ds] a/a.vmdk",
    capacity=1 << 30,
    change_id="52 aa/1",
    snapshot_id="snap-1",
    bucket="b",
    manifest_key="k",
    manifest_digest="00",
)


@pytest.mark.parametrize("field", ["encrypted", "hardware_version", "taken_at", "quarantine"])
def test_a_connector_that_does_not_know_a_field_yet_says_its_default(field: str) -> None:
    """Connectors are upgraded after the control plane: that is no edit. Another value than the default is one."""
    returned = Returned(cast(Any, None), task_of("web01"), "run")
    told = {name: value for name, value in LINEAGE.dump().items() if name != field}
    returned._check_parent(LINEAGE.dump(), told)
    edited = LINEAGE.model_copy(update={field: True if field == "encrypted" else "x"})
    with pytest.raises(TamperedError) as caught:
        returned._check_parent(edited.dump(), told)
    assert caught.value.field == f"built_on.{field}"
    with pytest.raises(TamperedError):
        returned._check_parent(LINEAGE.dump(), None)
