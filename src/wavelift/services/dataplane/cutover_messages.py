"""The JSON messages between the tasks of a cutover run. They are small, and each one names its server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pydantic import Field

from wavelift.base.domain import Finding, Instant, Message
from wavelift.rules.conf import CutoverMode
from wavelift.rules.cutover import SourceBefore
from wavelift.rules.forecast import Forecast
from wavelift.rules.plans import ResolvedWave
from wavelift.services.dataplane.messages import AccountUse


class AdmittedCutover(Message):
    """What ``admit`` decided, over the spec that it froze for the run."""

    wave: ResolvedWave
    """Only the entries that may hold a chosen server. In modes revert and finalize, as the run that opened each cutover
    froze them."""
    mode: CutoverMode
    dag_id: str
    run_id: str
    requested_by: str
    servers: tuple[str, ...]
    """Names of the chosen servers."""
    cutovers: Mapping[str, str] = {}
    """Server → id of its cutover: that of this run in mode cutover, that to end in modes revert and finalize."""
    window_start: Instant | None = None
    window_end: Instant | None = None
    token: str = Field(default="", repr=False)
    """The grant of pre-flight, a credential: Airflow masks a field of this name."""
    account_use: AccountUse | None = None

    @property
    def granted(self) -> tuple[str, ...]:
        """The servers that pre-flight looks at."""
        return self.servers


class PlannedStep(Message):
    """One step of a server, in words."""

    name: str
    words: str
    undo_words: str


class PlannedServer(Message):
    """What a cutover of one server does, how long that takes, and what is in its way."""

    server: str
    cutover: str = ""
    """Id; empty: this run opens none."""
    tier: str = ""
    tier_index: int = 0
    steps: tuple[PlannedStep, ...] = ()
    """In mode prepare, what that does now."""
    forecast: Forecast | None = None
    """None: pre-flight did not find the server."""
    findings: tuple[Finding, ...] = ()
    goes: bool = True
    """False: something in its way is an error. The run leaves it alone."""


class PlannedCutover(Message):
    """What ``plan`` tells, in every mode."""

    wave: str
    mode: CutoverMode
    digest: str
    """SHA-256, hex, of the steps of the servers that go. Approvals name it."""
    servers: tuple[PlannedServer, ...]

    @property
    def going(self) -> tuple[str, ...]:
        return tuple(each.server for each in self.servers if each.goes)

    def lines(self) -> list[str]:
        """The plan for a log and for who approves it."""
        found = []
        for each in self.servers:
            tier = f", tier {each.tier}" if each.tier else ""
            left = "" if each.goes or self.mode == "prepare" else "is left alone"
            found.append(f"{each.server}{tier}: {left}".rstrip(": "))
            if each.forecast is not None:
                found.append(f"  downtime: {each.forecast.words()}")
            for place, step in enumerate(each.steps, start=1):
                found.append(f"  {place}. {step.words}")
                found.append(f"     back: {step.undo_words}")
            if self.mode == "prepare" and not each.steps:
                found.append("  nothing to prepare: it moves no record, and has no fixed address")
            for finding in each.findings:
                found.append(f"  {finding.severity}: {finding.what}. {finding.next_action}")
        return [*found, f"plan {self.digest[:12]} of {self.wave}: {', '.join(self.going) or 'no server'} can go"]


class SourceToStart(Message):
    """A source that may run again: its instance is stopped, and nothing leads to that any more."""

    server: str
    cutover: str
    environment: str
    before: SourceBefore
    """As the ledger has it: what is restored."""
    token: str = Field(default="", repr=False)
    """The grant, a credential: Airflow masks a field of this name."""

    @property
    def digest(self) -> str:
        """SHA-256 of what is to be restored, hex: the grant names it."""
        text = json.dumps(self.model_dump(mode="json", exclude={"token"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class StartedSource(Message):
    """How a source came back. With an ``error`` it did not, or not wholly."""

    server: str
    cutover: str
    powered_on: bool = False
    error: str = ""


class WatchedSource(Message):
    """A source that is to stay off."""

    server: str
    cutover: str
    connection: str
    vm: str
    """Managed object id."""


class SeenSource(Message):
    """What a look at a source showed. With an ``error`` it showed nothing."""

    server: str
    cutover: str
    on: bool = False
    connected: tuple[int, ...] = ()
    """Keys of network cards that a power-on or the guest connects, or that are connected."""
    error: str = ""

    @classmethod
    def unseen(cls, source: WatchedSource, error: Exception) -> SeenSource:
        """It could not be looked at."""
        return cls(server=source.server, cutover=source.cutover, error=str(error))

    @property
    def wrong(self) -> str:
        """What is wrong with it, in words; empty: nothing."""
        cards = f"its network cards {', '.join(map(str, self.connected))} are not fenced" if self.connected else ""
        return " and ".join(part for part in ("it is on" if self.on else "", cards) if part)
