"""What the DAG of an environment's exports is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wavelift.rules.environment import Environment
from wavelift.rules.wave import DEFAULT_RETRIES, DEFAULT_RETRY_DELAY_S

DEFAULT_QUEUE: Final = "default"


@dataclass(frozen=True, slots=True)
class ExportShape:
    """The structure of ``instance_export.<environment>`` depends on nothing else."""

    environment: str
    queue: str = DEFAULT_QUEUE
    """Of the worker near the region, which reads snapshots and opens objects."""
    description: str = ""
    retries: int = DEFAULT_RETRIES
    retry_delay_s: int = DEFAULT_RETRY_DELAY_S

    @classmethod
    def of(cls, environment: Environment) -> ExportShape:
        return cls(environment=environment.environment, queue=environment.queue)
