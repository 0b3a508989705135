"""Our requests equal those of Broadcom's own ``vcf-nsx``, and its bindings understand the simulator's answers.

Without it, client and simulator would be two readings of one page.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from tests.wire.nsx.conftest import APP, WEB, access_of

from wavelift.adapters.nsx.access import connect
from wavelift.adapters.nsx.errors import StillAttachedError
from wavelift.adapters.nsx.segments import Connectivity, Segments
from wavelift.base.errors import NotFoundError
from wavelift.simulators.nsx import NsxSimulator

pytestmark = [pytest.mark.wire, pytest.mark.proof]

ROOT: Final = Path(__file__).parents[3]
PYTHON: Final = Path(os.environ.get("WAVELIFT_ORACLES", ROOT / ".build" / "oracles")) / "bin" / "python"
"""An environment of its own, which `make proof` makes."""
PROGRAM: Final = Path(__file__).with_name("vcf_calls.py")


def _vcf(nsx: NsxSimulator) -> dict[str, Any]:
    assert PYTHON.exists(), f"no {PYTHON}: `make proof` installs vcf-nsx there"
    done = subprocess.run(
        [PYTHON, PROGRAM, nsx.url, str(nsx.ca_file), nsx.username],
        input=nsx.password,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not done.returncode, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _ours(nsx: NsxSimulator) -> dict[str, Any]:
    """The same calls in the same order."""
    with connect(access_of(nsx)) as client:
        segments = Segments(client)
        found: dict[str, Any] = {"tiers": list(segments.tiers())}
        for key, parent in (("flexible", "/infra"), ("cgw", "/infra/tier-1s/cgw"), ("mgw", "/infra/tier-1s/mgw")):
            found[key] = [one.path for one in segments.list(parent)]
        found["types"] = [segments.read(path).type for path in (WEB, APP)]
        found["states"] = [segments.state(path).word for path in (WEB, APP)]
        found["ports"] = [[port.id for port in segments.ports(path)] for path in (WEB, APP)]
        for path in (WEB, APP):
            _switch(segments, path, "OFF")
            _switch(segments, path, "ON")
            segments.rename(path, "moved")
        with pytest.raises(StillAttachedError) as held:
            segments.delete(WEB)
        segments.delete(APP)
        with pytest.raises(NotFoundError) as gone:
            segments.read(APP)
        return {**found, "held": held.value.where["error_code"], "gone": gone.value.where["error_code"]}


def _switch(segments: Segments, path: str, wanted: Connectivity) -> None:
    segments.set_connectivity(path, wanted)


def _asked(nsx: NsxSimulator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = nsx.evidence()["requests"]
    return found


def test_our_requests_equal_those_of_the_vendors_bindings(nsx: NsxSimulator) -> None:
    nsx.settings(realise_seconds=0.0, evidence=True)
    port = nsx.add_port(WEB, "web01")
    before = nsx.state()
    theirs = _vcf(nsx)
    their_requests, their_end = _asked(nsx), nsx.state()

    nsx.reset()
    nsx.settings(realise_seconds=0.0, evidence=True)
    for each in before["segments"]:
        fields = {key: each[key] for key in ("subnets", "advanced_config", "connectivity_path", "tags")}
        nsx.put_segment(each["path"], **fields)
    nsx.control("POST", "port/add", {"segment": WEB, "id": port, "name": "web01"})
    assert nsx.state() == before
    ours = _ours(nsx)

    assert ours == theirs
    assert len(their_requests) > 20
    for mine, their in zip(_asked(nsx), their_requests, strict=True):
        assert mine == their
    assert nsx.state() == their_end
