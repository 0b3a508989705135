"""Guests that VM Import/Export supports, by vSphere guest id: ``data/guests.json``, each row with source and date."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

from wavelift.rules.problem import did_you_mean, quoted

Status = Literal["supported", "unknown", "unsupported"]
Family = Literal["linux", "windows-server", "windows-client", "other"]

MISSING_DRIVERS: Final = re.compile(r"(Red Hat Enterprise Linux|RHEL|CentOS)[^0-9]*6\.0\b", re.IGNORECASE)
"""Matches the full guest name of RHEL and CentOS 6.0, which lack the necessary drivers (SMS-11)."""
_ANY_6: Final = frozenset({"rhel6_64Guest", "centos6_64Guest"})


@dataclass(frozen=True, slots=True)
class Guest:
    """One row of the table."""

    id: str
    name: str
    family: Family
    bits: int
    """32, 64, or 0 if the guest id doesn't determine it."""
    status: Status
    source: str
    """Key of :func:`sources`."""
    versions: str = ""
    notes: str = ""
    boot_modes: tuple[str, ...] = ("legacy-bios", "uefi")
    english_only: bool = False
    """Client Windows can be imported in US English only (SMS-11)."""
    nitro: bool = True
    """False: the guest does not include the drivers that a Nitro instance type needs."""

    @property
    def windows(self) -> bool:
        return self.family.startswith("windows")

    @property
    def license_types(self) -> tuple[str, ...]:
        """SMS-03 and the licensing page: Linux and client Windows are BYOL only."""
        return ("auto", "aws", "byol") if self.family == "windows-server" else ("auto", "byol")


@dataclass(frozen=True, slots=True)
class GuestSource:
    """The source of a row."""

    title: str
    date: str
    url: str = ""
    read: str = ""


@cache
def _data() -> dict[str, Any]:
    text = resources.files("wavelift.rules").joinpath("data/guests.json").read_text("utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


@cache
def guests() -> dict[str, Guest]:
    """Guest id → row."""
    return {
        row["id"]: Guest(**{**row, "boot_modes": tuple(row.get("boot_modes", ("legacy-bios", "uefi")))})
        for row in _data()["guests"]
    }


@cache
def sources() -> dict[str, GuestSource]:
    """The sources of the rows, with their dates."""
    return {key: GuestSource(**value) for key, value in _data()["sources"].items()}


def guest(guest_id: str) -> Guest:
    """The row of a guest id. For an id that is not in the table (newer vSphere), a row with status *unknown*."""
    row = guests().get(guest_id)
    if row is not None:
        return row
    lowered = guest_id.lower()
    family: Family = "other"
    if lowered.startswith("win"):
        family = "windows-server" if "srv" in lowered else "windows-client"
    return Guest(
        guest_id,
        guest_id or "the guest system is not set",
        family,
        0,
        "unknown",
        "",
        notes="this guest id is not in our table",
    )


FAMILIES: Final[dict[str, tuple[Family, ...]]] = {
    "linux": ("linux",),
    "windows": ("windows-server", "windows-client"),
    "windows-server": ("windows-server",),
    "windows-client": ("windows-client",),
}
"""What a wave may state as ``guest_os`` without naming the release → families of the table."""


def stated_guest(text: str) -> str:
    """What a user calls the guest system, in one spelling: a word of :data:`FAMILIES`, a guest id or the name of one
    (``debian12_64Guest``, ``Debian GNU/Linux 12 (64-bit)``); upper and lower case are the same.

    :raises ValueError: it is none of them. The text names what is allowed.
    """
    wanted = " ".join(text.split()).casefold()
    if wanted in FAMILIES:
        return wanted
    for row in guests().values():
        if wanted in (row.id.casefold(), row.name.casefold()):
            return row.id
    near = did_you_mean(text, [*FAMILIES, *guests()])
    raise ValueError(
        f"{quoted(text)} is no guest system{near}: write {', '.join(FAMILIES)}, or a guest id of vSphere such as "
        "'debian12_64Guest' or 'windows2019srv_64Guest'"
    )


def lacks_drivers(guest_id: str, full_name: str) -> bool:
    """Whether this is RHEL or CentOS 6.0 (SMS-11). Only the guest's full name contains the minor release."""
    return (guest_id in _ANY_6 or not guests().get(guest_id)) and MISSING_DRIVERS.search(full_name) is not None


def minor_matters(guest_id: str) -> bool:
    """Whether a minor release of this guest id is not supported, and the id does not contain the minor release."""
    return guest_id in _ANY_6
