"""Migrations, moved on by the clock: what is due happens in the order of time, however late somebody looks."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from wavelift.simulators.hcx.intents import BULK, COLD, RAV, REPLICATED, VMOTION, Plan, moved_nics
from wavelift.simulators.hcx.invented import Phase
from wavelift.simulators.hcx.settings import Settings
from wavelift.simulators.hcx.sites import SEGMENT, End, Nic, Place, Trouble, Vm
from wavelift.simulators.kit.clock import Clock
from wavelift.simulators.kit.faults import Faults

ENDS: Final = frozenset({Phase.COMPLETE, Phase.FAILED, Phase.CANCELLED, Phase.ENDED})
SERIAL_THROUGHOUT: Final = frozenset({VMOTION, COLD})
"""They hold the site pair from beginning to end; RAV holds it for its switchover."""


@dataclass(slots=True, eq=False)
class Migration:
    """Times are seconds of the simulator's clock; 0: not yet."""

    id: str
    group: str
    plan: Plan
    order: int
    created: float
    phase: Phase = Phase.QUEUED
    since: float = 0.0
    """When the phase began."""
    switching: float = 0.0
    """When the switchover began."""
    ended: float = 0.0
    cancel_at: float | None = None
    stuck: bool = False
    unnamed: bool = False
    """It failed, under a name that nobody knows."""
    before_switchover: bool = False
    """It failed before its switchover."""
    message: str = ""
    history: list[tuple[float, Phase]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return self.plan.kind

    @property
    def active(self) -> bool:
        return self.phase not in ENDS

    def enter(self, phase: Phase, at: float) -> None:
        self.phase, self.since = phase, at
        self.history.append((at, phase))
        if phase is Phase.SWITCHOVER:
            self.switching = at
        if phase in ENDS:
            self.ended = at


class Migrations:
    """Not safe for threads: its caller holds a lock."""

    def __init__(self, source: End, destination: End, *, clock: Clock, settings: Settings, faults: Faults[Any]) -> None:
        self._source, self._destination = source, destination
        self._clock, self._settings, self._faults = clock, settings, faults
        self.all: dict[str, Migration] = {}
        self._released: dict[str, float] = {}
        """When a place was last left: ``serial``, or a limit."""

    def start(self, plan: Plan, group: str, ident: str = "") -> Migration:
        now = self._clock.now()
        made = Migration(ident or str(uuid.uuid4()), group, plan, len(self.all), now)
        made.enter(Phase.QUEUED, now)
        self.all[made.id] = made
        return made

    def active(self) -> list[Migration]:
        return [each for each in self.all.values() if each.active]

    def moving(self, vm_id: str) -> bool:
        return any(each.plan.vm.id == vm_id for each in self.active())

    def cancel(self, migration: Migration) -> None:
        migration.cancel_at = self._clock.now() + self._settings.cancel_seconds

    def catch_up(self) -> None:
        """Do everything that is due."""
        now = self._clock.now()
        while True:
            due = [
                (at, each.order, each) for each in self.active() if (at := self._due(each)) is not None and at <= now
            ]
            if not due:
                return
            at, _, migration = min(due, key=lambda entry: entry[:2])
            self._step(migration, at)

    # when

    def _due(self, migration: Migration) -> float | None:
        """When its next step is; None: something else must happen first."""
        step = self._next(migration)
        cancelled = migration.cancel_at
        if cancelled is not None and migration.phase is not Phase.SWITCHOVER:
            return cancelled if step is None else min(cancelled, step)
        return step

    def _next(self, migration: Migration) -> float | None:
        since, settings = migration.since, self._settings
        if migration.stuck:
            return None
        if migration.phase is Phase.QUEUED:
            return self._place(migration)
        if migration.phase is Phase.WAITING:
            return self._switchover_at(migration)
        spent = {
            Phase.PREPARING: settings.prepare_seconds,
            Phase.BASE_SYNC: settings.base_sync_seconds,
            Phase.SWITCHOVER: settings.switchover_seconds,
        }
        return since + spent[migration.phase]

    def _place(self, migration: Migration) -> float | None:
        """When a queued migration may begin."""
        running = [each for each in self.active() if each.phase is not Phase.QUEUED]
        at, settings = migration.since, self._settings
        replicated = [each for each in running if each.kind in REPLICATED]
        limits = [("manager", running, settings.manager_limit)]
        if migration.kind in REPLICATED:
            limits.append(("mesh", replicated, settings.mesh_limit))
        else:
            limits.append(("serial", list(self._serial()), 1))
        for name, holders, limit in limits:
            if len(holders) >= limit:
                return None
            at = max(at, self._released.get(name, 0.0))
        return at

    def _switchover_at(self, migration: Migration) -> float | None:
        at, window = migration.since, migration.plan.window
        if window is not None:
            at = max(at, window.start)
        if migration.kind == RAV:
            if any(True for _ in self._serial()):
                return None
            at = max(at, self._released.get("serial", 0.0))
        return None if window is not None and at > window.end else at

    def _serial(self) -> Iterable[Migration]:
        """Who holds the site pair."""
        for each in self.active():
            throughout = each.kind in SERIAL_THROUGHOUT and each.phase is not Phase.QUEUED
            if throughout or (each.kind == RAV and each.phase is Phase.SWITCHOVER):
                yield each

    # what

    def _step(self, migration: Migration, at: float) -> None:
        if migration.cancel_at is not None and migration.phase is not Phase.SWITCHOVER and at >= migration.cancel_at:
            return self._end(migration, Phase.CANCELLED, at)
        step = {
            Phase.QUEUED: self._prepare,
            Phase.PREPARING: self._sync,
            Phase.BASE_SYNC: self._wait,
            Phase.WAITING: self._switch,
            Phase.SWITCHOVER: self._finish,
        }[migration.phase]
        try:
            step(migration, at)
        except Trouble as error:
            self._fail(migration, at, str(error))

    def _prepare(self, migration: Migration, at: float) -> None:
        migration.enter(Phase.PREPARING, at)

    def _sync(self, migration: Migration, at: float) -> None:
        migration.enter(Phase.BASE_SYNC, at)

    def _wait(self, migration: Migration, at: float) -> None:
        if not self._spoiled(migration, "base_sync", at):
            migration.enter(Phase.WAITING, at)

    def _switch(self, migration: Migration, at: float) -> None:
        plan, vm = migration.plan, self._vm_now(migration)
        migration.enter(Phase.SWITCHOVER, at)
        if migration.kind != BULK or not vm.on:
            return
        stubborn = not (vm.tools and vm.obeys) or bool(self._take("guest", plan, "shutdown"))
        if stubborn and not plan.force_off:
            return self._fail(migration, at, f"The guest of {vm.name} did not shut down")
        self._source.vcenter.set_power(vm.id, "poweredOff")

    def _finish(self, migration: Migration, at: float) -> None:
        """The VM is made at the destination, off, before anything of the source's goes: what the destination refuses
        costs nothing, and no two of them ever run."""
        if self._spoiled(migration, "switchover", at):
            return
        vm, end = self._vm_now(migration), self._destination
        nics, bulk = moved_nics(migration.plan, vm), migration.kind == BULK
        placed = self._place_holder(migration, vm, nics)
        self._leave(migration, vm, at)
        if bulk or vm.on:
            end.vcenter.set_power(placed, "poweredOn")
        for nic in nics:
            if end.nsx is not None and nic.network.kind == SEGMENT:
                end.nsx.add_port(nic.network.id, vm.name)
        self._end(migration, Phase.COMPLETE, at)

    def _place_holder(self, migration: Migration, vm: Vm, nics: Sequence[Nic]) -> str:
        plan, end = migration.plan, self._destination
        segments = {each.path: each for each in end.nsx.segments()} if end.nsx else {}
        for path in {nic.network.id for nic in nics if nic.network.kind == SEGMENT}:
            if path not in segments:
                raise Trouble(f"The segment {path} is gone")
            end.vcenter.add_segment(segments[path])
        place = Place(plan.pool, plan.folder, plan.datastore, same=migration.kind != BULK)
        return end.vcenter.add_vm(vm, nics, place)

    def _leave(self, migration: Migration, vm: Vm, at: float) -> None:
        end = self._source
        if migration.kind == BULK:  # without a card it can not come back as a duplicate
            end.vcenter.rename(vm.id, f"{vm.name}-{int(at)}")
            end.vcenter.remove_nics(vm.id)
        else:
            end.vcenter.remove_vm(vm.id)
        if end.nsx is not None:
            paths = {each.path: each for each in end.nsx.segments()}
            by_name = {each.name: each.path for each in paths.values()}
            for nic in vm.nics:
                if path := nic.network.segment if nic.network.segment in paths else by_name.get(nic.network.name):
                    end.nsx.remove_ports(path, vm.name)

    def _vm_now(self, migration: Migration) -> Vm:
        found = self._source.vcenter.vm(migration.plan.vm.id)
        if found is None:
            raise Trouble(f"{migration.plan.vm.name} is no longer at the source")
        return found

    def _take(self, kind: str, plan: Plan, operation: str) -> list[Any]:
        return self._faults.take(kind, service="hcx", operation=operation, key=plan.vm.name)

    def _spoiled(self, migration: Migration, phase: str, at: float) -> bool:
        """Whether a fault rule ends the migration, or holds it, at the end of this phase."""
        for rule in self._take("migration", migration.plan, phase):
            if rule.outcome == "stuck":
                migration.stuck = True
            elif rule.outcome == "ended":
                self._end(migration, Phase.ENDED, at)
            else:
                migration.unnamed = rule.outcome == "unnamed"
                self._fail(migration, at, rule.message or f"{migration.plan.vm.name}: {phase} failed")
            return True
        return False

    def _fail(self, migration: Migration, at: float, message: str) -> None:
        migration.message = message
        migration.before_switchover = migration.phase is not Phase.SWITCHOVER
        if migration.kind == BULK and migration.phase is Phase.SWITCHOVER and migration.plan.vm.on:
            self._revive(migration)
        self._end(migration, Phase.FAILED, at)

    def _revive(self, migration: Migration) -> None:
        """A failed bulk switchover starts its source again, if it still is as it was."""
        try:
            vm = self._vm_now(migration)
            if vm.name == migration.plan.vm.name and not vm.on:
                self._source.vcenter.set_power(vm.id, "poweredOn")
        except Trouble as error:
            migration.message += f"; {error}"

    def _end(self, migration: Migration, phase: Phase, at: float) -> None:
        if migration.phase is not Phase.QUEUED:
            self._released["manager"] = at
            if migration.kind in REPLICATED:
                self._released["mesh"] = at
            if any(each is migration for each in self._serial()):
                self._released["serial"] = at
        migration.enter(phase, at)

    def transferred(self, migration: Migration) -> int:
        """Bytes."""
        times = {phase: at for at, phase in migration.history}
        if Phase.BASE_SYNC not in times:
            return 0
        began, until = times[Phase.BASE_SYNC], times.get(Phase.WAITING)
        if until is not None:
            return migration.plan.size
        spent = min(self._clock.now(), migration.ended or self._clock.now()) - began
        share = spent / self._settings.base_sync_seconds if self._settings.base_sync_seconds else 1.0
        return int(migration.plan.size * min(1.0, share))

    def listing(self) -> list[Mapping[str, Any]]:
        """For tests: what truly is."""
        return [
            {
                "id": each.id,
                "group": each.group,
                "vm": each.plan.vm.name,
                "type": each.kind,
                "phase": each.phase.name,
                "history": [[at, phase.name] for at, phase in each.history],
                "message": each.message,
                "ended": not each.active,
            }
            for each in self.all.values()
        ]
