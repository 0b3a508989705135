"""Switching a VM: shut down, power off and on, and the fence that keeps a stopped source off the network.

Each step looks, acts only where needed, and looks again: asked for twice it does nothing, and an answer that was lost
is replaced by what the VM shows. Refusals that pass (another task, a change at the same time, a cut line) are borne
for :data:`PATIENCE_S`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pyVmomi import vim

from wavelift.adapters.vsphere.cards import connection_of, ethernet, network_names, nics
from wavelift.adapters.vsphere.faults import QuiesceError
from wavelift.adapters.vsphere.properties import Values, WaitTimeout, read_one
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.base.domain import NicFacts, PowerFacts
from wavelift.base.errors import BusyError, GuardError, PermanentError, UnreachableError
from wavelift.base.run import CancelFlag

log = logging.getLogger(__name__)

TASK_TIMEOUT_S: Final = 600.0
"""For one power or reconfiguration task. They take seconds; a host under load takes minutes."""

PATIENCE_S: Final = 120.0
"""How long a refusal that passes by itself, or a lost answer, is asked again."""

POLL_S: Final = 1.0

Connection = tuple[bool, bool, bool]
"""As :attr:`NicFacts.connection`."""

_FENCED: Final[Connection] = (False, False, False)

_PATHS: Final = (
    "config.changeVersion",
    "config.hardware.device",
    "guest.net",
    "guest.toolsRunningStatus",
    "runtime.bootTime",
    "runtime.powerState",
)


class ToolsError(GuardError):
    """The guest cannot be shut down, because VMware Tools do not run in it. Powering off remains."""


class CardsChangedError(PermanentError):
    """The VM has other network cards than those whose state was stored: somebody added, removed or replaced one."""


@dataclass(frozen=True, slots=True)
class _Vm:
    """A VM as far as switching goes, all of one instant."""

    power: PowerFacts
    version: str
    cards: tuple[Any, ...]
    """As vSphere tells them."""
    guest_net: tuple[Any, ...]

    @property
    def connections(self) -> dict[int, Connection]:
        return {int(card.key): connection_of(card) for card in self.cards}


def _power(values: Values) -> PowerFacts:
    booted = values.get("runtime.bootTime")
    return PowerFacts(
        power=str(values.get("runtime.powerState", "")),
        booted=booted.isoformat() if booted is not None else "",
        tools_running=str(values.get("guest.toolsRunningStatus", "")) == "guestToolsRunning",
    )


def _look(session: VsphereSession, vm: str, where: Mapping[str, str]) -> _Vm:
    values = read_one(session, vim.VirtualMachine, vm, _PATHS, **where)
    if "config.hardware.device" not in values or "runtime.powerState" not in values:
        # As of a VM that is inaccessible. No list of cards is not an empty list: that would count as fenced.
        raise UnreachableError(
            "vCenter does not tell the VM's hardware and power state",
            next_step="Look at the VM in vCenter: its host or datastore may be away, or the account may not read it",
            **where,
        )
    return _Vm(
        power=_power(values),
        version=str(values.get("config.changeVersion") or ""),
        cards=tuple(ethernet(values["config.hardware.device"])),
        guest_net=tuple(values.get("guest.net") or ()),
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing to be reached, and the call that leads there."""

    what: str
    """In words: begins the error "… took longer than"."""
    done: Callable[[_Vm], bool]
    ask: Callable[[_Vm], Any]
    """Returns the task."""


def _reach(session: VsphereSession, vm: str, step: _Step, *, cancel: CancelFlag, where: Mapping[str, str]) -> bool:
    """Whether it took a call to get there."""
    give_up = time.monotonic() + PATIENCE_S
    now = _look(session, vm, where)
    if step.done(now):
        return False
    while True:
        cancel.check()
        lost: BusyError | UnreachableError
        try:
            task = session.change(partial(step.ask, now), **where)
            wait_for_task(session, task, timeout=TASK_TIMEOUT_S, cancel=cancel, what=step.what, **where)
            lost = BusyError(
                f"{step.what} succeeded, but the VM does not show it",
                next_step="Somebody else switches this VM too: look at its events in vCenter",
                **where,
            )
        except WaitTimeout:
            raise
        except (BusyError, UnreachableError) as error:
            lost = error
        now = _look(session, vm, where)
        if step.done(now):
            return True
        if time.monotonic() >= give_up:
            raise lost
        log.info("%s: asking again, %s", where["server"], lost.what)
        cancel.wait(POLL_S)


