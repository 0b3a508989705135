"""The JSON messages between the tasks of a network cutover."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import Field

from wavelift.base.domain import Finding, Instant, Message
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.network import NetworkSpec, Probe

StepName = Literal["source", "extension", "destination"]
"""As :data:`wavelift.rules.network_cutover.STEPS`."""
Direction = Literal["forward", "back"]
NOTHING: Final = "none"
"""In place of a job's id: HCX refused, or its job ended without success."""
JOB_KEY: Final = "job"
"""XCom of the acting task: HCX's job, as soon as it is known, also if the task fails then."""


class NetworkPlace(Message):
    """The network with its environment, as ``admit`` froze them for the run: enough to reach both sides."""

    network: NetworkSpec
    environment: HcxEnvironment

    @property
    def digest(self) -> str:
        """SHA-256, hex. Look grants name it."""
        return digest_of(self.dump())


class LookOrder(Message):
    """What ``admit`` lets the queue read."""

    place: NetworkPlace
    mode: str
    extension: Mapping[str, Any] | None = None
    """In mode finish: the extension as the cutover recorded it. None: find it by the source network."""
    token: str = Field(default="", repr=False)
    """The grant, a credential: Airflow masks a field of this name."""


class Occupant(Message):
    """A network card on the source network: of a running VM, one that is off, or a template."""

    vm: str
    path: str = ""
    power: str = ""
    template: bool = False
    mac: str = ""
    excepted: bool = False


class Looked(Message):
    """Both sides at one instant.

    The three states are those of the steps (:mod:`wavelift.services.dataplane.steps.network`): what a step reads, and
    what its undo restores.
    """

    network: str
    source: Any = None
    """State of the source side."""
    extension: Any = None
    """State of the extension; None: it is not extended."""
    extension_id: str = ""
    destination: Any = None
    """State of the destination's segment; None: there is none."""
    records: Mapping[str, Any] = {}
    """The whole objects as the vendors gave them: ``source_segment``, ``extension``, ``destination_segment``."""
    occupants: tuple[Occupant, ...] = ()
    findings: tuple[Finding, ...] = ()
    ports: int | None = None
    """Of the source segment, if it is one of NSX."""
    at: Instant


class NetworkOrder(Message):
    """One change that the control plane wrote down and permits: bring one place from ``before`` to ``wanted``, or back.

    :param answered: in the way of ``by: person``: who said that it is done. The queue changes nothing then.
    """

    cutover: str
    place: NetworkPlace
    step: StepName
    direction: Direction
    before: Any
    wanted: Any
    befores: Mapping[StepName, Any] = {}
    """The state of every place as it was recorded before the first write: on the way back each step sees to it that
    those before it hold."""
    records: Mapping[str, Any] = {}
    """The whole objects, recorded at the same instant."""
    extension_id: str = ""
    source_word: str = ""
    """Who said that the source network is disconnected, where nothing can read it. Empty: read it, or nobody did."""
    answered: str = ""
    asked_at: Instant | None = None
    """Direction back: when the end of the extension was ordered, if that may have been asked of HCX. Nobody routes
    until it is certain that nothing of it comes late."""
    job: str = ""
    """HCX's job of that, if it is known; :data:`NOTHING` if HCX certainly does nothing any more."""
    digest: str
    """Of the plan."""
    clear_number: int = 0
    """Of the DAG run when the order was given. After a clear it is void."""
    token: str = Field(default="", repr=False)

    @property
    def bound(self) -> str:
        """SHA-256, hex, of what is ordered. The grant names it."""
        told = [self.cutover, self.place.dump(), self.step, self.direction, self.before, self.wanted]
        told += [dict(self.befores), dict(self.records), self.extension_id, self.source_word, self.answered, self.job]
        told += [self.asked_at.isoformat() if self.asked_at else "", self.digest, self.clear_number]
        return digest_of(told)


class Acted(Message):
    """What the queue found or made. The next task of the control plane compares it with its order.

    :param changed: this call, or an earlier one of the same order, wrote. :param state: the place now.
    :param note: what people must know, such as a gateway that HCX left disconnected and that was connected then.
    """

    cutover: str
    step: StepName
    direction: Direction
    state: Any
    changed: bool
    extension_id: str = ""
    """Of an extension that was made again."""
    note: str = ""
    job: str = ""
    at: Instant
    read_back: bool = True
    """False: nothing could read it, and a person's word stands for it."""


class ProbeOrder(Message):
    """What the probing queue asks."""

    cutover: str
    network: str
    checks: tuple[Probe, ...]
    since: Instant


class Probed(Message):
    """All checks passed."""

    cutover: str
    passed: tuple[str, ...]
    """In words."""
    at: Instant


class FinishOrder(Message):
    """The way back is given up: delete the source network, rename the destination's segment."""

    cutover: str
    place: NetworkPlace
    records: Mapping[str, Any]
    destination: Any
    """The state that the destination's segment must have: it routes the network."""
    digest: str
    clear_number: int = 0
    token: str = Field(default="", repr=False)

    @property
    def bound(self) -> str:
        """SHA-256, hex, of what is ordered. The grant names it."""
        told = [self.cutover, self.place.dump(), dict(self.records), self.destination, self.digest, self.clear_number]
        return digest_of(told)


class Finished(Message):
    """What was deleted and renamed, in words; also what stays for people to do."""

    cutover: str
    deleted: bool
    renamed: str = ""
    notes: tuple[str, ...] = ()
    at: Instant


def digest_of(told: Sequence[Any] | Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
