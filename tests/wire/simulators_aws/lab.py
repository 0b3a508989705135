"""What most tests of imports need at the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator

__test__ = False

Refused = Callable[..., ClientError]


@dataclass(frozen=True)
class Lab:
    """Each field is the fixture of that name."""

    sim: AwsSimulator
    s3: Any
    ec2: Any
    key: str
    disk: Callable[..., bytes]
    import_image: Callable[..., dict[str, Any]]
    finished: Callable[[str], dict[str, Any]]
    tidy: Callable[[dict[str, Any]], None]
    refused: Refused
