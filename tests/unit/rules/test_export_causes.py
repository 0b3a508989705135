"""What keeps an instance from being exported: every cause with every method, and what the licences say."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rules.export_samples import ACCOUNT, ID, NICS, SNAP, facts_changes, image, instance, volume, wishes

from wavelift.base.domain import Finding, Severity
from wavelift.base.units import GIB, TIB
from wavelift.rules.export_causes import Wish
from wavelift.rules.export_checks import check_instance
from wavelift.rules.export_facts import METHODS, ExportMethod, InstanceFacts, SnapshotFacts
from wavelift.rules.limits import LIMITS

pytestmark = pytest.mark.unit
E, W, N = Severity.ERROR, Severity.WARNING, Severity.INFO
NOTE: Final = "export.hybrid_boot"
TWO: Final = (volume(), volume(2))


def told(facts: InstanceFacts, method: ExportMethod, **wish: Any) -> dict[str, Severity]:
    """Code → severity, without the note about the boot loader."""
    given_format = {"format": {"instance": "ova", "image": "vmdk", "direct": "ova"}[method]}
    found = check_instance(facts, method, Wish(account=ACCOUNT, **{**given_format, **wish}))
    return {finding.code: finding.severity for finding in found if finding.code != NOTE}


def the(code: str, facts: InstanceFacts, method: ExportMethod, **wish: Any) -> Finding:
    (found,) = [each for each in check_instance(facts, method, Wish(**wish)) if each.code == code]
    return found


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_in_the_way_of_a_stopped_linux_with_one_disk(method: ExportMethod) -> None:
    assert told(instance(), method) == {}


CAUSES: Final[list[Any]] = [
    # what, facts, and what is told with instance, image and direct
    ("windows of AWS", {"platform": "windows", "platform_details": "Windows", "usage_operation": "RunInstances:0002"},
     *[{"export.windows": E}] * 3),
    ("windows of which nothing is told", {"platform": "windows", "platform_details": "", "usage_operation": ""},
     *[{"export.windows": E}] * 3),
    ("windows by its usage alone", {"usage_operation": "RunInstances:0002"}, *[{"export.windows": E}] * 3),
    ("windows of the customer",
     {"platform": "windows", "platform_details": "Windows BYOL", "usage_operation": "RunInstances:0800"},
     *[{"export.byol": N}] * 3),
    ("SQL Server on Linux", {"platform_details": "SQL Server Standard", "usage_operation": "RunInstances:0004"},
     *[{"export.sql_server": E}] * 3),
    ("SQL Server by its usage alone", {"usage_operation": "RunInstances:0100"}, *[{"export.sql_server": E}] * 3),
    ("SQL Server on Windows",
     {"platform": "windows", "platform_details": "Windows with SQL Server Web", "usage_operation": "RunInstances:0202"},
     *[{"export.windows": E, "export.sql_server": E}] * 3),
    ("SQL Server on the customer's Windows",
     {"platform_details": "Windows with SQL Server Web", "usage_operation": "RunInstances:0800"},
     *[{"export.byol": N, "export.sql_server": E}] * 3),
    ("Marketplace, instance", {"product_codes": ("abc",)}, *[{"export.marketplace": E}] * 3),
    ("Marketplace, image", {"image": image(product_codes=("abc",))}, *[{"export.marketplace": E}] * 3),
    ("a subscription of AWS",
     {"platform_details": "Red Hat Enterprise Linux", "usage_operation": "RunInstances:0010"},
     {"export.subscription": E}, {"export.subscription": E}, {"export.subscription": W}),
    ("a subscription of the customer", {"usage_operation": "RunInstances:00g0"}, {}, {}, {}),
    ("a usage operation that is not known", {"usage_operation": "RunInstances:9999"}, *[{"export.usage": W}] * 3),
    ("no usage operation told", {"usage_operation": ""}, {}, {}, {}),
    ("encrypted volume", {"volumes": (volume(encrypted=True),)},
     {"export.encrypted": E}, {"export.encrypted": E}, {"export.encrypted": W}),
    ("encrypted snapshot in the image's mapping",
     {"image": image(snapshots=(SnapshotFacts(snapshot_id=SNAP, encrypted=True),))},
     {"export.encrypted": E}, {}, {}),
    ("instance store in the mapping",
     {"image": image(instance_store=("/dev/sdb",)), "instance_store": ("/dev/sdb",)},
     {"export.instance_store": E}, {"export.instance_store": E}, {"export.instance_store": W}),
    ("instance store of the type", {"instance_store": ("nvme1",)}, *[{"export.instance_store": W}] * 3),
    ("root on instance store",
     {"root_device_type": "instance-store", "volumes": ()}, *[{"export.instance_store": E}] * 3),
    ("a volume attached later", {"volumes": (volume(), volume(2, launched=False))},
     {"export.attached_later": E}, {"export.disks": E, "export.attached_later": N}, {"export.attached_later": N}),
    ("the boot volume attached later", {"volumes": (volume(launched=False),)},
     {"export.attached_later": E}, {"export.attached_later": N}, {"export.attached_later": N}),
    ("image gone", {"image": image(exists=False, snapshots=())}, {"export.image_gone": E}, {}, {}),
    ("snapshot gone", {"image": image(snapshots=(SnapshotFacts(snapshot_id=SNAP, exists=False),))},
     {"export.image_gone": E}, {}, {}),
    ("snapshot of another's image not seen",
     {"image": image(owner="099720109477", imported=False, snapshots=(SnapshotFacts(snapshot_id=SNAP, exists=False),))},
     {}, {}, {}),
    ("several disks", {"volumes": TWO}, {"export.disks": E}, {"export.disks": E}, {}),
    ("several interfaces", {"nics": NICS}, {"export.interfaces": E}, {}, {}),
    ("of another account", {"account": "444455556666"}, *[{"export.shared": E}] * 3),
    ("a volume above 1 TiB", {"volumes": (volume(size=1025 * GIB),)},
     {"export.size": E}, {"export.size": E}, {}),
    ("a volume of 1 TiB", {"volumes": (volume(size=TIB),)}, {}, {}, {}),
    ("a volume above 2 TiB", {"volumes": (volume(size=2049 * GIB),)}, *[{"export.size": E}] * 3),
    ("a volume of 2 TiB", {"volumes": (volume(size=2 * TIB),)},
     {"export.size": E}, {"export.size": E}, {"export.stream": W}),
    ("more than an object holds", {"volumes": tuple(volume(n, size=2000 * GIB) for n in (1, 2, 3))},
     {"export.disks": E, "export.size": E}, {"export.disks": E, "export.size": E}, {"export.object_size": E}),
    ("no boot disk", {"volumes": (volume(2),)}, *[{"export.no_boot_disk": E}] * 3),
    ("no disk", {"volumes": ()}, *[{"export.no_boot_disk": E}] * 3),
    ("shared volume", {"volumes": (volume(multi_attach=True),)}, *[{"export.multi_attach": W}] * 3),
    ("arm64", {"architecture": "arm64"}, *[{"export.architecture": E}] * 3),
    ("i386", {"architecture": "i386"}, {}, {}, {"export.architecture": E}),
    ("terminated", {"state": "terminated"}, *[{"export.terminated": E}] * 3),
    ("shutting down", {"state": "shutting-down"}, *[{"export.terminated": E}] * 3),
    ("pending", {"state": "pending"}, *[{"export.state": E}] * 3),
    ("a state that EC2 adds", {"state": "thawing"}, *[{"export.state": E}] * 3),
    ("running", {"state": "running"},
     {"export.reboot": E}, {"export.crash_consistent": N}, {"export.crash_consistent": N}),
    ("connection of another account", {"account": "444455556666", "caller": "444455556666"},
     *[{"account.number": E}] * 3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "changes", "expected"),
    [
        pytest.param(method, changes, expected, id=f"{words}-{method}")
        for words, changes, *all_expected in CAUSES
        for method, expected in zip(METHODS, all_expected, strict=True)
    ],
)
def test_vie_03_each_cause_has_its_own_code(
    method: ExportMethod, changes: dict[str, Any], expected: dict[str, Severity]
) -> None:
    assert told(instance(**changes), method) == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [("instance", {"export.reboot": W}), ("image", {"export.reboot": W}), ("direct", {"export.crash_consistent": N})],
)
def test_vie_05_a_restart_is_an_error_until_it_is_allowed(method: ExportMethod, expected: dict[str, Severity]) -> None:
    assert told(instance(state="running"), method, may_reboot=True) == expected
    assert told(instance(state="stopped"), method, may_reboot=True) == {}


@pytest.mark.parametrize(
    ("method", "target", "format", "wrong"),
    [
        ("instance", "vmware", "vhd", True),
        ("instance", "microsoft", "vhd", False),
        ("image", "vmware", "ova", True),
        ("image", "citrix", "raw", False),
        ("direct", "citrix", None, True),
        ("direct", "vmware", None, False),
    ],
)
def test_a_format_that_the_method_does_not_write(
    method: ExportMethod, target: str, format: str | None, wrong: bool
) -> None:
    assert told(instance(), method, target=target, format=format) == ({"export.format": E} if wrong else {})


def test_a_hybrid_boot_loader_is_only_a_note_and_only_where_aws_converts() -> None:
    for method in METHODS:
        codes = [(each.code, each.severity) for each in check_instance(instance(), method, Wish())]
        assert ((NOTE, N) in codes) is (method != "direct")


def test_the_message_of_a_licence_says_how_it_was_told() -> None:
    sold = instance(product_codes=("xyz",), image=image(product_codes=("abc", "xyz")))
    assert the("export.marketplace", sold, "direct").what == (
        "it holds software of AWS Marketplace: product code abc, xyz on the instance, its image ami-00000001"
    )
    windows = instance(platform="windows", platform_details="Windows", usage_operation="RunInstances:0002")
    found = the("export.windows", windows, "direct")
    assert found.what == "it runs Windows under a licence of AWS (Windows, RunInstances:0002)"
    assert "RunInstances:0800" in found.why
    unknown = instance(platform="windows", platform_details="", usage_operation="")
    assert "windows, no usage operation is told" in the("export.windows", unknown, "direct").what


def test_what_is_found_names_the_volumes_and_what_else_can_be_done() -> None:
    facts = instance(volumes=(*TWO, volume(3, launched=False)))
    found = the("export.disks", facts, "instance")
    assert found.what == "the instance has 2 disks: vol-00000001 (/dev/sda), vol-00000002 (/dev/sdb)"
    assert found.next_action == "Choose method direct"
    assert the("export.disks", facts, "image").what.startswith("the instance has 3 disks: ")
    assert the("export.size", instance(volumes=(volume(size=1025 * GIB),)), "image", format="vmdk").what == (
        "too large: vol-00000001 (/dev/sda) has 1025 GiB"
    )
    assert the("export.disks", facts, "instance", target="citrix").next_action == "No method can export it as it is"


def test_an_error_names_the_methods_that_work_before_what_else_helps() -> None:
    facts = instance(nics=NICS)
    assert the("export.interfaces", facts, "instance").next_action == (
        "Choose method image or direct; or: Detach the others"
    )
    assert the("export.interfaces", facts, "instance", format="ova").next_action.startswith("Choose method direct; ")
    running = the("export.reboot", instance(state="running"), "instance", target="microsoft")
    assert running.next_action.startswith("Choose method image; or: Allow it ('May reboot', --may-reboot)")
    gone = instance(image=image(exists=False), volumes=TWO)
    assert the("export.image_gone", gone, "instance", target="citrix").next_action == (
        "Make an image of the instance, and launch that"
    )


@given(facts_changes, wishes, st.sampled_from(METHODS))
def test_every_finding_says_what_why_and_what_to_do_in_one_line_each(
    changes: dict[str, Any], wish: Wish, method: ExportMethod
) -> None:
    facts = instance(**changes)
    found = check_instance(facts, method, wish)
    assert len({each.code for each in found}) == len(found), "each cause is told once"
    for each in found:
        for words in (each.what, each.why, each.next_action):
            assert words
            assert "\n" not in words
        assert each.subject == ID
        assert each.requirement.startswith("VIE-")
        for other in METHODS:
            if (
                each.severity is E
                and f"Choose method {other}" in each.next_action
                and "by name" not in each.next_action
            ):
                errors = [one for one in check_instance(facts, other, wish) if one.severity is E]
                assert not errors, f"{other} is recommended and can't"


@given(facts_changes, wishes, st.sampled_from(METHODS))
def test_a_method_without_errors_has_what_it_needs(changes: dict[str, Any], wish: Wish, method: ExportMethod) -> None:
    facts = instance(**changes)
    if any(each.severity is E for each in check_instance(facts, method, wish)):
        return
    assert facts.state in ("running", "stopped")
    assert facts.account == ACCOUNT
    assert not facts.product_codes
    assert "SQL" not in facts.platform_details
    assert not facts.windows or facts.usage_operation == "RunInstances:0800"
    assert facts.volumes[0].boot
    if method == "direct":
        assert all(each.size <= 2 * TIB for each in facts.volumes)
        assert sum(each.size for each in facts.volumes) <= LIMITS["object_bytes"].value
        assert (wish.target, facts.architecture) == ("vmware", "x86_64")
    else:
        assert len(facts.volumes) == 1, "nothing is left out, and one disk is all that AWS exports"
        assert facts.volumes[0].size <= TIB
        assert not facts.volumes[0].encrypted
    if method == "instance":
        assert facts.volumes[0].launched
        assert facts.image.exists
        assert len(facts.nics) <= 1
        assert facts.state == "stopped" or wish.may_reboot
