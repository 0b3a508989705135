"""The slots that a server needs at each step, in all flows: one list, in one order.

The account comes first, since a server keeps its slot to the end; the connector comes last, since transfers from every
host wait for it. The order is that of :class:`~wavelift.rules.flows.SlotKind`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wavelift.ledger import Ledger, slots
from wavelift.rules.flows import SlotKind
from wavelift.rules.limits import LIMITS
from wavelift.rules.plans import Target
from wavelift.rules.queue import Priority, Taken
from wavelift.services.common.slots import SlotRequest
from wavelift.services.dataplane.messages import AccountUse, ServerTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On which terms a run's servers wait: the limits of this Airflow, and the run's priority.

    :param per_account: servers on their way into an account; an environment may say another number.
    :param per_datastore: servers with our snapshot on a datastore.
    :param per_host: servers that are read from an ESXi host, unless the connector's VDDK says another number.
    """

    per_account: int = LIMITS["migrations_per_account"].value
    per_datastore: int = LIMITS["snapshots_per_datastore"].value
    per_host: int = LIMITS["reads_per_host"].value
    priority: Priority = Priority.NORMAL


DEFAULT_TERMS: Final = Terms()


def for_transfer(task: ServerTask, holder: str, limit: int, terms: Terms) -> list[SlotRequest]:
    """What a server needs from before its snapshot until after the snapshot's removal.

    :param limit: transfers of the connector.
    """
    return [
        for_account(task.plan.target, holder, terms),
        *(
            SlotRequest(SlotKind.DATASTORE, scope, holder, terms.per_datastore)
            for scope in sorted(set(_datastores(task)))
        ),
        *_reading(task, holder, terms),
        SlotRequest(SlotKind.TRANSFER, task.plan.connector, holder, limit),
    ]


def for_import(target: Target, holder: str, limit: int, terms: Terms) -> list[SlotRequest]:
    """What a server needs while AWS converts it. It has the account's slot, unless it was cleared after its end.

    :param limit: imports of ours in account and region.
    """
    return [
        for_account(target, holder, terms),
        SlotRequest(SlotKind.IMPORT, f"{account_of(target)}/{target.region}", holder, limit),
    ]


def for_account(target: Target, holder: str, terms: Terms) -> SlotRequest:
    """What a server needs until its migration or run ends, past the conversion (SMS-10)."""
    limit = target.migrations_per_account or terms.per_account
    return SlotRequest(SlotKind.ACCOUNT, account_of(target), holder, limit)


def account_use(ledger: Ledger, target: Target, terms: Terms) -> AccountUse:
    """What the account's slots are at this moment, for the pre-flight of a run."""
    wanted = for_account(target, "", terms)
    with ledger.read() as tx:
        taken = Taken(slots.granted(tx)).of(wanted.place)
    return AccountUse(in_use=taken, limit=wanted.limit)


def account_of(target: Target) -> str:
    """The account's number. Of a plan that an older version froze, only the connection is known: see
    :class:`~wavelift.rules.queue.Taken`."""
    return target.account or target.aws_conn_id


def _datastores(task: ServerTask) -> Iterator[str]:
    for disk in task.facts.disks:
        if name := disk.datastore_moref or disk.datastore:
            yield f"{_vcenter(task)}/{name}"


def _reading(task: ServerTask, holder: str, terms: Terms) -> Iterator[SlotRequest]:
    host, nfc = task.nfc.host if task.nfc else task.facts.host_moref, task.nfc
    if host:
        limit = nfc.per_host if nfc else terms.per_host
        yield SlotRequest(SlotKind.NFC_HOST, f"{_vcenter(task)}/{host}", holder, limit)
    if nfc:
        yield SlotRequest(SlotKind.NFC_VCENTER, nfc.vcenter, holder, nfc.per_vcenter)


def _vcenter(task: ServerTask) -> str:
    """Two connections to one vCenter share its hosts and datastores."""
    return (task.nfc.vcenter if task.nfc else "") or task.vcenter or task.plan.connection
