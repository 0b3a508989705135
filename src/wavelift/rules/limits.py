"""Every limit that a service or a document sets: value, unit, source, and what happens if it is exceeded.

The default limit of a service can be overridden (``limits(overrides)``); it is never a constant elsewhere in the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from wavelift.base.errors import SpecError
from wavelift.base.settings import OPTIONS
from wavelift.base.units import GIB, KIB, TIB
from wavelift.rules.problem import allowed, did_you_mean

GB: Final = 10**9


class OnExceed(StrEnum):
    """What happens if the limit is exceeded."""

    REFUSE = "refuse"
    WARN = "warn"
    WAIT = "wait"


class Scope(StrEnum):
    """What the limit applies to, and so where it may be overridden."""

    CONNECTOR = "connector"
    REGION = "region"
    ACCOUNT = "account"
    SERVER = "server"
    FORMAT = "format"
    """A format or an API defines it; it can't be overridden."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit. ``source`` names the requirement, or the document and its date.

    :param most: to which the service raises it; 0: that is not known.
    """

    name: str
    value: int
    unit: str
    scope: Scope
    source: str
    on_exceed: OnExceed
    most: int = 0

    def refusal(self, value: int) -> str:
        """Why it can't be set to this value; empty: it can."""
        if value < 1:
            return "it must be at least 1"
        return f"it must be at most {self.most}: AWS raises it no further" if 0 < self.most < value else ""

    def exceeded(self, value: float) -> bool:
        """Whether ``value``, in this limit's unit, is more than is allowed."""
        return value > self.value

    @property
    def settable(self) -> bool:
        return self.scope is not Scope.FORMAT


