"""Import tasks. ImportImage makes one, and a thread of its own drives it."""

from __future__ import annotations

import math
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from wavelift.simulators.aws.ebs.snapshot import GIB, Snapshot
from wavelift.simulators.aws.ebs.store import EbsStore, NewSnapshot
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.faults import Rule
from wavelift.simulators.aws.invented import (
    CANCELLED_MESSAGE,
    DEVICE_NAMES,
    LIMIT_CODE,
    LIMIT_MESSAGE,
    PHASES,
    UNKNOWN_TASK_CODE,
    Phase,
)
from wavelift.simulators.aws.settings import Settings
from wavelift.simulators.aws.vmimport.convert import (
    Cancelled,
    ChangedRange,
    ImportFailed,
    change_blocks,
    check,
    data_blocks,
    gib,
    to_raw,
)
from wavelift.simulators.kit.clock import Clock

ACTIVE = "active"
COMPLETED = "completed"
DELETING = "deleting"
DELETED = "deleted"
HELD_POLL = 0.02
"""Seconds between looks whether a rule still holds a task back."""
END_SECONDS = 10.0
"""How long a cancelled task may take to end: it may be inside of qemu-img."""


@dataclass(slots=True)
class Disk:
    """One disk container of the request, and its results."""

    image_format: str
    description: str = ""
    bucket: str = ""
    key: str = ""
    snapshot_id: str = ""
    device: str = ""
    image_size: int = 0
    virtual_size: int = 0
    snapshot: Snapshot | None = None
    base: Snapshot | None = None
    changes: list[ChangedRange] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class ImportTask:
    id: str
    request: Mapping[str, Any]
    disks: list[Disk]
    tags: dict[str, str]
    started: float
    token: str = ""
    status: str = ACTIVE
    phase: Phase = PHASES[0]
    message: str = PHASES[0].message
    image_id: str = ""
    committed: bool = False
    cancel: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def active(self) -> bool:
        return self.status not in {COMPLETED, DELETED}


class Surroundings(Protocol):
    """What tasks need of the rest of the simulator."""

    def fault(self, phase: str, target: str) -> Rule | None:
        """The fault rule that applies to a task on ``target`` (a disk's object or snapshot) as it enters a phase."""

    def in_force(self, rule: Rule) -> bool:
        """Whether nobody has dropped the rule."""

    def staged(self, bucket: str, key: str) -> Path | None:
        """The bytes of an object as it is now; None: there is none."""

    def register_import(self, task: ImportTask) -> str: ...

    def keep_raw(self, task: ImportTask, number: int, raw: Path) -> None: ...

    def import_key_problem(self, task: ImportTask) -> str: ...


