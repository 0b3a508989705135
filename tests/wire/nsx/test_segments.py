"""Segments are read, switched, renamed and deleted."""

from __future__ import annotations

import threading

import pytest
from tests.wire.nsx.conftest import APP, WEB, access_of

from wavelift.adapters.nsx.access import connect
from wavelift.adapters.nsx.errors import (
    NotRealisedError,
    PendingDeleteError,
    StaleRevisionError,
    StillAttachedError,
)
from wavelift.adapters.nsx.segments import Connectivity, Port, Segments
from wavelift.base.errors import BusyError, Cancelled, NotFoundError, PermanentError, SpecError, UnsafeTextError
from wavelift.base.run import CancelFlag
from wavelift.simulators.nsx import NsxSimulator

pytestmark = pytest.mark.wire

SOON_S = 10.0


def _switch(segments: Segments, path: str, wanted: Connectivity) -> None:
    segments.set_connectivity(path, wanted)
    segments.wait_for(path, wanted, timeout_s=SOON_S, pause_s=0.02, cancel=CancelFlag())


def test_a_segment_is_read(segments: Segments) -> None:
    web, app = segments.read(WEB), segments.read(APP)
    assert web.routed
    assert not web.unrouted
    assert (web.name, web.tier, web.gateways, web.prefixes) == (
        "web",
        "/infra/tier-1s/cgw",
        ("10.1.2.1/24",),
        ("10.1.2.0/24",),
    )
    assert app.tier == "/infra/tier-1s/cgw"
    assert app.body["tags"] == [{"tag": "keep"}]


@pytest.mark.parametrize("path", [WEB, APP], ids=["fixed", "flexible"])
@pytest.mark.parametrize("replaces", [False, True], ids=["patch merges", "patch replaces"])
def test_connectivity_goes_off_and_on_and_nothing_else_changes(
    nsx: NsxSimulator, segments: Segments, path: str, replaces: bool
) -> None:
    nsx.settings(patch_replaces=replaces)
    before = nsx.segment(path)
    prefix = segments.read(path).prefixes[0]
    _switch(segments, path, "OFF")
    off = nsx.segment(path)
    assert (off["type"], off["advanced_config"]["connectivity"]) == ("DISCONNECTED", "OFF")
    assert prefix not in nsx.routed()
    _switch(segments, path, "ON")
    after = nsx.segment(path)
    assert {**after, "_revision": 0} == {**before, "_revision": 0}
    assert nsx.routed()[prefix] == path


def test_what_is_in_force_is_not_asked_for_again(nsx: NsxSimulator, segments: Segments) -> None:
    segments.set_connectivity(WEB, "ON")
    assert "nsx.PatchSegment" not in nsx.counters()
    assert nsx.segment(WEB)["_revision"] == 0


def test_a_look_is_not_done_before_the_realisation(nsx: NsxSimulator, segments: Segments) -> None:
    rule = nsx.rule(kind="realise", outcome="stuck", key=WEB)
    segments.set_connectivity(WEB, "OFF")
    look = segments.look(WEB)
    assert (look.segment.connectivity, look.segment.type) == ("OFF", "ROUTED")
    assert not look.done("OFF")
    with pytest.raises(NotRealisedError, match=r"did not end within 0\.1 s.*in_progress"):
        segments.wait_for(WEB, "OFF", timeout_s=0.1, pause_s=0.02, cancel=CancelFlag())
    nsx.clear_rules(rule)
    assert segments.wait_for(WEB, "OFF", timeout_s=SOON_S, pause_s=0.02, cancel=CancelFlag()).segment.unrouted


def test_other_words_for_the_state_change_nothing(nsx: NsxSimulator, segments: Segments) -> None:
    nsx.settings(other_words=True)
    _switch(segments, WEB, "OFF")
    nsx.rule(kind="realise", outcome="failed", key=WEB, count=1)
    with pytest.raises(NotRealisedError, match="failed"):
        _switch(segments, WEB, "ON")


def test_a_failed_realisation_is_told_at_once_and_can_be_tried_again(nsx: NsxSimulator, segments: Segments) -> None:
    nsx.rule(kind="realise", outcome="failed", key=WEB, count=1)
    with pytest.raises(NotRealisedError, match=r"failed.*transport nodes"):
        _switch(segments, WEB, "OFF")
    assert segments.read(WEB).type == "ROUTED"
    _switch(segments, WEB, "OFF")


def test_a_change_that_is_accepted_and_ignored_is_noticed(nsx: NsxSimulator, segments: Segments) -> None:
    nsx.rule(kind="realise", outcome="ignored", key=WEB)
    segments.set_connectivity(WEB, "OFF")
    with pytest.raises(NotRealisedError, match="connectivity ON, state success"):
        segments.wait_for(WEB, "OFF", timeout_s=0.1, pause_s=0.02, cancel=CancelFlag())


def test_the_wait_ends_when_the_task_is_cancelled(nsx: NsxSimulator, segments: Segments) -> None:
    nsx.rule(kind="realise", outcome="stuck", key=WEB)
    segments.set_connectivity(WEB, "OFF")
    cancel = CancelFlag()
    timer = threading.Timer(0.1, cancel.set)
    timer.start()
    with pytest.raises(Cancelled):
        segments.wait_for(WEB, "OFF", timeout_s=60, pause_s=60, cancel=cancel)
    timer.join()


def test_a_segment_that_somebody_changed_since_is_left_alone(nsx: NsxSimulator, segments: Segments) -> None:
    known = segments.read(WEB)
    nsx.put_segment(WEB, description="mine now")
    with pytest.raises(StaleRevisionError, match="somebody else"):
        segments.set_connectivity(WEB, "OFF", revision=known.revision)
    assert "nsx.PatchSegment" not in nsx.counters()
    segments.set_connectivity(WEB, "OFF", revision=segments.read(WEB).revision)


