"""Provider metadata for Airflow: hooks, the forms of connections, links and ``[wavelift]`` settings."""

from __future__ import annotations

from typing import Any, Final

from wavelift import __version__
from wavelift.base.settings import OPTIONS, SECTION, Option


def _option(option: Option) -> dict[str, Any]:
    """One option of ``[wavelift]`` in Airflow's format."""
    meaning = f"{option.meaning} Unit: {option.unit}." if option.unit else option.meaning
    told = {
        "description": meaning if option.default else f"{meaning} Empty: {option.unset}.",
        "version_added": "0.1.0",
        "type": option.kind,
        "example": None,
        "default": option.default,
    }
    return told | {"sensitive": True} if option.sensitive else told


def _text(label: str, description: str, *, default: str = "") -> dict[str, Any]:
    return {
        "label": label,
        "description": description,
        "schema": {"type": ["string", "null"], "default": default},
    }


def _password(label: str, description: str) -> dict[str, Any]:
    """A field that the form does not show. Airflow hides its value because of its name."""
    found = _text(label, description)
    return found | {"schema": found["schema"] | {"format": "password"}}


VSPHERE_CHOICES: Final = {
    "certificate_mode": ("verify", "thumbprint", "ignore"),
    "esxi_mode": ("vcenter", "ca", "pin", "ignore"),
    "vddk_compression": ("none", "zlib", "fastlz", "skipz"),
}
"""Form fields with a list of values. The first value is the default. Every form has ``certificate_mode``."""


def _choice(field: str, label: str, description: str) -> dict[str, Any]:
    values = list(VSPHERE_CHOICES[field])
    return {
        "label": label,
        "description": description,
        "schema": {"type": ["string", "null"], "enum": values, "default": values[0]},
    }


VSPHERE_CONNECTION: dict[str, Any] = {
    "connection-type": "vsphere",
    "hook-class-name": "wavelift.airflow.hooks.vsphere.VsphereHook",
    "hook-name": "VMware vCenter (wavelift)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "extra"],
        "relabeling": {"host": "vCenter host name", "login": "User"},
        "placeholders": {"host": "vcenter.example.com", "port": "443", "login": "wavelift@vsphere.local"},
    },
    "conn-fields": {
        "certificate_mode": _choice(
            "certificate_mode", "vCenter certificate", "verify, pin a thumbprint, or ignore (logs a warning)"
        ),
        "thumbprint": _text("vCenter thumbprint", "SHA-256 or SHA-1, for certificate mode thumbprint"),
        "ca_bundle": _text(
            "CA bundle",
            "PEM file on the connector with the authorities of vCenter (and of ESXi in mode ca), or of a proxy that "
            "signs TLS anew",
        ),
        "esxi_mode": _choice(
            "esxi_mode",
            "ESXi certificates",
            "vcenter: trust the thumbprints that vCenter reports for its hosts; ca: the CA bundle; pin: the "
            "thumbprints below; ignore (logs a warning)",
        ),
        "esxi_thumbprints": _text("ESXi thumbprints", "comma separated, for ESXi mode pin"),
        "proxy": _text(
            "HTTP proxy", "http://host:port, if there is a proxy between connector and vCenter; its login is below"
        ),
        "proxy_user": _text("Proxy user", "for password login (Basic); NTLM and Kerberos are not supported"),
        "proxy_password": _password("Proxy password", "of the proxy user"),
        "dns_suffixes": _text("DNS suffixes", "comma separated, tried for ESXi host names without a domain"),
        "esxi_addresses": _text(
            "ESXi addresses", "host name=address, comma separated: addresses of hosts behind NAT or without DNS"
        ),
        "vddk_transports": _text("VDDK transports", "in order, separated by colons; empty: nbdssl:nbd"),
        "vddk_compression": _choice("vddk_compression", "VDDK compression", "between ESXi host and connector"),
        "vddk_connections": _text("VDDK connections", "NFC sessions per disk; empty: 1"),
        "vddk_host_sessions": _text(
            "NFC sessions per host", "maximum NFC sessions to one ESXi host at a time; empty: 8"
        ),
        "vddk_vcenter_sessions": _text(
            "NFC sessions per vCenter", "maximum NFC sessions to all hosts of the vCenter at a time; empty: 52"
        ),
    },
}


