"""What each type of HCX migration needs of a VM; the sites' side of it is proved in ``tests/wire/services``."""

from __future__ import annotations

from typing import Any

import pytest

from wavelift.base.domain import DiskFacts, Finding, Severity
from wavelift.rules.hcx_wave import LiveOptions, MigrationType
from wavelift.rules.preflight_hcx import OLDEST_HARDWARE, LiveFacts, check_options, check_vm

pytestmark = pytest.mark.unit

TYPES: tuple[MigrationType, ...] = ("rav", "bulk", "vmotion", "cold")


def disk(**fields: Any) -> DiskFacts:
    values: dict[str, Any] = {"key": 2000, "label": "Hard disk 1", "capacity": 1 << 20, "controller": "SCSI"}
    values |= {"controller_class": "ParaVirtualSCSIController", "bus": 0, "unit": 0, "backing": "flat"}
    return DiskFacts(**{**values, **fields})


def check(facts: Any, kind: MigrationType, *, options: LiveOptions | None = None, **known: Any) -> list[Finding]:
    return check_vm("web01", LiveFacts(facts=facts, **known), kind, options or LiveOptions())


def fit(facts: Any, kind: MigrationType, **fields: Any) -> Any:
    values: dict[str, Any] = {"power": "poweredOff" if kind == "cold" else "poweredOn", "tools_running": True}
    return facts(**{**values, "disks": (disk(),), "snapshots": (), **fields})


@pytest.mark.parametrize("kind", TYPES)
def test_a_fit_vm_has_nothing_to_say(facts: Any, kind: MigrationType) -> None:
    assert not check(fit(facts, kind), kind)
    assert not check_options(LiveOptions())


@pytest.mark.parametrize("kind", TYPES)
def test_the_oldest_hardware_is_enough_and_one_less_is_not(facts: Any, kind: MigrationType) -> None:
    oldest = OLDEST_HARDWARE[kind]
    assert not check(fit(facts, kind, hardware_version=f"vmx-{oldest:02}"), kind)
    (one,) = check(fit(facts, kind, hardware_version=f"vmx-{oldest - 1:02}"), kind)
    assert (one.code, one.severity) == ("hcx.hardware", Severity.ERROR)
    assert ("type: bulk" in one.next_action) is (kind != "bulk")
    assert not check(fit(facts, kind, hardware_version=""), kind), "HCX's validation knows what vCenter does not tell"


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("power", ["poweredOn", "poweredOff", "suspended"])
def test_powered_off_vms_go_cold_and_only_they(facts: Any, kind: MigrationType, power: str) -> None:
    found = {one.code for one in check(fit(facts, kind, power=power), kind)}
    good = power == ("poweredOff" if kind == "cold" else "poweredOn")
    assert found == (set() if good else {"hcx.powered_on" if power == "poweredOn" else "hcx.not_powered_on"})


@pytest.mark.parametrize("kind", TYPES)
def test_only_bulk_needs_tools(facts: Any, kind: MigrationType) -> None:
    found = {one.code for one in check(fit(facts, kind, tools_running=False), kind)}
    assert found == ({"hcx.no_tools"} if kind == "bulk" else set())


@pytest.mark.parametrize("kind", TYPES)
def test_snapshots_and_images_need_a_word(facts: Any, kind: MigrationType) -> None:
    server = fit(facts, kind, snapshots=("patch",))
    found = {one.code for one in check(server, kind, isos=("[ds] x.iso",))}
    assert found == {"hcx.snapshots", "hcx.iso"}
    allowed = LiveOptions(remove_snapshots=True, remove_isos=True)
    assert not check(server, kind, isos=("[ds] x.iso",), options=allowed)


@pytest.mark.parametrize("kind", TYPES)
def test_shared_disks(facts: Any, kind: MigrationType) -> None:
    several = {one.code for one in check(fit(facts, kind, disks=(disk(sharing="sharingMultiWriter"),)), kind)}
    assert several == (set() if kind == "bulk" else {"hcx.shared_disk"})
    bus = check(fit(facts, kind, disks=(disk(), disk(label="Hard disk 2", sharing="physicalSharing"))), kind)
    assert [(one.code, one.subject) for one in bus] == [("hcx.shared_disk", "web01/Hard disk 2")]
    assert {one.code for one in check(fit(facts, kind, disks=(disk(rdm="physicalMode"),)), kind)} == {"hcx.rdm"}


def test_what_no_type_moves(facts: Any) -> None:
    odd = fit(facts, "rav", template=True, instance_uuid="", fault_tolerant=True)
    assert {one.code for one in check(odd, "rav")} == {"hcx.template", "hcx.no_instance_uuid", "hcx.fault_tolerant"}


def test_a_migration_that_hcx_lists(facts: Any) -> None:
    (one,) = check(fit(facts, "rav"), "rav", moving="m-1 (replicating, 40 %)", drafts=1)
    assert (one.code, one.severity) == ("hcx.moves_already", Severity.ERROR)
    assert "m-1 (replicating, 40 %)" in one.what
    (one,) = check(fit(facts, "rav"), "rav", drafts=1)
    assert (one.code, one.severity) == ("hcx.draft", Severity.WARNING)


def test_hcx_05_new_mac_addresses_are_told_once_for_the_wave() -> None:
    (one,) = check_options(LiveOptions(retain_mac=False))
    assert (one.severity, one.subject) == (Severity.WARNING, "*/options")