# --- power ----------------------------------------------------------------------------------------------------------


def power_state(session: VsphereSession, vm: str, *, server: str = "") -> PowerFacts:
    """Whether the VM runs, since when, and whether its guest can be shut down.

    :raises NotFoundError: the VM is gone.
    """
    paths = ("guest.toolsRunningStatus", "runtime.bootTime", "runtime.powerState")
    return _power(read_one(session, vim.VirtualMachine, vm, paths, server=server or None))


def shut_down_guest(session: VsphereSession, vm: str, *, server: str) -> bool:
    """Ask the guest to shut down; False: the VM is off already. It does not wait: the guest may take minutes, ignore
    it, or start again. Asking again is harmless.

    :raises ToolsError: VMware Tools do not run. :raises GuardError: the VM is suspended.
    :raises MissingPrivilegeError: Interact.PowerOff. :raises NotFoundError: the VM is gone.
    """
    where = {"server": server, "object": vm}
    target = session.managed(vim.VirtualMachine, vm)
    now = power_state(session, vm, server=server)
    if now.off:
        return False
    _refuse_suspended(now, where)
    why = "VMware Tools do not run in it"
    if now.tools_running:
        try:
            session.change(target.ShutdownGuest, **where)
            return True
        except QuiesceError as error:  # ToolsUnavailable: they stopped since
            why = error.what
        except BusyError:
            if power_state(session, vm, server=server).off:
                return True
            raise
        except UnreachableError as error:
            log.info("%s: the answer to the shutdown was lost (%s), asking once more", server, error.what)
            return _ask_again(session, vm, server)
    raise ToolsError(
        f"the guest cannot be shut down: {why}",
        next_step="Start VMware Tools, shut the guest down from inside, or power the VM off",
        **where,
    )


def _ask_again(session: VsphereSession, vm: str, server: str) -> bool:
    """After a lost answer. Whatever vCenter refuses now shows that the first call arrived, if the VM is on its way."""
    if power_state(session, vm, server=server).off:
        return True
    where = {"server": server, "object": vm}
    try:
        session.change(session.managed(vim.VirtualMachine, vm).ShutdownGuest, **where)
    except (BusyError, QuiesceError) as error:
        log.info("%s: the guest is shutting down, it seems (%s)", server, error.what)
    return True


def power_off(session: VsphereSession, vm: str, *, server: str, cancel: CancelFlag) -> bool:
    """Power off, hard; False: it was off already.

    :raises GuardError: the VM is suspended: its guest's memory would be lost.
    :raises MissingPrivilegeError: Interact.PowerOff. :raises NotFoundError: the VM is gone.
    """
    where = {"server": server, "object": vm}
    target = session.managed(vim.VirtualMachine, vm)

    def ask(now: _Vm) -> Any:
        _refuse_suspended(now.power, where)
        return target.PowerOffVM_Task()

    step = _Step("powering off", lambda now: now.power.off, ask)
    return _reach(session, vm, step, cancel=cancel, where=where)


def power_on(session: VsphereSession, vm: str, *, server: str, cancel: CancelFlag) -> bool:
    """Power on, or resume; False: it was on already. Which cards are connected then, ``start_connected`` says.

    :raises GuardError: no host has room for it. :raises MissingPrivilegeError: Interact.PowerOn.
    :raises NotFoundError: the VM is gone.
    """
    where = {"server": server, "object": vm}
    target = session.managed(vim.VirtualMachine, vm)
    step = _Step("powering on", lambda now: now.power.on, lambda _: target.PowerOnVM_Task())
    return _reach(session, vm, step, cancel=cancel, where=where)


def _refuse_suspended(now: PowerFacts, where: Mapping[str, str]) -> None:
    if now.power == "suspended":
        raise GuardError(
            "the VM is suspended: its guest's memory holds what its disks do not",
            next_step="Resume it in vCenter, then retry",
            **where,
        )


# --- the fence ------------------------------------------------------------------------------------------------------


def read_cards(session: VsphereSession, vm: str, *, server: str = "") -> tuple[NicFacts, ...]:
    """The VM's network cards, by key. To be stored before :func:`fence`: :func:`unfence` goes back to it.

    :raises NotFoundError: the VM is gone.
    """
    now = _look(session, vm, {"server": server, "object": vm})
    return _told(session, now)