def _rest_fields(system: str) -> dict[str, Any]:
    """TLS policy and proxy of a system with a REST API (:mod:`wavelift.airflow.hooks.rest`)."""
    return {
        "certificate_mode": _choice(
            "certificate_mode", f"{system} certificate", "verify, pin a thumbprint, or ignore (logs a warning)"
        ),
        "thumbprint": _text(f"{system} thumbprint", "SHA-256 or SHA-1, for certificate mode thumbprint"),
        "ca_bundle": _text(
            "CA bundle",
            f"PEM file on the machine that runs the task, with the authority of {system}, or of a proxy that signs TLS "
            "anew",
        ),
        "proxy": _text("HTTP proxy", f"http://host:port, if there is a proxy in front of {system}; its login is below"),
        "proxy_user": _text("Proxy user", "for password login (Basic); NTLM and Kerberos are not supported"),
        "proxy_password": _password("Proxy password", "of the proxy user"),
    }


HCX_CONNECTION: dict[str, Any] = {
    "connection-type": "hcx",
    "hook-class-name": "wavelift.airflow.hooks.hcx.HcxHook",
    "hook-name": "VMware HCX (wavelift)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "extra"],
        "relabeling": {"host": "HCX manager host name", "login": "User"},
        "placeholders": {"host": "hcx.example.com", "port": "443", "login": "administrator@vsphere.local"},
    },
    "conn-fields": _rest_fields("HCX"),
}

NSX_CONNECTION: dict[str, Any] = {
    "connection-type": "nsx",
    "hook-class-name": "wavelift.airflow.hooks.nsx.NsxHook",
    "hook-name": "VMware NSX (wavelift)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "extra"],
        "relabeling": {"host": "NSX manager host name", "login": "User"},
        "placeholders": {"host": "nsx.example.com", "port": "443", "login": "wavelift"},
    },
    "conn-fields": {
        **_rest_fields("NSX"),
        "vmc_org": _text(
            "VMware Cloud organisation",
            "its id, if this NSX is in VMware Cloud on AWS. Then leave the host empty. The password is an API token, "
            "or user and password are id and secret of an OAuth app",
        ),
        "vmc_sddc": _text("VMware Cloud SDDC", "its id"),
        "csp_url": _text("VMware Cloud token address", "empty: https://console.cloud.vmware.com"),
    },
}

CONFIG: dict[str, Any] = {
    SECTION: {
        "description": "Waves of virtual machines from VMware to Amazon EC2.",
        "options": {name: _option(option) for name, option in OPTIONS.items()},
    }
}


def get_provider_info() -> dict[str, Any]:
    """Entry point ``apache_airflow_provider``."""
    return {
        "package-name": "wavelift",
        "name": "wavelift",
        "description": "Moves VMware virtual machines into Amazon EC2 in waves.",
        "versions": [__version__],
        "hooks": [
            {"integration-name": "VMware vCenter", "python-modules": ["wavelift.airflow.hooks.vsphere"]},
            {"integration-name": "VMware HCX", "python-modules": ["wavelift.airflow.hooks.hcx"]},
            {"integration-name": "VMware NSX", "python-modules": ["wavelift.airflow.hooks.nsx"]},
            {"integration-name": "AWS VM Import", "python-modules": ["wavelift.airflow.hooks.vm_import"]},
        ],
        "connection-types": [VSPHERE_CONNECTION, HCX_CONNECTION, NSX_CONNECTION],
        "operators": [{"integration-name": "wavelift", "python-modules": ["wavelift.operators"]}],
        "sensors": [{"integration-name": "wavelift", "python-modules": ["wavelift.sensors"]}],
        "triggers": [
            {
                "integration-name": "wavelift",
                "python-modules": [
                    "wavelift.airflow.triggers.exports",
                    "wavelift.airflow.triggers.hcx",
                    "wavelift.airflow.triggers.imports",
                    "wavelift.airflow.triggers.replication_runs",
                    "wavelift.airflow.triggers.slots",
                    "wavelift.airflow.triggers.snapshots",
                    "wavelift.airflow.triggers.tiers",
                ],
            }
        ],
        "extra-links": [
            "wavelift.airflow.links.ImageLink",
            "wavelift.airflow.links.InstanceLink",
            "wavelift.airflow.links.VcenterLink",
        ],
        "config": CONFIG,
    }
