"""What a run of a network's cutover tells, for people and for the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from wavelift.base.domain import Finding, Message, Severity
from wavelift.rules.conf import NetworkMode
from wavelift.services.dataplane.network_messages import StepName

NO_WAY_BACK: Final = (
    "Once it is finished, there is no way back: the source network is deleted where it can be, and nothing makes the "
    "extension again."
)


class PlannedStep(Message):
    """One step with its undo."""

    name: StepName
    kind: str
    words: str
    undo_words: str


class PlannedNetwork(Message):
    """What ``record`` tells, in modes plan and cutover."""

    network: str
    mode: NetworkMode
    prefix: str
    digest: str
    """SHA-256, hex, of what will be done. Approvals and orders name it."""
    steps: tuple[PlannedStep, ...]
    findings: tuple[Finding, ...] = ()
    exceptions: tuple[str, ...] = ()
    """VMs that stay on the source network, as the file allows. They lose their gateway."""
    notes: tuple[str, ...] = ()

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """What is in the way: nothing begins while one of these stands."""
        return tuple(each for each in self.findings if each.severity is Severity.ERROR)

    def lines(self) -> list[str]:
        """The plan for a log and for who approves it."""
        found = [f"{self.network}: the gateway of {self.prefix} moves to the destination"]
        for place, step in enumerate(self.steps, start=1):
            found.append(f"  {place}. {step.words}")
            found.append(f"     back: {step.undo_words}")
        found += [f"  {note}" for note in self.notes]
        if self.exceptions:
            found.append(f"  stay on the source network, without a gateway: {', '.join(self.exceptions)}")
        for finding in self.findings:
            found.append(f"  {finding.severity}: {finding.what}. {finding.next_action}".rstrip(". "))
        stands = f"nothing begins: {len(self.blocking)} in the way" if self.blocking else "it can go"
        return [*found, f"plan {self.digest[:12]} of {self.network}: {stands}"]


class NetworkReport(Message):
    """What a run did."""

    wave: str
    """``network/<name>``, as the ledger calls the run."""
    network: str
    mode: str
    cutover: str = ""
    state: str = ""
    words: str = ""
    times: Mapping[str, str] = {}
    error: str = ""
    alert: str = ""
    """What somebody must know now, such as that nobody routes the network."""
    next_steps: tuple[str, ...] = ()
    stopped: str = ""
    unclean: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        return not (self.error or self.stopped)


def told(findings: Sequence[Finding]) -> str:
    """Findings in one line."""
    return "; ".join(f"{each.what}. {each.next_action}".rstrip(". ") for each in findings)


def changed(state: Any, by: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON column with more in it."""
    return {**(state or {}), **by}