_VMIE = "VM Import/Export User Guide, limitations and prerequisites pages, Dec 2022"
_TABLE: Final = (
    Limit(
        "transfers_per_connector",
        int(OPTIONS["transfers_per_connector"].default),
        "transfers",
        Scope.CONNECTOR,
        "AMP-04",
        OnExceed.WAIT,
    ),
    Limit(
        "imports_per_region",
        int(OPTIONS["imports_per_region"].default),
        "import tasks",
        Scope.REGION,
        "AMP-04",
        OnExceed.WAIT,
    ),
    Limit(
        "exports_per_region",
        int(OPTIONS["exports_per_region"].default),
        "export tasks",
        Scope.REGION,
        "VIE-04: 5 conversion tasks per region, which AWS raises to 20",
        OnExceed.WAIT,
        most=20,
    ),
    Limit(
        "migrations_per_account",
        int(OPTIONS["migrations_per_account"].default),
        "VMs",
        Scope.ACCOUNT,
        "SMS-10",
        OnExceed.WAIT,
    ),
    Limit(
        "snapshots_per_datastore",
        int(OPTIONS["snapshots_per_datastore"].default),
        "VMs",
        Scope.CONNECTOR,
        "wavelift: snapshots grow together, and a full datastore stops every VM on it",
        OnExceed.WAIT,
    ),
    Limit(
        "reads_per_host",
        int(OPTIONS["reads_per_host"].default),
        "VMs",
        Scope.CONNECTOR,
        "wavelift: an ESXi host has few NFC buffers, which its backups and vMotion need too",
        OnExceed.WAIT,
    ),
    Limit(
        "hcx_per_manager",
        int(OPTIONS["hcx_per_manager"].default),
        "VMs",
        Scope.CONNECTOR,
        "Broadcom KB 321604 and 373010: concurrent bulk and RAV migrations of a manager",
        OnExceed.WAIT,
    ),
    Limit(
        "hcx_per_mesh",
        int(OPTIONS["hcx_per_mesh"].default),
        "VMs",
        Scope.CONNECTOR,
        "Broadcom KB 321604 and 373010: concurrent bulk and RAV migrations of a service mesh",
        OnExceed.WAIT,
    ),
    Limit(
        "hcx_serial",
        1,
        "runs",
        Scope.FORMAT,
        "HCX makes vMotion and cold migrations one after the other between two sites",
        OnExceed.WAIT,
    ),
    Limit("compressed_disk_bytes", 215 * GB, "bytes", Scope.SERVER, "AMP-06", OnExceed.WARN),
    Limit("volumes_per_image", 21, "volumes", Scope.SERVER, _VMIE, OnExceed.REFUSE),
    Limit("image_bytes", 16 * TIB, "bytes", Scope.SERVER, _VMIE, OnExceed.REFUSE),
    Limit("image_bytes_without_manifest", 8 * TIB, "bytes", Scope.SERVER, _VMIE, OnExceed.REFUSE),
    Limit("mbr_boot_disk_bytes", 2 * TIB, "bytes", Scope.SERVER, f"{_VMIE}: MBR addresses 2 TiB", OnExceed.WARN),
    Limit(
        "stream_content_bytes",
        2030 * GIB,
        "bytes",
        Scope.SERVER,
        "VMDK 5.0 specification: tables hold 32-bit sector numbers, so a stream-optimised file is at most 2 TiB, and a "
        "few GiB of it are markers, tables and padding",
        OnExceed.REFUSE,
    ),
    Limit(
        "volume_bytes",
        64 * TIB,
        "bytes",
        Scope.SERVER,
        "EC2 API, CreateVolume (gp3, io2) and EBS direct StartSnapshot: 65,536 GiB, 2026",
        OnExceed.REFUSE,
    ),
    Limit(
        "export_volume_bytes",
        TIB,
        "bytes",
        Scope.FORMAT,
        "VIE-03; VM Import/Export User Guide, exporting an instance as a VM, 2024",
        OnExceed.REFUSE,
    ),
    Limit(
        "ova_volume_bytes",
        2 * TIB,
        "bytes",
        Scope.FORMAT,
        "VMDK 5.0 specification: tables hold 32-bit sector numbers",
        OnExceed.REFUSE,
    ),
    Limit("volume_unit_bytes", GIB, "bytes", Scope.FORMAT, "EBS volumes have whole GiB", OnExceed.WARN),
    Limit("grain_bytes", 64 * KIB, "bytes", Scope.FORMAT, "VMDK 5.0 specification, stream-optimised", OnExceed.REFUSE),
    Limit("object_parts", 10_000, "parts", Scope.FORMAT, "S3 multipart upload limits", OnExceed.REFUSE),
    Limit("object_bytes", 5 * TIB, "bytes", Scope.FORMAT, "S3 multipart upload limits, 2022", OnExceed.REFUSE),
    Limit("part_min_bytes", 5 * 1024 * KIB, "bytes", Scope.FORMAT, "S3 multipart upload limits", OnExceed.REFUSE),
    Limit(
        "servers_per_wave",
        500,
        "servers",
        Scope.SERVER,
        "wavelift: tasks per DAG run; tested with waves of 150 servers",
        OnExceed.REFUSE,
    ),
    Limit(
        "boot_disk_changed_pct",
        50,
        "per cent of the compared blocks with data",
        Scope.SERVER,
        "wavelift: ImportImage rewrites configuration, boot loader, drivers and agents (VM Import/Export User Guide, "
        "programmatic modifications to VMs) and boots the image once; another disk differs in nearly all blocks",
        OnExceed.REFUSE,
    ),
    Limit("frequency_min_hours", 12, "hours", Scope.SERVER, "SMS-03", OnExceed.REFUSE),
    Limit("frequency_max_hours", 24, "hours", Scope.SERVER, "SMS-03", OnExceed.REFUSE),
    Limit("seed_ahead_days", 30, "days", Scope.SERVER, "SMS-03", OnExceed.REFUSE),
    Limit("on_demand_runs", 2, "runs", Scope.SERVER, "SMS-06, AIR-04: per job and window", OnExceed.REFUSE),
    Limit("on_demand_window_hours", 24, "hours", Scope.SERVER, "SMS-06, AIR-04", OnExceed.REFUSE),
    Limit("term_days", 90, "days", Scope.SERVER, "SMS-10: from a server's first replication", OnExceed.REFUSE),
    Limit(
        "schedule_grace_seconds",
        600,
        "seconds",
        Scope.SERVER,
        "wavelift: a busy scheduler starts runs late",
        OnExceed.REFUSE,
    ),
    Limit(
        "reservation_seconds",
        120,
        "seconds",
        Scope.SERVER,
        "wavelift: Airflow creates a DAG run in seconds",
        OnExceed.REFUSE,
    ),
)
LIMITS: Final[Mapping[str, Limit]] = {limit.name: limit for limit in _TABLE}
ENVIRONMENT_LIMITS: Final = frozenset(
    limit.name for limit in _TABLE if limit.scope in (Scope.REGION, Scope.ACCOUNT)
) | {"boot_disk_changed_pct", "compressed_disk_bytes", "stream_content_bytes"}
"""Limits that an environment may override: AWS raises them per account or region, or they depend on the guests."""


NEARLY_FULL: Final = 0.8
"""Of an account's servers under way: from here on it is told (SMS-10). Of 50, that is 40."""


def is_nearly_full(in_use: int, limit: int) -> bool:
    """Whether so few slots are left that somebody should know."""
    return in_use >= NEARLY_FULL * limit


def limits(overrides: Mapping[str, int] | None = None) -> dict[str, Limit]:
    """The table with ``overrides`` (name → value, in the limit's unit) from the configuration or an environment.

    :raises SpecError: for an unknown name, a limit that can't be set, or a value below 1.
    """
    table = dict(LIMITS)
    for name, value in (overrides or {}).items():
        limit = table.get(name)
        settable = sorted(known.name for known in _TABLE if known.settable)
        if limit is None:
            raise SpecError(
                f"Unknown limit '{name}'{did_you_mean(name, LIMITS)}", next_step=f"Names {allowed(settable)}"
            )
        if not limit.settable:
            raise SpecError(
                f"Limit '{name}' is defined by a format and can't be set", next_step=f"Names {allowed(settable)}"
            )
        if refusal := limit.refusal(value):
            raise SpecError(f"Limit '{name}' is {value}: {refusal}", next_step="Set another value")
        table[name] = replace(limit, value=value, source=f"configured; default {limit.value} from {limit.source}")
    return table
