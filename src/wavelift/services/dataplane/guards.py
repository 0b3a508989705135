"""Guards of a running transfer: a snapshot that fills a datastore is the way to hurt a customer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from wavelift.adapters.vsphere import hosts, inventory
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.errors import GuardError, WaveliftError
from wavelift.base.run import RunContext
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot

GUARD_SECONDS: Final = 20
"""A snapshot that grows at 100 MB/s takes 2 GB of a datastore between two looks."""


class TransferGuards:
    """Datastore room, age of the snapshot, and whether the VM stays where it was (SMS-14)."""

    def __init__(
        self,
        session: VsphereSession,
        task: ServerTask,
        snapshot: TakenSnapshot,
        ctx: RunContext,
        *,
        interval: float = GUARD_SECONDS,
    ) -> None:
        self._session = session
        self._task = task
        self._snapshot = snapshot
        self._ctx = ctx
        self._interval = interval
        self._host = ""

    def check(self) -> None:
        """:raises GuardError: when the transfer must not go on."""
        self._check_age()
        self._check_room()
        self._check_host()

    def _check_age(self) -> None:
        hours = self._task.plan.guards.max_snapshot_hours
        age = self._ctx.clock.now() - datetime.fromisoformat(self._snapshot.ref.created)
        if age > timedelta(hours=hours):
            raise GuardError(
                f"The snapshot is {age.total_seconds() / 3600:.1f} h old, max_snapshot_hours is {hours}",
                server=self._task.name,
                snapshot=self._snapshot.ref.name,
                next_step="Raise max_snapshot_hours in the wave's file, then run this server again",
            )

    def _check_room(self) -> None:
        wanted = self._task.plan.guards.min_free_pct
        names = {disk.datastore for disk in self._snapshot.disks}
        for store in hosts.datastore_facts(self._session, [self._task.facts.moref]).get(self._task.facts.moref, []):
            if store.name in names and store.free_pct < wanted:
                raise GuardError(
                    f"Datastore {store.name} has {store.free_pct:.1f} % free, min_free_pct is {wanted}",
                    server=self._task.name,
                    next_step="Make room on the datastore; the snapshot is removed when this task has given up",
                )

    def _check_host(self) -> None:
        (now,) = inventory.facts(self._session, [self._task.facts.moref])
        self._host = self._host or now.host_moref
        if now.host_moref != self._host:
            raise GuardError(
                f"The VM moved to host {now.host} during the upload (SMS-14)",
                server=self._task.name,
                next_step="The retry reads it from its new host; keep DRS from moving it meanwhile",
            )

    @contextmanager
    def watching(self, stop: Callable[[str], None]) -> Iterator[None]:
        """Look again every interval while the body runs; the first breach calls ``stop`` and wins over its error."""
        over = threading.Event()
        breach: list[GuardError] = []

        def look() -> None:
            while not over.wait(self._interval):
                try:
                    self.check()
                except GuardError as error:
                    breach.append(error)
                    stop(error.what)
                    return
                except WaveliftError:
                    continue  # vCenter is away: the transfer itself will tell, the next look tries again

        thread = threading.Thread(target=look, name="wavelift-guards", daemon=True)
        thread.start()
        try:
            yield
        except WaveliftError:
            if breach:
                raise breach[0] from None
            raise
        finally:
            over.set()
            thread.join()
        if breach:
            raise breach[0]
