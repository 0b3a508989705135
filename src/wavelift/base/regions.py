"""Regions and partitions of AWS, as botocore's own data has them: a new one comes with a new botocore."""

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
"""botocore does not know consoles. Those of the isolated partitions are nowhere public: no link is better than one that
leads elsewhere."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of AWS with accounts of its own; its name is the second part of every ARN there."""

    name: str
    pattern: re.Pattern[str]
    regions: frozenset[str]

    def has(self, region: str) -> bool:
        return region in self.regions or self.pattern.fullmatch(region) is not None


@cache
def partitions() -> tuple[Partition, ...]:
    """All that botocore knows. Its file is read, not botocore imported: specs are parsed by every Airflow process."""
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
    """``aws``, ``aws-cn``, ``aws-eusc`` …; empty for what is no region that botocore knows."""
    return next((one.name for one in partitions() if one.has(region)), "")


def console_of(region: str) -> str:
    """Domain of the AWS console for a region; empty where none is known."""
    return CONSOLES.get(partition_of(region), "")
