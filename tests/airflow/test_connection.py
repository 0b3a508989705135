"""The connection types: their forms, their *Test* buttons, and what Airflow knows of the provider."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wavelift import __version__

pytestmark = pytest.mark.airflow


def test_the_form_of_a_vsphere_connection(world: Any) -> None:
    metadata = world.api.call("GET", "/ui/connections/hook_meta")
    (form,) = [one for one in metadata if one["connection_type"] == "vsphere"]
    assert form["hook_name"] == "VMware vCenter (wavelift)"
    assert form["standard_fields"]["host"]["title"] == "vCenter host name"
    assert form["standard_fields"]["port"]["placeholder"] == "443"
    fields = form["extra_fields"]
    assert set(fields) == {
        "certificate_mode",
        "thumbprint",
        "ca_bundle",
        "esxi_mode",
        "esxi_thumbprints",
        "proxy",
        "proxy_user",
        "proxy_password",
        "dns_suffixes",
        "esxi_addresses",
        "vddk_transports",
        "vddk_compression",
        "vddk_connections",
        "vddk_host_sessions",
        "vddk_vcenter_sessions",
    }
    assert fields["certificate_mode"]["schema"]["enum"] == ["verify", "thumbprint", "ignore"]
    assert fields["certificate_mode"]["schema"]["default"] == "verify", "verified unless somebody says otherwise"
    assert fields["esxi_mode"]["schema"]["default"] == "vcenter"


def test_the_form_of_an_hcx_connection(world: Any) -> None:
    metadata = world.api.call("GET", "/ui/connections/hook_meta")
    (form,) = [one for one in metadata if one["connection_type"] == "hcx"]
    assert form["hook_name"] == "VMware HCX (wavelift)"
    assert form["standard_fields"]["host"]["title"] == "HCX manager host name"
    assert set(form["extra_fields"]) == {
        *("certificate_mode", "thumbprint", "ca_bundle", "proxy", "proxy_user", "proxy_password")
    }
    assert form["extra_fields"]["certificate_mode"]["schema"]["default"] == "verify"


def test_the_test_button_of_hcx_tells_what_is_wrong(world: Any) -> None:
    body = {"connection_id": "hcx_try", "conn_type": "hcx", "host": "127.0.0.1", "port": 9, "login": "me"}
    answer = world.api.call("POST", "/api/v2/connections/test", {**body, "password": "secret"})
    assert not answer["status"]
    assert "127.0.0.1:9 refuses the connection" in answer["message"]


def test_airflow_lists_the_provider(world: Any) -> None:
    rows = json.loads(world.airflow.airflow("providers", "list", "--output", "json"))
    (row,) = [row for row in rows if row["package_name"] == "wavelift"]
    assert row["version"] == __version__
    hooks = json.loads(world.airflow.airflow("providers", "hooks", "--output", "json"))
    assert {"vsphere", "hcx"} <= {row["connection_type"] for row in hooks}


def _test(world: Any, **changes: Any) -> tuple[bool, str]:
    vcenter = world.vcenter
    body = {
        "connection_id": "vsphere_try",
        "conn_type": "vsphere",
        "host": vcenter.host,
        "port": vcenter.port,
        "login": vcenter.username,
        "password": vcenter.password,
        **changes,
    }
    extra = {"ca_bundle": str(vcenter.ca_file), **body.pop("extra", {})}
    answer = world.api.call("POST", "/api/v2/connections/test", {**body, "extra": json.dumps(extra)})
    return bool(answer["status"]), str(answer["message"])


def test_the_test_button_signs_in(world: Any) -> None:
    good, words = _test(world)
    assert good, words
    assert "8.0.3" in words
    assert world.vcenter.username in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password": "wrong"}, ("password", "administrator@vsphere.local")),
        ({"extra": {"ca_bundle": ""}}, ("certificate", "CA")),
        ({"port": 9}, ("127.0.0.1", "9")),
        ({"extra": {"certificate_mode": "sometimes"}}, ("certificate_mode", "verify")),
        ({"host": ""}, ("host", "Connections")),
        ({"extra": {"vddk_connections": "few"}}, ("vddk_connections", "few")),
        ({"extra": {"certificate_mode": "thumbprint", "thumbprint": "AA:" * 31 + "AA"}}, ("thumbprint",)),
    ],
    ids=["password", "unknown CA", "nobody listens", "a wrong mode", "no host", "no number", "another pin"],
)
def test_amp_11_amp_12_the_test_button_names_the_broken_link(
    world: Any, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    good, said = _test(world, **changes)
    assert not good
    assert all(part.lower() in said.lower() for part in words), said
    assert world.vcenter.password not in said
