"""Export tasks. CreateInstanceExportTask or ExportImage makes one, and a thread of its own drives it."""

from __future__ import annotations

import contextlib
import math
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.faults import Rule
from wavelift.simulators.aws.invented import (
    ALREADY_EXPORTED_CODE,
    ALREADY_EXPORTED_MESSAGE,
    CANCELLED_MESSAGE,
    EXPORT_LIMIT_CODE,
    EXPORT_LIMIT_MESSAGE,
    EXPORT_PHASES,
    FINAL_STAGE_MESSAGE,
    NOT_CANCELLED_MESSAGE,
    UNKNOWN_EXPORT_CODE,
    Phase,
)
from wavelift.simulators.aws.s3.encryption import ALGORITHM
from wavelift.simulators.aws.s3.store import ClaimedPart, ObjectInfo, S3Store, StoredObject, Upload
from wavelift.simulators.aws.settings import Settings
from wavelift.simulators.aws.vmexport.produce import Cancelled, ExportFailed, convert, write_ova
from wavelift.simulators.kit.clock import Clock

Kind = Literal["instance", "image"]
ACTIVE: Final = "active"
COMPLETED: Final = "completed"
ENDING: Final = {"instance": "cancelling", "image": "deleting"}
ENDED: Final = {"instance": "cancelled", "image": "deleted"}
"""The states of EC2's service model, and those that the user guide names for ExportImage. A failure ends like a cancel,
with another StatusMessage."""
PREFIXES: Final = {"instance": "export-i", "image": "export-ami"}
LAST: Final = EXPORT_PHASES[-1]
HELD_POLL: Final = 0.02
"""Seconds between looks whether a rule still holds a task back."""
END_SECONDS: Final = 10.0
"""How long a cancelled task may take to end: it may be inside of qemu-img."""


@dataclass(frozen=True, slots=True)
class NewExport:
    """What a call asked for. ``source`` is the id of the instance or image; ``container`` is "ova" or nothing."""

    kind: Kind
    source: str
    request: Mapping[str, Any]
    bucket: str
    prefix: str
    image_format: str
    container: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    token: str = ""


@dataclass(slots=True, eq=False)
class ExportTask:
    id: str
    new: NewExport
    started: float
    status: str = ACTIVE
    phase: Phase = EXPORT_PHASES[0]
    message: str = EXPORT_PHASES[0].message
    committed: bool = False
    rebooted: bool = False
    ended_at: float | None = None
    raw: Path | None = None
    output: Path | None = None
    upload: Upload | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def active(self) -> bool:
        return self.status in {ACTIVE, ENDING[self.new.kind]}

    @property
    def key(self) -> str:
        """User guide: "the S3 key specified using the following format: prefixexport-i-xxxxxxxxxxxxxxxxx.format"."""
        return f"{self.new.prefix}{self.id}.{self.new.container or self.new.image_format.lower()}"


class Surroundings(Protocol):
    """What tasks need of the rest of the simulator."""

    def fault(self, phase: str, task: ExportTask) -> Rule | None: ...

    def in_force(self, rule: Rule) -> bool: ...

    def take(self, task: ExportTask, raw: Path) -> None:
        """Write the source's disk as it is at this instant. Raises ExportFailed."""

    def check_place(self, task: ExportTask) -> None:
        """Raises AwsError if the task may not write where it was told to."""

    def object_done(self, bucket: str, stored: StoredObject, *, multipart: bool) -> None: ...

    def keep_export(self, task: ExportTask) -> None: ...


