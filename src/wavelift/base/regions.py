"""AWS regions and partitions, from botocore's data. A new partition needs a newer botocore."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

COMMERCIAL: Final = "aws"
CONSOLES: Final = {
    COMMERCIAL: "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-eusc": "console.amazonaws-eusc.eu",
    "aws-us-gov": "console.amazonaws-us-gov.com",
}
"""Domains of the AWS console, which botocore's data lacks. Those of the isolated partitions are not public: no link is
better than a wrong link."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of AWS with separate accounts. Its name is the second part of every ARN in it."""

    name: str
    pattern: re.Pattern[str]
    regions: frozenset[str]

    def has(self, region: str) -> bool:
        return region in self.regions or self.pattern.fullmatch(region) is not None


@cache
def partitions() -> tuple[Partition, ...]:
    """All partitions in botocore's data. The file is read without importing botocore, because every Airflow process
    parses specs and the import is slow."""
    spec = find_spec("botocore")
    assert spec is not None
    assert spec.submodule_search_locations
    file = Path(next(iter(spec.submodule_search_locations)), "data", "partitions.json")
    packed = file.with_name("partitions.json.gz")
    text = file.read_bytes() if file.exists() else gzip.decompress(packed.read_bytes())
    return tuple(
        Partition(
            name=one["id"],
            pattern=re.compile(one["regionRegex"]),
            regions=frozenset(name for name in one["regions"] if not name.endswith("-global")),
        )
        for one in json.loads(text)["partitions"]
    )


def partition_of(region: str) -> str:
    """``aws``, ``aws-cn``, ``aws-eusc`` …; empty if botocore does not know the region."""
    return next((one.name for one in partitions() if one.has(region)), "")


def console_of(region: str) -> str:
    """Domain of the AWS console for a region; empty if it is not known."""
    return CONSOLES.get(partition_of(region), "")
