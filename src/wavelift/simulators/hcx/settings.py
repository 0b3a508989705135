"""What a test may set: durations, limits and behaviour. ``POST /_sim/settings`` changes them at run time."""

from __future__ import annotations

from dataclasses import dataclass

from wavelift.simulators.kit import settings


@dataclass(slots=True)
class Settings(settings.Settings):
    """Times are seconds of the simulator's clock."""

    token_seconds: float = 1800.0
    """Life of a session's token. HCX's is not documented."""
    login_status: int = 200
    """200, or 202 as the Terraform provider accepts too."""
    xml_login_errors: bool = True
    """A refused login is answered in XML."""
    starting: bool = False
    """The manager is still starting: each login fails, in XML."""
    tick_seconds: float = 0.1
    """Machine time between two looks at what is due, with no call. 0, at the start: only calls look."""

    prepare_seconds: float = 0.1
    base_sync_seconds: float = 0.2
    switchover_seconds: float = 0.2
    cancel_seconds: float = 0.0
    """From an accepted forceCancel to the end of the migration."""
    mesh_limit: int = 200
    """Bulk and RAV migrations of the service mesh at once; more wait."""
    manager_limit: int = 300
    """All migrations of the manager at once; more wait."""

    flags: str = "documented"
    """``documented``: most flags are integers; ``booleans`` or ``integers``: all are."""
    absent_when_false: bool = False
    """Leave out each flag that would be false or 0."""
    absent_every: int = 0
    """Every n-th query leaves out ``progress.state`` and ``progress.total``; 0: none does."""
    times_as_text: bool = False
    """Times of migrations are texts."""
    total_as_text: bool = False
    """``progress.total`` is a text, as the schema's page has it."""
    drafts_listed: bool = False
    """The query of migrations also lists those of a group that was not started."""
    warnings_status: int = 202
    """Status of a validation that has only warnings: 202, or 400 as one client has seen."""
    created_status: int = 202
    """Status of a new group: 201 or 202."""
    duplicate_status: int = 400
    """Status of a new group whose name exists: not documented."""
    inventory_ids: str = "both"
    """The key of an item's id in inventories: ``id``, ``entity_id`` or ``both``."""
    inventory_page: int = 0
    """Items in one page of virtual machines, however many more are asked for; 0: as many as are asked for."""

    extensions: str = "both"
    """Which calls extend and unextend: ``l2`` (with a job), ``network`` (without) or ``both``."""
    extend_seconds: float = 0.2
    unextend_seconds: float = 0.2
    job_polls: int = 2
    """Reads of a job that show it as running, however late they come."""
    unextend_fails: str = ""
    """The job of an unextend ends with ``didFail``: ``kept``, the extension stays; ``gone``, it is removed even so, and
    the destination stays OFF. Without a job, only the extension shows it."""
    job_end: str = "didFail"
    """What a job that fails says: ``didFail``, ``isCancelled`` or ``isRolledBack``."""
    destination_stays_off: bool = False
    """An unextend that is asked to connect the destination leaves it OFF."""
    extension_lingers_seconds: float = 0.0
    """How much longer than its job a removed extension is listed."""
    extensions_per_appliance: int = 9
