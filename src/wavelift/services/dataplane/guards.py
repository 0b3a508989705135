"""Guards of a running transfer. They stop it before our vSphere snapshot fills a datastore."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import ClassVar, Final

from wavelift.adapters.vsphere import hosts, inventory
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.errors import FencedError, GuardError, PermanentError, WaveliftError
from wavelift.base.run import RunContext
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
from wavelift.services.dataplane.snapshot import check_power

GUARD_SECONDS: Final = 20
"""A snapshot that grows at 100 MB/s takes 2 GB of a datastore between two looks."""


class LastingGuardError(GuardError):
    """The snapshot must go now: waiting for a retry would let it grow on."""

    retryable: ClassVar[bool] = False


class TransferGuards:
    """Datastore room, age of the snapshot, power, and whether the VM stays where it was (SMS-14)."""

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
        self._ahead: timedelta | None = None

    def check(self) -> None:
        """:raises GuardError: when the transfer must not go on, a lasting one when a retry must not go on either.
        :raises PermanentError: when the source must be off and was switched on."""
        self._check_age()
        self._check_room()
        self._check_machine()

    def _check_age(self) -> None:
        hours = self._task.plan.guards.max_snapshot_hours
        if self._ahead is None:
            self._ahead = self._session.clock_ahead()
        # Created by vCenter's clock, which may be hours off this machine's.
        age = self._ctx.clock.now() + self._ahead - datetime.fromisoformat(self._snapshot.ref.created)
        if age > timedelta(hours=hours):
            raise LastingGuardError(
                f"The snapshot is {age.total_seconds() / 3600:.1f} h old, max_snapshot_hours is {hours}",
                server=self._task.name,
                snapshot=self._snapshot.ref.name,
                next_step="Raise max_snapshot_hours in the wave's file, then run this server again. "
                "Its snapshot is removed",
            )

    def _check_room(self) -> None:
        wanted = self._task.plan.guards.min_free_pct
        names = {disk.datastore for disk in self._snapshot.disks}
        for store in hosts.datastore_facts(self._session, [self._task.facts.moref]).get(self._task.facts.moref, []):
            if store.name in names and store.free_pct < wanted:
                raise LastingGuardError(
                    f"Datastore {store.name} has {store.free_pct:.1f} % free, min_free_pct is {wanted:g}",
                    server=self._task.name,
                    next_step="Make room on the datastore, then clear this server from its reserve task. "
                    "Its snapshot is removed",
                )

    def _check_machine(self) -> None:
        (now,) = inventory.facts(self._session, [self._task.facts.moref])
        check_power(self._task, now)
        self._host = self._host or now.host_moref
        if now.host_moref != self._host:
            raise GuardError(
                f"The VM moved to host {now.host} during the upload",
                server=self._task.name,
                next_step="The retry reads it from its new host; keep DRS from moving it meanwhile",
            )

    @contextmanager
    def watching(self, stop: Callable[[str], None]) -> Iterator[None]:
        """Look again every interval while the body runs; the first breach calls ``stop`` and wins over its error."""
        over = threading.Event()
        breach: list[Exception] = []

        def look() -> None:
            while not over.wait(self._interval):
                try:
                    self.check()
                except (GuardError, PermanentError) as error:
                    breach.append(error)
                    stop(error.what)
                    return
                except WaveliftError:
                    continue  # vCenter is away: the transfer itself will tell, the next look tries again
                except Exception as error:  # a guard that broke guards nothing
                    breach.append(error)
                    stop("the guards broke")
                    return

        thread = threading.Thread(target=look, name="wavelift-guards", daemon=True)
        thread.start()
        try:
            yield
        except FencedError:
            raise
        except WaveliftError:
            if breach:
                raise breach[0] from None
            raise
        finally:
            over.set()
            thread.join()
        if breach:
            raise breach[0]