@pytest.mark.parametrize(("status", "code"), [(412, 500090), (412, 500087), (400, 500232), (412, 99)])
def test_a_stale_revision_has_an_error_of_its_own(
    nsx: NsxSimulator, segments: Segments, status: int, code: int
) -> None:
    nsx.rule(operation="PatchSegment", status=status, code=str(code), count=1)
    with pytest.raises(StaleRevisionError):
        segments.set_connectivity(WEB, "OFF")


@pytest.mark.parametrize(
    ("code", "kind"), [(500030, BusyError), (500105, PermanentError), (640873, PermanentError), (500045, BusyError)]
)
def test_errors_are_told_apart_by_code(nsx: NsxSimulator, segments: Segments, code: int, kind: type[Exception]) -> None:
    nsx.rule(operation="PatchSegment", status=400, code=str(code), message="words of NSX", count=1)
    with pytest.raises(kind, match="words of NSX"):
        segments.set_connectivity(WEB, "OFF")


def test_a_segment_without_a_gateway_or_of_a_vlan_is_not_switched(nsx: NsxSimulator, segments: Segments) -> None:
    nsx.put_segment("/infra/segments/lone")
    nsx.put_segment("/infra/segments/vlan", vlan_ids=["12"])
    with pytest.raises(PermanentError, match="no gateway"):
        segments.set_connectivity("/infra/segments/lone", "OFF")
    with pytest.raises(PermanentError, match="VLAN"):
        segments.set_connectivity("/infra/segments/vlan", "OFF")


def test_ports_linger_and_hold_the_segment(nsx: NsxSimulator, segments: Segments) -> None:
    port = nsx.add_port(WEB, "web01/web01.vmx")
    assert segments.ports(WEB) == (Port(port, "web01/web01.vmx"),)
    with pytest.raises(StillAttachedError):
        segments.delete(WEB)
    nsx.settings(port_linger_seconds=3600.0)
    nsx.remove_port(WEB, port)
    assert segments.ports(WEB), "the VM has gone, and its port has not"
    with pytest.raises(StillAttachedError):
        segments.delete(WEB)
    nsx.advance(3601)
    assert segments.ports(WEB) == ()
    segments.delete(WEB)
    assert segments.find(WEB) is None


def test_what_is_deleted_is_gone_and_deleting_it_again_is_done(nsx: NsxSimulator, segments: Segments) -> None:
    segments.delete(WEB)
    segments.delete(WEB)
    with pytest.raises(NotFoundError):
        segments.read(WEB)
    assert "10.1.2.0/24" not in nsx.routed()


def test_a_deletion_that_is_under_way_is_told(nsx: NsxSimulator, segments: Segments) -> None:
    nsx.settings(delete_seconds=3600.0)
    segments.delete(WEB)
    with pytest.raises(PendingDeleteError):
        segments.delete(WEB)
    assert segments.find(WEB) is None
    nsx.advance(3601)
    segments.delete(WEB)


@pytest.mark.parametrize("replaces", [False, True], ids=["patch merges", "patch replaces"])
def test_a_new_name_changes_nothing_else(nsx: NsxSimulator, segments: Segments, replaces: bool) -> None:
    nsx.settings(patch_replaces=replaces)
    before = nsx.segment(WEB)
    segments.rename(WEB, "web (moved)")
    segments.rename(WEB, "web (moved)")
    assert nsx.segment(WEB) == {**before, "display_name": "web (moved)", "_revision": 1}


def test_lists_have_both_kinds_in_pages(nsx: NsxSimulator, segments: Segments) -> None:
    nsx.settings(page_size=2)
    for number in range(5):
        nsx.put_segment(f"/infra/segments/more-{number}", gateway=f"10.9.{number}.1/24", connectivity="OFF")
    assert len(segments.list()) == 7
    assert [one.path for one in segments.list("/infra/tier-1s/cgw")] == [WEB]
    assert [one.path for one in segments.of_prefix("10.1.2.128/25")] == [WEB]
    assert {one.path for one in segments.of_prefix("10.1.0.0/16")} == {WEB, APP}
    assert segments.of_prefix("fd00::/8") == ()


@pytest.mark.parametrize(
    "path", ["/infra/segments/a/b", "segments/a", "/infra/tier-1s/x", "/infra/segments/a?force=true/"]
)
def test_only_paths_of_segments_are_called(nsx: NsxSimulator, segments: Segments, path: str) -> None:
    with pytest.raises(SpecError, match="policy path"):
        segments.delete(path)
    assert nsx.counters() == {}


def test_a_name_cannot_lead_elsewhere(nsx: NsxSimulator, segments: Segments) -> None:
    with pytest.raises(UnsafeTextError):
        segments.delete("/infra/tier-1s/../segments/..")
    with pytest.raises(NotFoundError):
        segments.read("/infra/segments/a?force=true")
    assert set(nsx.counters()) == {"nsx.ReadSegment"}


def test_the_same_segments_through_vmware_cloud(vmc: NsxSimulator) -> None:
    with connect(access_of(vmc)) as client:
        segments = Segments(client)
        _switch(segments, WEB, "OFF")
        assert not vmc.routed().get("10.1.2.0/24")
        vmc.expire_tokens()
        _switch(segments, WEB, "ON")
    assert vmc.counters()["csp.Authorize"]["calls"] == 3, "the SDDC, its NSX, and once more after the token's end"
