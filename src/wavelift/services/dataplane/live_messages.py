"""The JSON messages between the tasks of a live migration with HCX. They are small, and each one names its server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from wavelift.base.domain import Finding, Instant, Message
from wavelift.rules.conf import LiveMode
from wavelift.rules.hcx_wave import MigrationType
from wavelift.rules.live_plans import ResolvedLive


class AdmittedLive(Message):
    """What the admission of a run decided.

    In mode cancel the order to cancel lies beside it, in an XCom of its own.
    """

    wave: ResolvedLive
    """With the window and the servers of this run."""
    mode: LiveMode
    requested_by: str
    migrations: Mapping[str, str] = {}
    """Server → id in the ledger. Empty in mode plan."""
    token: str = Field(default="", repr=False)
    """Of the pre-flight."""


class SiteRef(Message):
    """One side of a migration, as HCX's inventory names it."""

    endpoint_id: str
    endpoint_name: str
    endpoint_type: str = "VC"
    resource_id: str
    resource_name: str = ""
    resource_type: str = "VC"


class PlaceRef(Message):
    """Something at the destination, by id and name. ``type`` is HCX's word: ``resourcePool``, ``NsxtSegment``."""

    id: str
    name: str
    type: str


class CardMove(Message):
    """One network card: where it is, and where it goes."""

    mac: str
    source: PlaceRef
    destination: PlaceRef
    connected: bool = False
    """Whether it was connected when pre-flight looked. Always false while the VM is off."""


class VmBefore(Message):
    """The VM at the source as pre-flight found it: what the verification compares with."""

    instance_uuid: str
    moref: str
    path: str
    powered_on: bool
    macs: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    """Of its guest. Empty: VMware Tools did not tell."""
    tools_running: bool = False
    hardware_version: int = 0
    snapshots: bool = False
    iso: bool = False


class LiveTask(Message):
    """One server, with everything resolved to ids. What ``plan`` shows, ``reserve`` stores and ``start`` orders."""

    name: str
    type: MigrationType
    entity_id: str
    entity_name: str
    summary: Mapping[str, object] = {}
    """What HCX's inventory says of the VM, sent back unchanged."""
    before: VmBefore
    source: SiteRef
    destination: SiteRef
    mesh_id: str
    placement: tuple[PlaceRef, ...]
    storage: PlaceRef
    provision: str = "same"
    cards: tuple[CardMove, ...]
    options: Mapping[str, bool] = {}
    """The fields of :class:`~wavelift.rules.hcx_wave.LiveOptions`."""


class LiveReport(Message):
    """What pre-flight found."""

    wave: str
    manager: str
    """The Airflow connection of HCX."""
    tasks: tuple[LiveTask, ...]
    """Servers that could be resolved, also those with errors among the findings."""
    findings: tuple[Finding, ...] = ()
    at: Instant


class LiveOrder(Message):
    """What ``reserve`` permits the queue to do: validate and start these servers as one group, once."""

    wave: str
    manager: str
    group_name: str
    """Of the run hash: HCX has no client token, and refuses a second group of one name."""
    tasks: tuple[LiveTask, ...]
    dropped: tuple[str, ...] = ()
    """Servers that an earlier order of this name had, and this one has not: they were cancelled since. A group that was
    made for them, too, must not be started."""
    window_start: Instant | None = None
    window_end: Instant | None = None
    accept_warnings: bool = False
    clear_number: int = 0
    """Of the DAG run when the order was given. After a clear it is void."""
    token: str = Field(default="", repr=False)
    """The grant, a credential: Airflow masks a field of this name."""

    @property
    def digest(self) -> str:
        """SHA-256, hex, of what is started, and how. The grant names it."""
        return _digest(self.model_dump(mode="json", exclude={"token", "clear_number"}))


def _digest(value: object) -> str:
    told = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()


class FollowOrder(Message):
    """Which migrations the queue follows, where the control plane does not reach HCX."""

    manager: str
    migrations: Mapping[str, str]
    """Server → migration id."""
    until: Instant
    """Then the time is over, however far HCX is."""
    token: str = Field(default="", repr=False)
    """A grant to look."""

    @property
    def digest(self) -> str:
        return _digest(self.model_dump(mode="json", exclude={"token"}))


class CancelOne(Message):
    """A server whose migration is to end before it is switched over."""

    server: str
    group_name: str
    """By it HCX is asked for what a lost answer did not tell."""
    entity_id: str
    group_id: str = ""
    migration_id: str = ""


class CancelOrder(Message):
    """What may be ended in HCX (``forceCancel``): only what has not begun to switch over."""

    wave: str
    manager: str
    servers: tuple[CancelOne, ...]
    clear_number: int = 0
    token: str = Field(default="", repr=False)

    @property
    def digest(self) -> str:
        return _digest(self.model_dump(mode="json", exclude={"token", "clear_number"}))


class CancelledOne(Message):
    """What became of it.

    :param outcome: ``cancelled``: HCX has ended it. ``asked``: HCX took the order, and has not ended it yet.
        ``absent``: HCX has no such migration, nor its group. ``too_late``: it switches over, or has. ``over``: it had
        ended by itself.
    """

    server: str
    outcome: Literal["cancelled", "asked", "absent", "too_late", "over"]
    words: str = ""


class Cancelled(Message):
    """All of an order."""

    servers: tuple[CancelledOne, ...]
    at: Instant


class Said(Message):
    """What HCX said of one server."""

    server: str
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Validated(Message):
    """HCX validated the order without an error; warnings were accepted."""

    group_name: str
    said: tuple[Said, ...] = ()


class StartedOne(Message):
    """One server that HCX migrates now. Without an id it was refused: the errors say why."""

    server: str
    migration_id: str = ""
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Started(Message):
    """The group is started."""

    group_name: str
    group_id: str
    servers: tuple[StartedOne, ...]
    at: Instant


class FollowedOne(Message):
    """How HCX is with one server, or how it ended.

    :param phase: of :class:`wavelift.adapters.hcx.phases.Phase`, as its value.
    :param word: HCX's own ``state``, for people.
    """

    server: str
    migration_id: str
    phase: str
    percent: int | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    words: str = ""
    error: str = ""
    word: str = ""


class Followed(Message):
    """All servers of a run, once HCX has ended with each, or the time is over."""

    servers: tuple[FollowedOne, ...]
    at: Instant


class VerifyOrder(Message):
    """One server that HCX says is complete: what must be found in both vCenters."""

    name: str
    """Of the server."""
    task: LiveTask
    accept_no_tools: bool = False


class FoundThere(Message):
    """What one vCenter says of a moved server."""

    server: str
    side: str
    """``destination`` or ``source``."""
    passed: bool
    verified: tuple[str, ...] = ()
    """What was compared and is as it should be, in words."""
    wrong: tuple[str, ...] = ()
    """What is not."""
    unverified: tuple[str, ...] = ()
    """What nobody could tell, such as the addresses of a guest without tools. It fails unless it is accepted."""
    instance_uuid: str = ""
    """Of the VM at the destination."""
    at: Instant
