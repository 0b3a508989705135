"""Two NSX simulators for the folder, one on premises and one in VMware Cloud. Each test begins with fresh ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.authorities import no_authorities_of_the_machine

from wavelift.adapters.nsx.access import NsxAccess, connect
from wavelift.adapters.nsx.segments import Segments
from wavelift.adapters.nsx.vmc import Sddc
from wavelift.base.rest import RestPlace
from wavelift.simulators.nsx import NsxSimulator, start

__all__ = ["no_authorities_of_the_machine"]

WEB = "/infra/tier-1s/cgw/segments/web"
APP = "/infra/segments/app"


@pytest.fixture(scope="session")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NsxSimulator]:
    with start(tmp_path_factory.mktemp("nsx")) as running:
        yield running


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NsxSimulator]:
    with start(tmp_path_factory.mktemp("vmc"), vmc=True) as running:
        yield running


@pytest.fixture
def nsx(premises: NsxSimulator) -> Iterator[NsxSimulator]:
    """Two segments, both routed: a fixed one and a flexible one."""
    premises.reset()
    _fill(premises)
    yield premises
    assert "nsx.ForceDeleteSegment" not in premises.counters()


@pytest.fixture
def vmc(cloud: NsxSimulator) -> Iterator[NsxSimulator]:
    cloud.reset()
    _fill(cloud)
    yield cloud
    assert "nsx.ForceDeleteSegment" not in cloud.counters()


def _fill(simulator: NsxSimulator) -> None:
    simulator.put_segment(WEB, gateway="10.1.2.1/24", advanced_config={"local_egress": True})
    simulator.put_segment(APP, gateway="10.1.3.1/24", connectivity_path="/infra/tier-1s/cgw", tags=[{"tag": "keep"}])


def access_of(simulator: NsxSimulator, **changes: Any) -> NsxAccess:
    """``place`` takes fields of :class:`RestPlace`."""
    place = {
        "system": "NSX",
        "host": simulator.host,
        "port": simulator.port,
        "ca_bundle": str(simulator.ca_file),
        "patience_s": 10.0,
        **changes.pop("place", {}),
    }
    fields: dict[str, Any] = {"username": simulator.username, "password": simulator.password}
    if simulator.vmc:
        sddc = Sddc(org=simulator.org, sddc=simulator.sddc, csp_host=simulator.host, csp_port=simulator.port)
        fields = {"username": "", "password": simulator.refresh_token, "sddc": sddc}
    return NsxAccess(place=RestPlace(**place), **{**fields, **changes})


@pytest.fixture
def segments(nsx: NsxSimulator) -> Iterator[Segments]:
    with connect(access_of(nsx)) as client:
        yield Segments(client)
