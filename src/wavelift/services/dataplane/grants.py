"""What a connector does with a grant: it reads it with the control plane's public key, before it opens vCenter.

A connector has no ledger, and holds no key that could sign.
"""

from __future__ import annotations

import stat
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wavelift.adapters.vsphere import inventory
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.errors import GrantError
from wavelift.rules import grants
from wavelift.rules.grants import Grant, Intent

SETTING: Final = "[wavelift] grant_keys_folder"


def verify(token: str, intent: Intent, *, keys: Path, serves: Collection[str], now: datetime) -> Grant:
    """What the control plane granted, if it is what this task is about to do.

    :param keys: folder of public keys, one file ``<kid>.pem`` each.
    :param serves: the queues that this worker serves by its own configuration; empty: it does not say.
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
    kid = grants.kid_in(token, intent.scope)
    grant = grants.read(token, public_key(keys, kid), now=now)
    grants.require(grant, intent)
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


def public_key(folder: Path, kid: str) -> Ed25519PublicKey:
    """The public key of this name.

    :param kid: as :func:`wavelift.rules.grants.kid_in` returned it: it is a safe file name.
    :raises GrantError: it is not there, or is no such key.
    """
    path = folder / f"{kid}{grants.SUFFIX}"
    try:
        mode = path.stat().st_mode
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
    if mode & stat.S_IWOTH:
        raise _unusable(path, "every user of this machine may write it")
    if grants.kid_of(key) != kid:
        raise _unusable(path, f"it holds another key, {grants.kid_of(key)}")
    return key


def _unusable(path: Path, why: str) -> GrantError:
    return GrantError(
        f"The public key {path} is of no use: {why}",
        field="kid",
        next_step=f"Copy it anew from the control plane into this folder ({SETTING}), then clear this task",
    )
