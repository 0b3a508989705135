"""Derives from the name of an EC2 instance type which guests can run on it.

The module uses families, not a list of types: AWS adds new sizes and generations every month, and the name contains
what matters here (processor, hypervisor). Source: EC2 User Guide, "Instance types" and "Boot modes", 2022 to 2025.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

XEN: Final = frozenset(
    [
        "c1",
        "c3",
        "c4",
        "cc1",
        "cc2",
        "cg1",
        "cr1",
        "d2",
        "f1",
        "g2",
        "g3",
        "g3s",
        "h1",
        "hi1",
        "hs1",
        "i2",
        "i3",
        "m1",
        "m2",
        "m3",
        "m4",
        "p2",
        "p3",
        "r3",
        "r4",
        "t1",
        "t2",
        "x1",
        "x1e",
    ]
)
"""Families on the Xen hypervisor. They boot with legacy BIOS and need no NVMe or ENA drivers."""
BITS_32: Final = frozenset({"t1", "t2", "m1", "c1", "m3", "c3"})
"""Families that run 32-bit guests (t2 up to medium, m3 and c3 only in their smallest sizes)."""
_FAMILY: Final = re.compile(r"^(?P<letters>[a-z]+)(?P<generation>\d+)(?P<attributes>[a-z-]*)$")


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """Properties that follow from the name."""

    name: str
    family: str
    architecture: str
    """``x86_64``, ``arm64`` or ``mac``."""
    nitro: bool
    metal: bool

    @property
    def boot_modes(self) -> tuple[str, ...]:
        return ("legacy-bios", "uefi") if self.nitro else ("legacy-bios",)

    @property
    def runs_32_bit(self) -> bool:
        return self.family in BITS_32


def type_facts(name: str) -> TypeFacts:
    """Facts of a type such as ``m6i.large``. A name that doesn't match the pattern counts as a current x86 type."""
    family, _, size = name.partition(".")
    return TypeFacts(
        name=name,
        family=family,
        architecture=_architecture(family),
        nitro=family not in XEN or size == "metal",
        metal=size.startswith("metal"),
    )


def _architecture(family: str) -> str:
    found = _FAMILY.match(family)
    if found is None:
        return "x86_64"
    if found["letters"] == "mac":
        return "mac"
    # Graviton: a 'g' after the generation (m6g, c7gn, im4gn, is4gen). The a1 family is older than this rule.
    graviton = "g" in found["attributes"].split("-")[0] or family == "a1"
    return "arm64" if graviton else "x86_64"
