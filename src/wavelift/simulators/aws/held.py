"""One access key's policies, the verdict on each call, and what was used of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.policy import Use, acts_on, covers, statements_of

REFUSALS: Final = {
    "ec2": ("UnauthorizedOperation", "You are not authorized to perform this operation. ", 403),
    "ebs": ("AccessDeniedException", "", 403),
    "kms": ("AccessDeniedException", "", 400),
    "ssm": ("AccessDeniedException", "", 400),
}
"""Code, beginning of the message and status, as each service spells "not allowed". All others: AccessDenied."""
REFUSALS_ELSE: Final = ("AccessDenied", "", 403)


class Held:
    """The identity policies of one access key.

    IAM's rule: an explicit Deny wins, else some Allow must cover the action on that resource.
    """

    def __init__(self, user: str, documents: Iterable[Mapping[str, Any]]) -> None:
        self.user = user
        self._statements = [_checked(one) for document in documents for one in statements_of(document)]
        self._lock = threading.Lock()
        self._used: dict[tuple[str, str], int] = {}
        self._denied: dict[tuple[str, str], int] = {}

    def check(self, uses: Iterable[Use], *, service: str, arn: str) -> None:
        """Raises the service's AwsError for the first use that is not allowed."""
        for use in uses:
            covering = [one for one in self._statements if covers(one, use)]
            refused = any(one["Effect"] == "Deny" for one in covering)
            if refused or not covering:
                self._note(self._denied, (use.action, use.resource))
                raise refusal(service, arn, use, explicit=refused)
            self.note(use, covering)

    def note(self, use: Use, covering: Iterable[Mapping[str, Any]] | None = None) -> None:
        """Write down which patterns of which statements allow this use."""
        found = covering if covering is not None else [one for one in self._statements if covers(one, use)]
        for statement in found:
            for pattern in acts_on(statement, use.action):
                self._note(self._used, (str(statement.get("Sid", "")), pattern))

    def _note(self, table: dict[tuple[str, str], int], key: tuple[str, str]) -> None:
        with self._lock:
            table[key] = table.get(key, 0) + 1

    def listing(self) -> dict[str, Any]:
        with self._lock:
            return {
                "user": self.user,
                "used": [
                    {"sid": sid, "action": action, "times": times}
                    for (sid, action), times in sorted(self._used.items())
                ],
                "denied": [
                    {"action": action, "resource": resource, "times": times}
                    for (action, resource), times in sorted(self._denied.items())
                ],
            }


def refusal(service: str, arn: str, use: Use, *, explicit: bool = False) -> AwsError:
    """The error of a call that the caller's policies do not allow, in AWS's words."""
    code, begin, status = REFUSALS.get(service, REFUSALS_ELSE)
    on = "" if use.resource == "*" else f" on resource: {use.resource}"
    why = (
        "with an explicit deny in an identity-based policy"
        if explicit
        else f"because no identity-based policy allows the {use.action} action"
    )
    return AwsError(code, f"{begin}User: {arn} is not authorized to perform: {use.action}{on} {why}", status)


def _checked(statement: Mapping[str, Any]) -> Mapping[str, Any]:
    """Only what is evaluated here: a statement with more would be believed to say less. Raises ValueError."""
    unknown = set(statement) - {"Sid", "Effect", "Action", "Resource", "Condition"}
    if unknown or statement.get("Effect") not in ("Allow", "Deny") or not {"Action", "Resource"} <= set(statement):
        raise ValueError(f"a statement has Effect, Action and Resource, and may have Sid and Condition: {statement}")
    return statement
