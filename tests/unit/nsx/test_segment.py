"""What an NSX says of a segment, also where it says less."""

from __future__ import annotations

from typing import Any

import pytest

from wavelift.adapters.nsx.segments import Realisation, Segment, check_path
from wavelift.base.errors import SpecError
from wavelift.base.rest import UnreadableError

pytestmark = pytest.mark.unit

FIXED = "/infra/tier-1s/cgw/segments/web"


def _segment(**fields: Any) -> Segment:
    return Segment.parse({"path": FIXED, **fields})


def test_a_segment_that_says_nothing_is_neither_routed_nor_not() -> None:
    found = _segment()
    assert (found.type, found.connectivity, found.revision, found.gateways) == (None, None, None, ())
    assert (found.name, found.tier, found.vlan) == ("web", "/infra/tier-1s/cgw", False)
    assert not found.routed
    assert not found.unrouted


@pytest.mark.parametrize(
    ("kind", "connectivity", "routed", "unrouted"),
    [
        ("ROUTED", "ON", True, False),
        ("ROUTED_AND_EXTENDED", "ON", True, False),
        ("DISCONNECTED", "OFF", False, True),
        ("EXTENDED", "OFF", False, True),
        ("ROUTED", "OFF", False, False),
        ("DISCONNECTED", "ON", False, False),
        ("SOMETHING_NEW", "ON", False, False),
        ("SOMETHING_NEW", "OFF", False, False),
    ],
)
def test_both_signs_must_agree(kind: str, connectivity: str, routed: bool, unrouted: bool) -> None:
    found = _segment(type=kind, advanced_config={"connectivity": connectivity})
    assert (found.routed, found.unrouted) == (routed, unrouted)


def test_odd_fields_are_not_known() -> None:
    odd = _segment(
        type=7,
        advanced_config=[],
        subnets=[{"gateway_address": "here"}, 5, {"gateway_address": "10.1.2.1/24"}, {"gateway_address": "fd00::1/64"}],
        _revision="3",
        connectivity_path={},
        display_name="line\nbreak",
    )
    assert (odd.type, odd.connectivity, odd.revision, odd.name) == (None, None, None, "line\\nbreak")
    assert odd.prefixes == ("10.1.2.0/24", "fd00::/64")
    assert odd.tier == "/infra/tier-1s/cgw"


@pytest.mark.parametrize("body", [{}, {"path": 5}, {"path": "/infra/tier-1s/cgw"}, {"path": "/infra/segments/a/b"}])
def test_what_is_no_segment_is_told(body: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError):
        Segment.parse(body)


def test_only_positive_words_end_a_wait() -> None:
    assert Realisation("success").done
    assert Realisation("IN_SYNC").done
    assert Realisation("failed").failed
    for word in ("pending", "in_progress", "unknown", "", "a new word"):
        found = Realisation(word)
        assert not found.done
        assert not found.failed


def test_paths_are_policy_paths() -> None:
    assert check_path(FIXED) == FIXED
    for path in ("web", "/infra/segments/", "/infra/segments/a/ports", "/policy/api/v1/infra/segments/a"):
        with pytest.raises(SpecError):
            check_path(path)