class ImportTasks:
    """Thread safe. A task's thread ends with the task; :meth:`close` ends all."""

    def __init__(
        self,
        folder: Path,
        *,
        store: EbsStore,
        clock: Clock,
        settings: Settings,
        surroundings: Surroundings,
    ) -> None:
        self._folder, self._store, self._clock = folder, store, clock
        self._settings, self._surroundings = settings, surroundings
        self._lock = threading.Lock()
        self._tasks: dict[str, ImportTask] = {}
        self._workers = threading.BoundedSemaphore(settings.import_workers)
        folder.mkdir(parents=True)

    def submit(self, request: Mapping[str, Any], disks: list[Disk], *, tags: dict[str, str], token: str) -> ImportTask:
        """Make a task, or return the one of the same token. Raises ImportImage's errors."""
        with self._lock:
            if known := next((task for task in self._tasks.values() if token and task.token == token), None):
                if known.request != request:
                    raise AwsError(
                        "IdempotentParameterMismatch", "The client token was used with other parameters", 400
                    )
                return known
            if sum(task.active for task in self._tasks.values()) >= self._settings.import_limit:
                raise AwsError(LIMIT_CODE, LIMIT_MESSAGE.format(limit=self._settings.import_limit), 400)
            for disk, device in zip(disks, DEVICE_NAMES, strict=False):
                disk.device = device
            task = ImportTask(f"import-ami-0{uuid.uuid4().hex[:16]}", request, disks, tags, self._clock.now(), token)
            self._tasks[task.id] = task
        threading.Thread(target=self._run, args=(task,), name=task.id, daemon=True).start()
        return task

    def all(self) -> list[ImportTask]:
        with self._lock:
            return list(self._tasks.values())

    def find(self, task_id: str, *, started_by: float = math.inf) -> ImportTask:
        """Raises AwsError for a task that does not exist, or that is too new to be shown."""
        with self._lock:
            task = self._tasks.get(task_id)
        if task is None or task.started > started_by:
            raise AwsError(UNKNOWN_TASK_CODE, f"The import task ID '{task_id}' does not exist", 400)
        return task

    def cancel(self, task_id: str) -> tuple[str, str]:
        """Returns the previous state and the state. A task that has ended can't be cancelled."""
        task = self.find(task_id)
        with self._lock:
            previous = task.status
            if not task.active or task.committed:
                raise AwsError(
                    "IncorrectState", f"The import task {task_id} is {previous} and cannot be cancelled", 400
                )
            task.status, task.message = DELETING, CANCELLED_MESSAGE
            task.cancel.set()
        return previous, DELETING

    def close(self) -> None:
        """Cancel all tasks and wait for their threads. Raises TimeoutError if one does not end."""
        for task in self.all():
            task.cancel.set()
        for task in self.all():
            if not task.ended.wait(END_SECONDS):
                raise TimeoutError(f"{task.id} did not end within {END_SECONDS:.0f} s")

    # the life of one

    def _run(self, task: ImportTask) -> None:
        steps: dict[str, Callable[[ImportTask], None]] = {
            "validating": self._validate,
            "converting": self._convert,
        }
        try:
            for phase in PHASES:
                self._enter(task, phase)
                if (step := steps.get(phase.message)) is not None:
                    step(task)
                self._dwell(task)
            self._commit(task)
            task.image_id = self._surroundings.register_import(task)
            self._end(task, COMPLETED, "")
        except Cancelled:
            self._undo(task)
            self._end(task, DELETED, CANCELLED_MESSAGE)
        except ImportFailed as failure:
            self._undo(task)
            self._end(task, DELETED, str(failure))
        except Exception:
            self._undo(task)
            self._end(task, DELETED, "ServerError: an internal error has occurred during conversion.")
            raise
        finally:
            task.ended.set()

    def _enter(self, task: ImportTask, phase: Phase) -> None:
        with self._lock:
            if task.cancel.is_set():
                raise Cancelled
            task.phase, task.message = phase, phase.message
        for disk in task.disks:
            target = f"{disk.bucket}/{disk.key}" if disk.bucket else disk.snapshot_id
            rule = self._surroundings.fault(phase.message, target)
            if rule is None:
                continue
            if rule.outcome == "stuck":
                task.cancel.wait()
                raise Cancelled
            if rule.outcome == "held":
                while self._surroundings.in_force(rule):
                    if task.cancel.wait(HELD_POLL):
                        raise Cancelled
                continue
            raise ImportFailed(rule.message or "ClientError: Unable to determine platform.")

    def _dwell(self, task: ImportTask) -> None:
        if task.cancel.wait(self._settings.phase_seconds):
            raise Cancelled

    def _end(self, task: ImportTask, status: str, message: str) -> None:
        with self._lock:
            task.status, task.message = status, message

    def _validate(self, task: ImportTask) -> None:
        if problem := self._surroundings.import_key_problem(task):
            raise ImportFailed(problem)
        for number, disk in enumerate(task.disks):
            if not disk.snapshot_id:
                with self._fetched(task, number, disk) as path:
                    check(path, disk.image_format)

    @contextmanager
    def _fetched(self, task: ImportTask, number: int, disk: Disk) -> Iterator[Path]:
        """The object as it is at this moment: AWS reads it when the work begins, not when the task is submitted."""
        path = self._folder / f"{task.id}-{number}.object"
        stored = self._surroundings.staged(disk.bucket, disk.key)
        try:
            if stored is None:
                raise FileNotFoundError(disk.key)
            os.link(stored, path)  # one that is replaced meanwhile is read to its end
        except FileNotFoundError as error:
            raise ImportFailed("ClientError: Disk validation failed [The S3 object is gone]") from error
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _convert(self, task: ImportTask) -> None:
        while not self._workers.acquire(timeout=0.1):
            if task.cancel.is_set():
                raise Cancelled
        try:
            for number, disk in enumerate(task.disks):
                self._convert_disk(task, number, disk)
        finally:
            self._workers.release()

    def _convert_disk(self, task: ImportTask, number: int, disk: Disk) -> None:
        parent = self._base(task, number, disk)
        disk.snapshot = self._store.create(
            NewSnapshot(
                size=parent.size,
                parent=parent,
                description=f"Created by AWS-VMImport service for {task.id}",
                encrypted=bool(task.request.get("Encrypted")) or parent.encrypted,
                kms_key=str(task.request.get("KmsKeyId") or ""),
                origin=task.id,
            )
        )
        if self._settings.change_data_disks if number else self._settings.change_boot_disk:
            disk.changes = list(change_blocks(disk.snapshot, seed=task.id, size=disk.virtual_size))

    def _base(self, task: ImportTask, number: int, disk: Disk) -> Snapshot:
        """The parent of the new snapshot: the caller's own snapshot, or a hidden one of the disk as uploaded."""
        if disk.snapshot_id:
            given = self._store.readable(disk.snapshot_id)
            disk.image_size = disk.virtual_size = given.size * GIB
            return given
        raw = self._folder / f"{task.id}-{number}.raw"
        try:
            with self._fetched(task, number, disk) as path:
                disk.virtual_size = to_raw(path, disk.image_format, raw, task.cancel.is_set)
                disk.image_size = path.stat().st_size
            self._surroundings.keep_raw(task, number, raw)
            disk.base = self._store.create(
                NewSnapshot(size=gib(disk.virtual_size), hidden=True, origin=task.id), body=raw
            )
        finally:
            raw.unlink(missing_ok=True)
        disk.base.present.update(data_blocks(disk.base.path))
        return disk.base

    def _commit(self, task: ImportTask) -> None:
        """After this, the task can't be cancelled any more."""
        with self._lock:
            if task.cancel.is_set():
                raise Cancelled
            task.committed = True
        for disk in task.disks:
            for made in (disk.base, disk.snapshot):
                if made is not None:
                    self._store.finish(made)

    def _undo(self, task: ImportTask) -> None:
        """Delete the snapshots of a failed import."""
        for disk in task.disks:
            for made in (disk.snapshot, disk.base):
                if made is not None:
                    self._store.discard(made)
