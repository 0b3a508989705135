"""What checks of an address have in common: those of a launched instance, and those of a network that was cut over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import Field

from wavelift.base.domain import Message
from wavelift.rules.fields import FLAG, NUMBER, WHOLE, matched
from wavelift.rules.problem import allowed

MAX_CHECKS: Final = 20
PORT: Final = 65535
Port = Annotated[int, Field(ge=1, le=PORT), WHOLE]
INSTALLED: Final = ("arguments",)
"""What a check of another package takes."""


class BaseCheck(Message):
    """The fields that do not depend on what is checked. A subclass adds ``kind``, and says what each kind takes."""

    port: Port | None = Field(default=None, description="Of 'tcp' and 'http'. Default of 'http': 80, with tls 443.")
    path: Annotated[str, Field(max_length=2000), matched(r"^/\S*$", "a path such as '/health'")] | None = Field(
        default=None, description="Of 'http'. Default: '/'."
    )
    tls: Annotated[bool, FLAG] | None = Field(
        default=None, description="Of 'http': speak TLS. The certificate is not verified: the name is not there yet."
    )
    status: Annotated[int, Field(ge=100, le=599), WHOLE] | None = Field(
        default=None, description="Of 'http': the status that is expected. Default: any from 200 to 399."
    )
    arguments: Mapping[str, str] = Field(
        default={}, max_length=20, description="Of an installed check: what it is called with."
    )
    within_minutes: Annotated[float, Field(gt=0, le=240), NUMBER] = Field(
        default=15, description="Minutes in which it must pass. It is repeated until then."
    )


def refuse_others(check: BaseCheck, kind: str, takes: tuple[str, ...], always: tuple[str, ...] = ()) -> None:
    """Refuse what a check of this kind does not take.

    :param takes: fields of this kind. :param always: fields of every kind, besides ``kind`` and ``within_minutes``.
    :raises ValueError: it has a field of another kind.
    """
    # By value, not by what was set: a frozen spec comes back from JSON with every field.
    given = {name for name, field in type(check).model_fields.items() if getattr(check, name) != field.default}
    wrong = sorted(given - {"kind", "within_minutes", *always, *takes})
    if wrong:
        raise ValueError(f"a check of kind '{kind}' takes no {', '.join(wrong)}; {allowed(takes)}")
