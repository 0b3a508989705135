"""What Airflow learns of wavelift: hooks, the ``vsphere`` connection form, links and ``[wavelift]`` settings."""

from __future__ import annotations

from typing import Any, Final

from wavelift import __version__


def _option(description: str, kind: str = "string", default: str | None = None) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": kind,
        "example": None,
        "default": default,
    }


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
    "wavelift": {
        "description": "Waves of virtual machines from VMware to Amazon EC2.",
        "options": {
            "waves_folder": _option("Folder of wave specs; empty: `waves` in the DAGs folder.", default=""),
            "environments_folder": _option(
                "Folder of environments; empty: `environments` in the DAGs folder.", default=""
            ),
            "state_folder": _option("Local state (last valid specs); empty: `wavelift` in AIRFLOW_HOME.", default=""),
            "connector_state_folder": _option(
                "Journals of running transfers, on each connector; empty: `wavelift/connector` in AIRFLOW_HOME.",
                default="",
            ),
            "ledger_url": _option(
                "SQLAlchemy URL of the ledger; empty: SQLite `wavelift.db` in AIRFLOW_HOME.", default=""
            )
            | {"sensitive": True},  # may hold a password; so Airflow also takes it from ledger_url_cmd and _secret
            "nbdkit_plugin": _option(
                "On a connector: nbdkit's plugin that reads disks, `vddk` or `nfc`; empty: neither.", default=""
            ),
            "nbdkit_folder": _option(
                "On a connector: for `vddk` the folder of VDDK or of a drop-in of its library; for `nfc` where "
                "nbdkit-nfc-plugin.so lies (empty: nbdkit's own folder).",
                default="",
            ),
            "nbdkit": _option("On a connector: the program; empty: nbdkit from the PATH.", default=""),
            "transfers_per_connector": _option("Transfers at once per connector (AMP-04).", "integer", "4"),
            "imports_per_region": _option("Import tasks at once per region (VIE-04).", "integer", "5"),
            "max_mbit_s": _option(
                "Megabits per second to AWS of all transfers of a connector's machine together; empty: no limit. In "
                "airflow.cfg it may be changed while transfers run.",
                default="",
            ),
            "patience_minutes": _option(
                "How long a transfer bears a cut line, an outage of AWS or vCenter, or throttling, in minutes.",
                "float",
                "30",
            ),
            "poll_seconds": _option("How often waits look at AWS and the ledger, in seconds.", "float", "15"),
            "transfer_workers": _option("Threads that decode and encode, per disk.", "integer", "2"),
            "parallel_disks": _option("Disks of one server that move at the same time.", "integer", "2"),
        },
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
