"""One try of one task as a process of its own: what it does comes as JSON on standard input, secrets included.

With ``--nursery`` each line of standard input is such an order: it is done by a fork, so that a process costs no start
of an interpreter. Its process id is printed at once, its answer goes to the file that the order names.

Its checkpoints lie in a file that outlives it and belongs to the newest try: an older one is told so by
:class:`~wavelift.base.errors.FencedError`, as Airflow's task state store does. The result is one line of JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
from tests.contexts import run_context

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.base.domain import ExportResult, ImportResult, Message, VerifyResult
from wavelift.base.errors import FencedError, WaveliftError
from wavelift.base.run import DagRun, Progress
from wavelift.base.units import KIB
from wavelift.ledger import Ledger
from wavelift.services.dataplane.conversion import compare_image
from wavelift.services.dataplane.disk_crew import FrozenServer
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
from wavelift.services.dataplane.snapshot import take_snapshot
from wavelift.services.dataplane.snapshot_removal import remove_snapshot
from wavelift.services.dataplane.transfer import export_server
from wavelift.services.dataplane.verify import verify_server
from wavelift.services.migration.image import ImportDone, Staged, advance_import, record_image
from wavelift.services.migration.launch import launch


class FileStore:
    """Checkpoints of one task in a file; made by a try, which owns them from then on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._locked() as content:
            content["owner"] = self._owner = content.get("owner", 0) + 1

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        with self._path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = json.loads(file.read() or '{"values": {}}')
            if content.get("owner", 0) != getattr(self, "_owner", content.get("owner", 0)):
                raise FencedError("another try of this task owns the work now")
            yield content
            file.truncate(0)
            file.write(json.dumps(content))

    def get(self, key: str) -> Any | None:
        with self._locked() as content:
            return content["values"].get(key)

    def set(self, key: str, value: Any) -> None:
        with self._locked() as content:
            content["values"][key] = value

    def delete(self, key: str) -> None:
        with self._locked() as content:
            content["values"].pop(key, None)


class Try:
    """What standard input asks for."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.task = ServerTask.load(order["task"])
        store = FileStore(Path(order["store"]))

        def beat(progress: Progress) -> None:
            store.set("progress", {"disk": progress.disk, "done": progress.done})

        dag_id, dag_run_id, server = order["run_key"].split("/", 2)
        self.ctx = run_context(DagRun(dag_id, dag_run_id), server, checkpoints=store, progress=beat)

    def run(self) -> Message | None:
        steps: dict[str, Callable[[], Message | None]] = {
            "snapshot": lambda: self.near(lambda session: take_snapshot(session, self.task, self.ctx)),
            "export": lambda: self.near(self.export),
            "remove": lambda: self.near(self.remove),
            "verify": lambda: verify_server(self.access(), self.task, self.exported(), self.ctx),
            "import": self.import_image,
            "launch": self.launch,
        }
        return steps[self.order["phase"]]()

    def near(self, call: Callable[[VsphereSession], Message | None]) -> Message | None:
        with connect(VsphereConfig(**self.order["vsphere"])) as session:
            return call(session)

    def access(self) -> AwsAccess:
        return AwsAccess(boto3.Session(**self.order["keys"]), **self.order["aws"])

    def exported(self) -> ExportResult:
        return ExportResult.load(self.order["export"])

    def export(self, session: VsphereSession) -> Message:
        source = FrozenServer(session, self.task, TakenSnapshot.load(self.order["snapshot"]))
        return export_server(source, self.access(), self.ctx)

    def remove(self, session: VsphereSession) -> None:
        remove_snapshot(session, self.access, self.task, self.ctx)

    def import_image(self) -> Message | None:
        with Ledger.open(self.order["ledger"]) as ledger:
            staged = Staged(self.task, self.exported(), VerifyResult.load(self.order["verified"]))
            found = advance_import(ledger, self.access(), staged, self.ctx, limit=5)
        if not isinstance(found, ImportDone):
            return None
        image = compare_image(self.access(), self.task, self.exported(), found.result, self.ctx)
        with Ledger.open(self.order["ledger"]) as ledger:
            record_image(ledger, self.access(), self.task, image, self.ctx)
        return image

    def launch(self) -> Message:
        with Ledger.open(self.order["ledger"]) as ledger:
            return launch(ledger, self.access(), self.task, ImportResult.load(self.order["image"]), self.ctx)


def memory(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * KIB for line in lines if line.startswith(f"{field}:"))


def answer_to(order: dict[str, Any]) -> str:
    answer: dict[str, Any]
    try:
        once = Try(order)
        idle = memory("VmRSS")
        result = once.run()
        answer = {"result": result.dump() if result is not None else None, "idle": idle, "most": memory("VmHWM")}
    except WaveliftError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    return json.dumps(answer)


def nursery() -> None:
    """Has no thread and no connection of its own, so nothing is shared by the forks."""
    for line in sys.stdin:
        order = json.loads(line)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                """One that has ended, however."""
        if child := os.fork():
            print(child, flush=True)
            continue
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 1)
        code = 1
        try:
            place = Path(order["answer"])
            place.with_suffix(".part").write_text(answer_to(order))
            place.with_suffix(".part").rename(place)
            code = 0
        finally:
            os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:] == ["--nursery"]:
        nursery()
    else:
        print(answer_to(json.load(sys.stdin)), flush=True)
