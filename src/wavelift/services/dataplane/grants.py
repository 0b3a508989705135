"""What a connector does with a grant: it reads it with the control plane's public key, before it opens vCenter.

A connector has no ledger, and holds no key that could sign.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wavelift.adapters.vsphere import inventory, privileges
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.adapters.vsphere.tagging import vm_tags
from wavelift.base.errors import GrantError
from wavelift.base.run import SCHEDULE
from wavelift.rules import grants
from wavelift.rules.authority import Link
from wavelift.rules.findings import Findings, stopped
from wavelift.rules.grants import Grant, Intent
from wavelift.rules.preflight_requester import EXPORT, RequesterFacts, check_requester

SETTING: Final = "[wavelift] grant_keys_folder"


def verify(
    token: str, intent: Intent, *, keys: Path, serves: Collection[str], now: datetime, issuer: str = ""
) -> Grant:
    """What the control plane granted, if it is what this task is about to do.

    :param keys: folder of public keys, one file ``<kid>.pem`` each.
    :param serves: the queues that this worker serves by its own configuration; empty: it does not say.
    :param issuer: the task of the run that issues it, if it is another one than the scope's.
    :raises GrantError: no grant, a forged or expired one, or one for something else; it names the field.
    """
    if serves and intent.connector not in serves:
        raise GrantError(
            "This worker does not serve the queue of the task",
            field="connector",
            expected=", ".join(sorted(serves)),
            found=intent.connector,
            next_step="Correct [wavelift] connector on this worker, or the queues that it is started with",
        )
    kid = grants.kid_in(token, intent.scope, issuer=issuer)
    grant = grants.read(token, public_key(keys, kid), now=now, issuer=issuer)
    grants.require(grant, intent, issuer=issuer)
    return grant


def verify_vm(session: VsphereSession, grant: Grant, vm: str) -> None:
    """Whether an object in vCenter is the VM of the grant: XComs name the object, the grant names the VM.

    :param vm: managed object id.
    :raises GrantError: it is another VM, or has no identity.
    """
    (now,) = inventory.facts(session, [vm])
    if not now.instance_uuid or now.instance_uuid != grant.vm:
        raise GrantError(
            "The grant is for another VM",
            field="vm",
            expected=grant.vm,
            found=now.instance_uuid or "a VM without instance UUID",
            server=grant.server,
            vm=vm,
            next_step="If the VM was replaced, trigger a new run of the wave; else find out who edited the run's XComs",
        )


def verify_source(session: VsphereSession, grant: Grant, vm: str, path: str) -> None:
    """Before its snapshot: whether the wave selects a VM, and whether the person behind the run may export it.

    Pre-flight asked both. What it let pass came by XCom, so it is asked again of this one VM. Later steps need the
    snapshot of this run: a VM that is renamed or moved during a transfer of days is not given up.

    :param vm: managed object id, which :func:`verify_vm` knows. :param path: of the plan that was granted.
    :raises GrantError: it stands elsewhere, it has no tag of the entry that selects it, or the person may not.
    """
    (now,) = inventory.facts(session, [vm])
    if now.path != path:
        raise GrantError(
            "The VM of the grant does not stand where the wave selects it",
            field="path",
            expected=path,
            found=now.path,
            server=grant.server,
            vm=vm,
            next_step="If the VM was renamed or moved since the pre-flight, undo that, or trigger a new run of the "
            "wave for it; else find out who edited the run's XComs",
        )
    if grant.tags and not set(grant.tags) & set(vm_tags(session).get(vm, ())):
        raise GrantError(
            "The VM of the grant has no tag by which the wave selects it",
            field="tags",
            expected=", ".join(grant.tags),
            server=grant.server,
            vm=vm,
            next_step="If its tag was removed since the pre-flight, it is not to be moved; else find out who edited "
            "the run's XComs",
        )
    found = Findings(grant.server)
    facts = rights_of(session, grant, grant.principal(grant.server), [vm])
    check_requester(facts[vm], found)
    for finding in stopped(found.all, grant.server):
        raise GrantError(
            f"Link {Link.REQUESTER_IN_VCENTER.value} of the chain says no: {finding.what}",
            field="principals",
            link=Link.REQUESTER_IN_VCENTER.value,
            server=grant.server,
            next_step=finding.next_action,
        )


def rights_of(
    session: VsphereSession, grant: Grant, principal: str | None, vms: Sequence[str]
) -> dict[str, RequesterFacts]:
    """VM → what vCenter says of the person behind the run; one call for all.

    :param principal: of these VMs, see :meth:`~wavelift.rules.grants.Grant.principal`.
    """
    unknown = RequesterFacts(grant.vcenter_check, principal, user="" if grant.user == SCHEDULE else grant.user)
    if not principal:
        return dict.fromkeys(vms, unknown)
    try:
        missing = privileges.missing_privileges(session, vms, principal=principal, required={"vm": (EXPORT,)})
    except privileges.UnknownPrincipalError:
        return dict.fromkeys(vms, unknown)
    return {vm: replace(unknown, known=True, may_export=not missing.get(vm, [EXPORT])) for vm in vms}


def public_key(folder: Path, kid: str) -> Ed25519PublicKey:
    """The public key of this name.

    :param kid: as :func:`wavelift.rules.grants.kid_in` returned it: it is a safe file name.
    :raises GrantError: it is not there, or is no such key.
    """
    path = folder / f"{kid}{grants.SUFFIX}"
    try:
        # Who may write the folder can put a key there, or take one away, whatever the modes of the files.
        open_to_all = [each for each in (folder, path, path.resolve().parent) if _anybody_may_write(each)]
        key = grants.public_from(path.read_bytes())
    except FileNotFoundError:
        raise GrantError(
            "This connector does not know the key that signed the grant",
            field="kid",
            kid=kid,
            next_step=f"Copy {kid}{grants.SUFFIX} from the control plane ('wavelift grants list' shows where it is) "
            f"into {folder} of this connector ({SETTING}), then clear this task",
        ) from None
    except OSError as error:
        raise _unusable(path, f"it can't be read: {error.strerror}") from error
    except ValueError as error:
        raise _unusable(path, "it is no Ed25519 public key") from error
    if open_to_all:
        which = "it" if open_to_all[0] == path else f"the folder {open_to_all[0]}"
        raise _unusable(path, f"every user of this machine may write {which}")
    if grants.kid_of(key) != kid:
        raise _unusable(path, f"it holds another key, {grants.kid_of(key)}")
    return key


def _anybody_may_write(path: Path) -> bool:
    """A volume of Kubernetes (ConfigMap, Secret) has the mode 0777 and is mounted read-only."""
    return bool(path.stat().st_mode & stat.S_IWOTH) and not os.statvfs(path).f_flag & os.ST_RDONLY


def _unusable(path: Path, why: str) -> GrantError:
    return GrantError(
        f"The public key {path} is of no use: {why}",
        field="kid",
        next_step=f"Copy it anew from the control plane into this folder ({SETTING}), then clear this task",
    )
