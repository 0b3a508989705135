"""What Airflow learns of wavelift: hooks, the ``vsphere`` connection form, links and ``[wavelift]`` settings."""

from __future__ import annotations

from typing import Any, Final

from wavelift import __version__
from wavelift.base.settings import OPTIONS, SECTION, Option


def _option(option: Option) -> dict[str, Any]:
    """One option of ``[wavelift]`` as Airflow describes options."""
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


VSPHERE_CHOICES: Final = {
    "certificate_mode": ("verify", "thumbprint", "ignore"),
    "esxi_mode": ("vcenter", "ca", "pin", "ignore"),
    "vddk_compression": ("none", "zlib", "fastlz", "skipz"),
}
"""Fields of the form with a list of values; the first is the default."""


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
            "certificate_mode", "vCenter certificate", "verify, pin a thumbprint, or ignore (logged loudly)"
        ),
        "thumbprint": _text("vCenter thumbprint", "SHA-256 or SHA-1, for certificate mode thumbprint"),
        "ca_bundle": _text("CA bundle", "PEM file on the connector that vouches for vCenter (and ESXi in mode ca)"),
        "esxi_mode": _choice(
            "esxi_mode",
            "ESXi certificates",
            "vcenter: vCenter vouches for its hosts' thumbprints; ca: the CA bundle; pin: the thumbprints below; "
            "ignore (logged loudly)",
        ),
        "esxi_thumbprints": _text("ESXi thumbprints", "comma separated, for ESXi mode pin"),
        "proxy": _text("HTTP proxy", "http://host:port between connector and vCenter, if any"),
        "dns_suffixes": _text("DNS suffixes", "comma separated, tried for ESXi host names without a domain"),
        "esxi_addresses": _text(
            "ESXi addresses", "host name=address, comma separated: where the connector reaches hosts behind NAT"
        ),
        "vddk_transports": _text("VDDK transports", "in order, colons between; empty: nbdssl:nbd"),
        "vddk_compression": _choice("vddk_compression", "VDDK compression", "between ESXi host and connector"),
        "vddk_connections": _text("VDDK connections", "NFC sessions per disk; empty: 1"),
        "vddk_config": _text("VDDK configuration", "file on the connector with VDDK's own settings, if any"),
        "vddk_host_sessions": _text("NFC sessions per host", "disks read at a time from one ESXi host; empty: 8"),
        "vddk_vcenter_sessions": _text("NFC sessions per vCenter", "the same for all its hosts; empty: 52"),
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
            {"integration-name": "AWS VM Import", "python-modules": ["wavelift.airflow.hooks.vm_import"]},
        ],
        "connection-types": [VSPHERE_CONNECTION],
        "operators": [{"integration-name": "wavelift", "python-modules": ["wavelift.operators"]}],
        "sensors": [{"integration-name": "wavelift", "python-modules": ["wavelift.sensors"]}],
        "triggers": [
            {
                "integration-name": "wavelift",
                "python-modules": [
                    "wavelift.airflow.triggers.imports",
                    "wavelift.airflow.triggers.replication_runs",
                    "wavelift.airflow.triggers.slots",
                    "wavelift.airflow.triggers.snapshots",
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
