"""Records of live migrations with HCX and of network cutovers: frozen values. Times are in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from wavelift.ledger.records import OfDagRun
from wavelift.rules.flows import LIVE, NETWORK
from wavelift.rules.live import LiveState
from wavelift.rules.network_cutover import NetworkState


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMigration(OfDagRun):
    """One server's live migration in one DAG run. A retry is another row: HCX has another migration then."""

    flow: ClassVar = LIVE

    id: str
    run_key: str
    wave: str
    server: str
    environment: str
    state: LiveState
    phase: str
    """What HCX does now, for people."""
    percent: int
    bytes_done: int | None
    bytes_total: int | None
    kind: str
    """``rav``, ``bulk``, ``vmotion`` or ``cold``."""
    request_id: str
    requested_by: str
    requested_at: datetime
    note: str
    manager: str
    """The Airflow connection of the HCX manager."""
    mesh: str
    instance_uuid: str
    """Of the VM, at the source."""
    entity_id: str
    """HCX's id of the VM: its managed object id at the source."""
    group_name: str
    """Made of the run hash, and written down before HCX is asked for the group: a lost answer is found by it."""
    group_id: str
    migration_id: str
    window_start: datetime | None
    window_end: datetime | None
    plan_digest: str
    before: dict[str, Any] | None
    """The VM before, and where it shall go: what the verification compares with."""
    found: dict[str, Any] | None
    """What the verification found."""
    times: dict[str, str] | None
    error: str
    cancel_requested: bool
    updated_at: datetime
    finished_at: datetime | None
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCutover(OfDagRun):
    """One cutover of a network. The DAG run is the one that opened it; revert and finish are runs of their own."""

    flow: ClassVar = NETWORK

    id: str
    run_key: str
    network: str
    environment: str
    state: NetworkState
    phase: str
    """What it does now, for people."""
    request_id: str
    requested_by: str
    requested_at: datetime
    note: str
    prefix: str
    """``10.1.2.0/24``."""
    extension_id: str
    """HCX's id of the extension as it was recorded. One that is made again has another."""
    plan_digest: str
    """SHA-256, hex, of the plan. Approvals and orders name it."""
    plan: dict[str, Any] | None
    """What is in the way, the steps with their undo, and the exceptions."""
    before: dict[str, Any] | None
    """Both segments, the extension and the source's own state, as they were before the first write."""
    after: dict[str, Any] | None
    probes: dict[str, Any] | None
    times: dict[str, str] | None
    """Name of a moment → ISO 8601: ``going``, ``disconnected``, ``unextended``, ``connected``, ``probed``,
    ``switched``, ``isolated``, ``extended``, ``reconnected``, ``finished``."""
    revert_run: str
    finish_run: str
    error: str
    alert: str
    """What somebody must know: ``nobody routes 10.1.2.0/24``. Empty: nothing."""
    cancel_requested: bool
    soak_until: datetime | None
    """``finish`` is refused before."""
    updated_at: datetime
    finished_at: datetime | None
    version: int

    @property
    def server(self) -> str:
        """The name that errors and events show."""
        return self.network

    def moment(self, name: str) -> datetime | None:
        """When something happened; None: it has not."""
        text = (self.times or {}).get(name)
        return datetime.fromisoformat(text) if text else None
