"""The connection's *Test* button."""

from __future__ import annotations

from dataclasses import replace

from wavelift.adapters.nsx.access import NsxAccess, connect
from wavelift.adapters.nsx.segments import Segments


def test_connection(access: NsxAccess) -> str:
    """One line on what was found.

    :raises WaveliftError: what is wrong and which field cures it.
    """
    # A person waits for the answer.
    quick = replace(access, place=replace(access.place, patience_s=0.0))
    with connect(quick) as client:
        segments = Segments(client).list()
        routed = sum(one.routed for one in segments)
        who = access.username or "an API token"
        return f"NSX at {client.place.place}, signed in as {who}: {len(segments)} segments, {routed} of them routed"


test_connection.__test__ = False  # type: ignore[attr-defined]  # pytest must not collect it where tests import it