def _told(session: VsphereSession, now: _Vm) -> tuple[NicFacts, ...]:
    return nics(now.cards, now.guest_net, network_names(session, now.cards))


def fence(
    session: VsphereSession, vm: str, *, server: str, cancel: CancelFlag, before: Sequence[NicFacts] | None = None
) -> tuple[NicFacts, ...]:
    """Disconnect every network card, so that neither a power-on nor the guest connects it; in one edit.

    :param before: the cards as they were stored: the VM must still have these. None: any.
    :return: ``before``, else the cards as they were when this call looked; of a fenced VM, fenced ones.
    :raises CardsChangedError: the VM has other cards than ``before``. :raises PermanentError: a card that cannot be
        disconnected. :raises MissingPrivilegeError: Config.EditDevice, Interact.DeviceConnection.
    :raises NotFoundError: the VM is gone.
    """
    where = {"server": server, "object": vm}
    last = _look(session, vm, where)

    def wanted(now: _Vm) -> dict[int, Connection]:
        nonlocal last
        if before is not None:
            _refuse_others(now, before, where)
        goal = dict.fromkeys(now.connections, _FENCED)
        if now.connections != goal:
            last = now  # an edit that vCenter accepts, it makes on this version
        return goal

    _edit(session, vm, "fencing the VM", wanted, cancel=cancel, where=where)
    return tuple(before) if before is not None else _told(session, last)


def unfence(session: VsphereSession, vm: str, before: Sequence[NicFacts], *, server: str, cancel: CancelFlag) -> bool:
    """Give every card what it had ``before``; False: it had it already.

    While the VM is off, nothing is connected: then this sets the rest, and the power-on connects by
    ``start_connected``. Where ``connected`` differed from it, call this again once the VM runs.

    :raises CardsChangedError: the VM has other cards than ``before``; then nothing is changed.
    :raises MissingPrivilegeError: Config.EditDevice, Interact.DeviceConnection. :raises NotFoundError: the VM is gone.
    """
    where = {"server": server, "object": vm}

    def wanted(now: _Vm) -> dict[int, Connection]:
        _refuse_others(now, before, where)
        return {
            nic.key: (nic.start_connected, nic.connected and now.power.on, nic.allow_guest_control) for nic in before
        }

    return _edit(session, vm, "taking the fence away", wanted, cancel=cancel, where=where)


def _edit(
    session: VsphereSession,
    vm: str,
    what: str,
    wanted: Callable[[_Vm], dict[int, Connection]],
    *,
    cancel: CancelFlag,
    where: Mapping[str, str],
) -> bool:
    target = session.managed(vim.VirtualMachine, vm)

    def ask(now: _Vm) -> Any:
        goal = wanted(now)
        changes = [_change(card, goal[card.key], where) for card in now.cards if connection_of(card) != goal[card.key]]
        # With the version that we looked at, vCenter refuses when somebody changed the VM since.
        return target.ReconfigVM_Task(vim.vm.ConfigSpec(changeVersion=now.version or None, deviceChange=changes))

    step = _Step(what, lambda now: now.connections == wanted(now), ask)
    return _reach(session, vm, step, cancel=cancel, where=where)


def _change(card: Any, to: Connection, where: Mapping[str, str]) -> Any:
    if card.connectable is None:
        raise PermanentError(
            f"the network card {card.key} cannot be disconnected",
            next_step="Remove it from the VM, or replace it by a vmxnet3",
            **where,
        )
    start, connected, guest = to
    edited = copy(card)  # the card itself still tells what was
    edited.connectable = vim.vm.device.VirtualDevice.ConnectInfo(
        startConnected=start, connected=connected, allowGuestControl=guest
    )
    return vim.vm.device.VirtualDeviceSpec(operation="edit", device=edited)


def _refuse_others(now: _Vm, before: Sequence[NicFacts], where: Mapping[str, str]) -> None:
    """A card of the same key and another address is another card."""
    stored = {nic.key: nic.mac for nic in before}
    found = {int(card.key): str(card.macAddress or "").lower() for card in now.cards}
    if found == stored:
        return
    raise CardsChangedError(
        f"the VM has the network cards {_listed(found)}, but {_listed(stored)} were stored before it was stopped",
        next_step="Somebody changed its hardware: connect or disconnect its cards in vCenter yourself",
        **where,
    )


def _listed(cards: Mapping[int, str]) -> str:
    return ", ".join(f"{key} ({mac})" for key, mac in sorted(cards.items())) or "none"
