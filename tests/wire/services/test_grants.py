"""The live VM is compared with the grant: XComs name an object in vCenter, the grant names a VM (AMP-03)."""

from __future__ import annotations

from typing import Final

import pytest

from wavelift.adapters.vsphere import inventory
from wavelift.base.domain import ServerFacts
from wavelift.base.errors import GrantError, NotFoundError
from wavelift.rules.grants import Grant
from wavelift.services.dataplane.grants import verify_vm

from .journey import Stage
from .test_requester import ADMIN, look

pytestmark = pytest.mark.wire

GRANT: Final = Grant(
    scope="move",
    user="ana",
    action="migrate",
    environment="lab",
    dag_id="lab.migrate",
    run_id="r",
    server="web01",
    vcenter="vsphere_lab",
    connector="hall-a",
    plan="a" * 64,
)


@pytest.fixture
def found(stage: Stage) -> dict[str, ServerFacts]:
    return {task.name: task.facts for task in look(stage, {"*": ADMIN}).passed}


def test_amp_03_the_vm_of_the_grant_is_let_through_and_another_one_is_not(
    stage: Stage, found: dict[str, ServerFacts]
) -> None:
    web, mute = found["web01"], found["mute01"]
    grant = GRANT.model_copy(update={"vm": web.instance_uuid})
    with stage.connect() as session:
        verify_vm(session, grant, web.moref)
        with pytest.raises(GrantError, match="The grant is for another VM") as caught:
            verify_vm(session, grant, mute.moref)
    where = caught.value.where
    assert (where["link"], where["field"]) == ("grant_verified", "vm")
    assert (where["expected"], where["found"]) == (web.instance_uuid, mute.instance_uuid)
    assert (where["server"], where["vm"]) == ("web01", mute.moref)
    assert "find out who edited" in caught.value.next_step


def test_a_vm_without_identity_is_nobody_s_even_of_a_grant_without_one(
    stage: Stage, found: dict[str, ServerFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two empty names are not the same VM."""
    real = inventory.facts
    monkeypatch.setattr(
        inventory, "facts", lambda *given: [one.model_copy(update={"instance_uuid": ""}) for one in real(*given)]
    )
    with stage.connect() as session, pytest.raises(GrantError, match="a VM without instance UUID"):
        verify_vm(session, GRANT, found["web01"].moref)


def test_an_object_that_is_gone_is_no_other_vm(stage: Stage) -> None:
    with stage.connect() as session, pytest.raises(NotFoundError):
        verify_vm(session, GRANT, "vm-99999")
