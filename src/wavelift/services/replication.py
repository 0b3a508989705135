"""The control plane of replication in one place: jobs, admission of runs, and how runs end (SMS-03 to SMS-10)."""

from __future__ import annotations

from wavelift.services.replication_admission import (
    Admission,
    RefusedServer,
    admit_runs,
    continue_run,
    reserve_runs,
)
from wavelift.services.replication_deletion import Deletion, complete_deletion, delete_job
from wavelift.services.replication_jobs import (
    ChangeKind,
    JobChange,
    JobOrder,
    TermNotice,
    apply_wave,
    create_jobs,
    extend_job,
    pause_job,
    plan_changes,
    remember_server,
    resume_job,
    update_job,
    warn_terms,
)
from wavelift.services.replication_outcome import (
    cancel_run,
    complete_run,
    expired_amis,
    fail_run,
    mark_cancelled,
    quarantine_run,
    quarantine_tracking,
    record_ami_removed,
    record_run,
)

__all__ = [
    "Admission",
    "ChangeKind",
    "Deletion",
    "JobChange",
    "JobOrder",
    "RefusedServer",
    "TermNotice",
    "admit_runs",
    "apply_wave",
    "cancel_run",
    "complete_deletion",
    "complete_run",
    "continue_run",
    "create_jobs",
    "delete_job",
    "expired_amis",
    "extend_job",
    "fail_run",
    "mark_cancelled",
    "pause_job",
    "plan_changes",
    "quarantine_run",
    "quarantine_tracking",
    "record_ami_removed",
    "record_run",
    "remember_server",
    "reserve_runs",
    "resume_job",
    "update_job",
    "warn_terms",
]
