"""Which addresses a migration must keep (HCX-05)."""

from __future__ import annotations

import pytest

from wavelift.base.domain import NicFacts
from wavelift.services.dataplane.hcx_verify import _kept, kept_addresses

pytestmark = pytest.mark.unit


def test_hcx_05_what_a_card_gives_itself_on_its_link_is_not_kept() -> None:
    addresses = ("10.1.2.3", "fe80::250:56ff:fe01:20b", "169.254.7.7", "2001:db8::3", "no address")
    assert kept_addresses([NicFacts(key=4000, addresses=addresses)]) == ("10.1.2.3", "2001:db8::3")


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        ("10.1.2.3", ("10.1.2.3", "10.1.2.4"), True),
        ("10.1.2.3", ("10.1.2.4",), False),
        ("10.1.2.3", (), False),
        # Windows and Linux make up temporary addresses in their own network, and change them.
        ("2001:db8:1:2:aaaa::1", ("2001:db8:1:2:bbbb::2",), True),
        ("2001:db8:1:2:aaaa::1", ("2001:db8:1:3:aaaa::1", "10.1.2.3"), False),
    ],
)
def test_hcx_05_an_address_is_kept(before: str, now: tuple[str, ...], kept: bool) -> None:
    assert _kept(before, now) is kept
