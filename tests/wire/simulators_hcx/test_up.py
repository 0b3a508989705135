"""``wavelift simulators up --only hcx,nsx``: two sites that fit each other, and connections to all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wavelift.cli.simulated_sites import EXTENDED, GATEWAY, NETWORK, PREFIX
from wavelift.cli.simulators import stage

pytestmark = pytest.mark.wire


def test_both_sites_with_nsx(tmp_path: Path) -> None:
    with stage(tmp_path, only={"hcx", "nsx"}) as running:
        sites = running.sites
        assert {name: json.loads(text)["conn_type"] for name, text in running.connections().items()} == {
            "AIRFLOW_CONN_VSPHERE_DEMO": "vsphere",
            "AIRFLOW_CONN_VSPHERE_DEMO_DESTINATION": "vsphere",
            "AIRFLOW_CONN_NSX_DEMO": "nsx",
            "AIRFLOW_CONN_NSX_DEMO_DESTINATION": "nsx",
            "AIRFLOW_CONN_HCX_DEMO": "hcx",
        }
        assert [name for name, _, _ in sites.addresses()] == [
            "vCenter (destination)",
            "NSX (source)",
            "NSX (destination)",
            "HCX",
        ]
        assert sites.nsx[0].routed() == {PREFIX: f"/infra/segments/{NETWORK}"}
        assert sites.nsx[1].routed() == {}
        (segment,) = sites.nsx[1].segments()
        assert segment["subnets"][0]["gateway_address"] == GATEWAY
        assert segment["display_name"] == EXTENDED
        assert running.vcenter.inventory()["instance_uuid"] != sites.destination.inventory()["instance_uuid"]
        assert sites.hcx.state()["extensions"] == [NETWORK]
        networks = {one["name"]: one for one in running.vcenter.inventory()["networks"]}
        assert len(networks[NETWORK]["vms"]) == 3
