"""The ``replication:`` section of a wave or a server: it defines the replication job (SMS-03)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from wavelift.base.domain import Message
from wavelift.base.errors import SpecError
from wavelift.rules.fields import FLAG, WHOLE
from wavelift.rules.replication import DEFAULT_PAUSE_AFTER
from wavelift.rules.schedule import EARLIEST_EPOCH, MAX_FREQUENCY_H, MIN_FREQUENCY_H, NOW, parse_seed

AmiMethod = Literal["import", "register"]
"""``import``: AWS converts the image (drivers, boot, licence). ``register``: directly from the snapshots."""


def _seed(value: Any) -> str:
    """``now``, or the instant as ISO 8601 in UTC. One canonical form: another spelling of the same time is no drift."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("a seed time must be 'now', epoch seconds, or ISO 8601 with an offset")
    try:
        instant = parse_seed(value)
    except SpecError as error:
        raise ValueError(f"{error.what}. {error.next_step}") from error
    return NOW if instant is None else instant.isoformat()


SeedTime = Annotated[
    str,
    BeforeValidator(_seed),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": NOW},
                {"type": "number", "minimum": EARLIEST_EPOCH},
                {"type": "string", "format": "date-time"},
            ]
        }
    ),
]


class Replication(Message):
    """Replication settings for all servers of a wave (under ``replication``) or for one server (in its entry)."""

    seed_time: SeedTime | None = Field(
        default=None,
        description="Time of the first run: 'now' (default; when the job is created), epoch seconds, or ISO 8601 with "
        "an offset; at most 30 days ahead. Later runs start every 'frequency_hours'.",
    )
    frequency_hours: Annotated[int, Field(ge=MIN_FREQUENCY_H, le=MAX_FREQUENCY_H), WHOLE] | None = Field(
        default=None, description="Hours between scheduled runs, 12 to 24 (default 24)."
    )
    description: Annotated[str, Field(max_length=1000)] | None = Field(
        default=None, description="One line for people; shown with the job."
    )
    keep_amis: Annotated[int, Field(ge=1, le=1000), WHOLE] | None = Field(
        default=None, description="AMIs kept per server; older ones are deregistered. Default: all are kept."
    )
    pause_after_failures: Annotated[int, Field(ge=0, le=100), WHOLE] | None = Field(
        default=None, description="Consecutive failed runs after which the job pauses (default 3); 0: never."
    )
    ami: AmiMethod | None = Field(
        default=None,
        description="'import' (default): AWS converts the image. 'register': no conversion; only for Linux with its "
        "own licence, because such an image has no billing data.",
    )
    force_register: Annotated[bool, FLAG] | None = Field(
        default=None, description="Allow 'ami: register' for other guests and licences too."
    )


class ReplicationPlan(Message):
    """The complete replication settings of one server. The licence is the server's ``license_type``."""

    seed_time: str = NOW
    frequency_hours: int = MAX_FREQUENCY_H
    description: str = ""
    keep_amis: int | None = None
    """None: all."""
    pause_after_failures: int = DEFAULT_PAUSE_AFTER
    ami: AmiMethod = "import"
    force_register: bool = False


REGISTER_MESSAGE: Final = (
    "'register' makes an image without billing data, which can't have an AWS licence: use 'import', another "
    "license_type, or 'force_register: true'"
)


def replication_plan(wave: Replication | None, server: Replication | None) -> ReplicationPlan | None:
    """Merge defaults, the wave's values and the server's values; later ones win. None: neither has the section."""
    if wave is None and server is None:
        return None
    values: dict[str, Any] = {}
    for given in (wave, server):
        values |= given.model_dump(exclude_none=True) if given is not None else {}
    return ReplicationPlan(**values)
