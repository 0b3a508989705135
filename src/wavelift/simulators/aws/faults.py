"""AWS's own kinds of fault rules, and the errors of its services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.kit import faults

THROTTLED: Final = {
    "s3": ("SlowDown", "Please reduce your request rate.", 503),
    "ec2": ("RequestLimitExceeded", "Request limit exceeded.", 503),
    "ebs": ("RequestThrottledException", "ACCOUNT_THROTTLED", 400),
}
THROTTLED_ELSE: Final = ("Throttling", "Rate exceeded", 400)
BROKEN: Final = {
    "s3": ("InternalError", "We encountered an internal error. Please try again.", 500),
    "ebs": ("InternalServerException", "An internal error has occurred.", 500),
}
BROKEN_ELSE: Final = ("InternalError", "An internal error has occurred", 500)


@dataclass(slots=True)
class Rule(faults.Rule):
    """``key`` is bucket/key or a resource's id.

    A ``flip`` rule changes one byte of an object that CompleteMultipartUpload has just made. An ``import`` rule
    decides how an ImportImage task ends, an ``export`` rule how an export of an instance or image (``key``) does.
    An ``unstoppable`` instance stays ``stopping`` while the rule is in force. The status check of an ``impaired``
    instance fails; a reader of its status counts as a match. A change of an ``unsynced`` hosted zone (``key`` is
    its id) is PENDING while the rule is in force. An ``unhealthy`` target (``key`` is "group's name/id:port") fails
    its checks; each reader of its health counts as a match. A ``failed_image`` is what CreateImage makes of an
    instance (``key``): it ends as ``failed``. A ``command`` rule decides how a command on an instance (``key``)
    ends, and what it writes; Systems Manager does not know an instance of a ``no_agent`` rule.
    """

    kinds: ClassVar[tuple[str, ...]] = (
        "call",
        "flip",
        "import",
        "export",
        "unstoppable",
        "impaired",
        "unsynced",
        "unhealthy",
        "failed_image",
        "command",
        "no_agent",
    )

    reason: str = ""
    """EBS direct's ``Reason`` beside the code."""
    outcome: str = "deleted"
    """Of an import or export: ``deleted`` (it fails with ``message``); ``stuck`` in its phase until it is
    cancelled; ``held`` where the phase begins, until the rule is dropped. Of a command: ``Failed`` (default),
    ``TimedOut`` or another status of AWS's; or ``stuck`` while the rule is in force."""
    output: str = ""
    """Of a command: its standard output, or its standard error if it failed."""
    phase: str = "converting"
    """Of an import or export: the phase in which this happens."""

    def __post_init__(self) -> None:
        if self.kind in {"import", "export"}:
            self.operation = self.phase
        elif self.kind == "command" and self.outcome == "deleted":
            self.outcome = "Failed"


def failure(rule: faults.Rule, service: str) -> AwsError:
    """The error that ``service`` answers with because of a rule."""
    if rule.throttle or rule.per_second or rule.status in {429, 503}:
        code, message, status = THROTTLED.get(service, THROTTLED_ELSE)
    else:
        code, message, status = BROKEN.get(service, BROKEN_ELSE)
    extra = {}
    if code == "RequestThrottledException" and not rule.code:
        extra = {"Reason": message}
    if isinstance(rule, Rule) and rule.reason:
        extra = {"Reason": rule.reason}
    return AwsError(rule.code or code, rule.message or message, rule.status or status, extra)
