"""The ``replication:`` section of a wave and of a server: the standing order to replicate (SMS-03)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from wavelift.base.domain import Message
from wavelift.base.errors import SpecError
from wavelift.rules.fields import FLAG, WHOLE
from wavelift.rules.replication import DEFAULT_PAUSE_AFTER
from wavelift.rules.schedule import EARLIEST_EPOCH, MAX_FREQUENCY_H, MIN_FREQUENCY_H, NOW, parse_seed

AmiMethod = Literal["import", "register"]
"""``import``: converted by AWS (drivers, boot, licence). ``register``: straight from the snapshots."""


def _seed(value: Any) -> str:
    """``now``, or the instant as ISO 8601 in UTC: one spelling, so that a rewritten spec is no drift."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("a seed time is 'now', epoch seconds or ISO 8601 with an offset")
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
    """What may be set for all servers of a wave under ``replication`` and for one under its entry's."""

    seed_time: SeedTime | None = Field(
        default=None,
        description="First run: 'now' (default: when the job is made), epoch seconds, or ISO 8601 with an offset; "
        "at most 30 days ahead. Later runs follow every 'frequency_hours'.",
    )
    frequency_hours: Annotated[int, Field(ge=MIN_FREQUENCY_H, le=MAX_FREQUENCY_H), WHOLE] | None = Field(
        default=None, description="Hours between scheduled runs, 12 to 24 (default 24)."
    )
    description: Annotated[str, Field(max_length=1000)] | None = Field(
        default=None, description="One line for people; shown with the job."
    )
    keep_amis: Annotated[int, Field(ge=1, le=1000), WHOLE] | None = Field(
        default=None, description="AMIs kept per server; older ones are deregistered. All are kept by default."
    )
    pause_after_failures: Annotated[int, Field(ge=0, le=100), WHOLE] | None = Field(
        default=None, description="Failed runs in a row after which the job pauses (default 3); 0: never."
    )
    ami: AmiMethod | None = Field(
        default=None,
        description="'import' (default): AWS converts the image. 'register': no conversion, for Linux with its own "
        "licence only, since such an image carries no billing data.",
    )
    force_register: Annotated[bool, FLAG] | None = Field(
        default=None, description="Let 'ami: register' be used for other guests and licences as well."
    )


class ReplicationPlan(Message):
    """The standing order of one server, complete. The licence is the server's ``license_type``."""

    seed_time: str = NOW
    frequency_hours: int = MAX_FREQUENCY_H
    description: str = ""
    keep_amis: int | None = None
    """None: all."""
    pause_after_failures: int = DEFAULT_PAUSE_AFTER
    ami: AmiMethod = "import"
    force_register: bool = False


REGISTER_MESSAGE: Final = (
    "'register' makes an image without billing data, so it can't carry an AWS licence: use 'import', another "
    "license_type, or 'force_register: true'"
)


def replication_plan(wave: Replication | None, server: Replication | None) -> ReplicationPlan | None:
    """The server's values over the wave's over the defaults; None when neither has the section."""
    if wave is None and server is None:
        return None
    values: dict[str, Any] = {}
    for given in (wave, server):
        values |= given.model_dump(exclude_none=True) if given is not None else {}
    return ReplicationPlan(**values)
