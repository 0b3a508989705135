"""HCX's own kinds of fault rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from wavelift.simulators.hcx.errors import HcxError
from wavelift.simulators.kit import faults


@dataclass(slots=True)
class Rule(faults.Rule):
    """``key`` is a VM's name, or what a call is about.

    An ``error`` or ``warning`` rule adds one to the validation of a VM (``message``). A ``guest`` rule keeps a guest
    from shutting down. A ``migration`` rule decides how a migration ends, in the phase ``operation``: ``base_sync`` or
    ``switchover``. An ``unextend`` rule lets the removal of one network's extension fail: ``key`` is its name.
    """

    kinds: ClassVar[tuple[str, ...]] = ("call", "error", "warning", "guest", "migration", "unextend")

    outcome: str = "failed"
    """Of a removal: ``kept`` or ``gone``, as in the settings. Of a migration: ``failed``; ``stuck`` until it is
    cancelled; ``ended``, with no word how; ``unnamed``: failed, under a name that nobody has listed and without a flag.
    """
    xml: bool = False
    """Of a call: the error is XML."""


def failure(rule: faults.Rule, _: str) -> HcxError:
    xml = isinstance(rule, Rule) and rule.xml
    return HcxError(
        rule.status or 500, "internal", rule.message or "An internal error has occurred", xml=xml, code=rule.code
    )
