"""Rights for services that are called without files: who may do everything, in every environment."""

from __future__ import annotations

from typing import Final

from wavelift.rules.environment import Environment, May
from wavelift.rules.principals import Principals
from wavelift.services.common.authority import Rights
from wavelift.specs import Granting

USERS: Final = ("test", "tester", "ana", "admin")
"""Who asks in tests."""


def open_to(*users: str, principals: Principals | None = None) -> Rights:
    """:param users: who may migrate, cut over and administer."""
    entries = tuple(f"user:{user}" for user in users)
    may = May(migrate=entries, cut_over=entries, administer=entries)

    def load(name: str) -> Granting:
        return Granting(Environment.model_construct(environment=name, may=may), principals or Principals())

    return Rights(load)


OPEN: Final = open_to(*USERS)