class ExportTasks:
    """Thread safe. A task's thread ends with the task; :meth:`close` ends all. ``surroundings`` is set before the
    first task."""

    surroundings: Surroundings

    def __init__(self, folder: Path, *, s3: S3Store, clock: Clock, settings: Settings) -> None:
        self._folder, self._s3, self._clock, self._settings = folder, s3, clock, settings
        self._lock = threading.Lock()
        self._tasks: dict[str, ExportTask] = {}
        self._workers = threading.BoundedSemaphore(settings.import_workers)
        folder.mkdir(parents=True)

    def repeated(self, new: NewExport) -> ExportTask | None:
        """The task of the same client token. Raises AwsError if its request was another."""
        with self._lock:
            known = next((one for one in self._tasks.values() if new.token and one.new.token == new.token), None)
        if known is not None and known.new.request != new.request:
            raise AwsError("IdempotentParameterMismatch", "The client token was used with other parameters", 400)
        return known

    def submit(self, new: NewExport) -> ExportTask:
        """Make a task. Raises the call's errors."""
        other = self._settings.other_words
        with self._lock:
            self._forget()
            active = [one for one in self._tasks.values() if one.active]
            if any(one.new.source == new.source for one in active):
                code, text = ALREADY_EXPORTED_CODE.said(other_words=other), ALREADY_EXPORTED_MESSAGE
                raise AwsError(code, text.format(source=new.source), 400)
            if len(active) >= self._settings.export_limit:
                code, text = EXPORT_LIMIT_CODE, EXPORT_LIMIT_MESSAGE
                raise AwsError(code, text.format(limit=self._settings.export_limit), 400)
            task = ExportTask(f"{PREFIXES[new.kind]}-0{uuid.uuid4().hex[:16]}", new, self._clock.now())
            self._tasks[task.id] = task
        threading.Thread(target=self._run, args=(task,), name=task.id, daemon=True).start()
        return task

    def _forget(self) -> None:
        """AWS shows a task for some time after its end."""
        now, kept = self._clock.now(), self._settings.export_memory_seconds
        gone = [one.id for one in self._tasks.values() if one.ended_at is not None and one.ended_at + kept <= now]
        for name in gone:
            del self._tasks[name]

    def all(self, kind: Kind | None = None, *, started_by: float = math.inf) -> list[ExportTask]:
        with self._lock:
            self._forget()
            found = list(self._tasks.values())
        return [one for one in found if kind in (None, one.new.kind) and one.started <= started_by]

    def find(self, task_id: str, kind: Kind | None = None, *, started_by: float = math.inf) -> ExportTask:
        """Raises AwsError for a task that does not exist, that is forgotten, or that is too new to be shown."""
        found = next((one for one in self.all(kind, started_by=started_by) if one.id == task_id), None)
        if found is None:
            raise AwsError(UNKNOWN_EXPORT_CODE, f"The export task ID '{task_id}' does not exist", 400)
        return found

    def cancel(self, task_id: str) -> None:
        """User guide: "If the export task is complete or is in the process of transferring the final disk image, the
        command fails and returns an error"."""
        task = self.find(task_id)
        with self._lock:
            if not task.active:
                text = NOT_CANCELLED_MESSAGE.format(task=task_id, status=task.status)
                raise AwsError("IncorrectState", text, 400)
            if task.committed:
                raise AwsError("IncorrectState", FINAL_STAGE_MESSAGE.format(task=task_id), 400)
            task.status, task.message = ENDING[task.new.kind], CANCELLED_MESSAGE
            task.cancel.set()

    def close(self) -> None:
        """Cancel all tasks and wait for their threads. Raises TimeoutError if one does not end."""
        with self._lock:
            tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel.set()
        for task in tasks:
            if not task.ended.wait(END_SECONDS):
                raise TimeoutError(f"{task.id} did not end within {END_SECONDS:.0f} s")

    # the life of one

    def _run(self, task: ExportTask) -> None:
        steps: dict[str, Callable[[ExportTask], None]] = {
            "preparing": self._prepare,
            "converting": self._convert,
            "uploading": self._upload,
        }
        try:
            for phase in EXPORT_PHASES:
                self._enter(task, phase)
                if (step := steps.get(phase.message)) is not None:
                    step(task)
                self._dwell(task)
            self._complete(task)
            self._end(task, COMPLETED, "")
        except Cancelled:
            self._undo(task, CANCELLED_MESSAGE)
        except ExportFailed as failure:
            self._undo(task, str(failure))
        except Exception:
            self._undo(task, "ServerError: an internal error has occurred during conversion.")
            raise
        finally:
            for path in (task.raw, task.output):
                if path is not None:
                    path.unlink(missing_ok=True)
            task.ended.set()

    def _enter(self, task: ExportTask, phase: Phase) -> None:
        with self._lock:
            if task.cancel.is_set():
                raise Cancelled
            task.phase, task.message = phase, phase.message
            task.committed = phase is LAST
        rule = self.surroundings.fault(phase.message, task)
        if rule is None:
            return
        if rule.outcome == "stuck":
            task.cancel.wait()
            raise Cancelled
        if rule.outcome == "held":
            while self.surroundings.in_force(rule):
                if task.cancel.wait(HELD_POLL):
                    raise Cancelled
            return
        raise ExportFailed(rule.message or "ClientError: Unable to determine platform.")

    def _dwell(self, task: ExportTask) -> None:
        if task.cancel.wait(self._settings.phase_seconds):
            raise Cancelled

    def _end(self, task: ExportTask, status: str, message: str) -> None:
        with self._lock:
            task.status, task.message, task.ended_at = status, message, self._clock.now()

    def _prepare(self, task: ExportTask) -> None:
        task.raw = self._folder / f"{task.id}.raw"
        self.surroundings.take(task, task.raw)

    def _convert(self, task: ExportTask) -> None:
        assert task.raw is not None
        while not self._workers.acquire(timeout=0.1):
            if task.cancel.is_set():
                raise Cancelled
        disk = self._folder / f"{task.id}.disk"
        try:
            convert(task.raw, task.new.image_format, disk, task.cancel.is_set)
            task.output = disk
            if task.new.container:
                task.output = self._folder / f"{task.id}.ova"
                write_ova(task.output, task.id, disk, task.raw.stat().st_size)
        finally:
            self._workers.release()
            if task.output != disk:
                disk.unlink(missing_ok=True)

    def _upload(self, task: ExportTask) -> None:
        """The object's only part: what a cancel leaves must be removed, as after an upload of many parts."""
        assert task.output is not None
        self._check_place(task)
        info = ObjectInfo(headers={ALGORITHM: "AES256"})
        try:
            task.upload = self._s3.create_upload(task.new.bucket, task.key, info=info, algorithm="", checksum_type="")
            self._s3.put_part(task.upload, 1, task.output, etag=uuid.uuid4().hex, checksums={})
        except AwsError as error:
            raise ExportFailed(f"ClientError: {error.message}") from error

    def _complete(self, task: ExportTask) -> None:
        assert task.upload is not None
        self._check_place(task)
        try:
            claimed = [ClaimedPart(1, task.upload.parts[1].etag, {})]
            stored = self._s3.complete(task.upload, claimed)
        except (AwsError, KeyError) as error:
            raise ExportFailed("ClientError: The object could not be written") from error
        task.upload = None
        self.surroundings.keep_export(task)
        self.surroundings.object_done(task.new.bucket, stored, multipart=True)

    def _check_place(self, task: ExportTask) -> None:
        try:
            self.surroundings.check_place(task)
        except AwsError as error:
            raise ExportFailed(f"ClientError: {error.message}") from error

    def _undo(self, task: ExportTask, message: str) -> None:
        """User guide: a cancel "removes all artifacts of the export, including any partially-created S3 objects"."""
        if task.upload is not None:
            with contextlib.suppress(AwsError):  # gone with its bucket, or aborted by the owner
                self._s3.abort(task.upload)
        self._end(task, ENDED[task.new.kind], message)
