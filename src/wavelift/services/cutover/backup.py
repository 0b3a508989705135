"""Backups of migrated instances (AMP-09): an image of all volumes, and a launch template that names it.

Of a one-shot migration's instance, and of a cutover's. A repeated backup is another image, and a new version of the
same template.
"""

from __future__ import annotations

from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.backups import BackupRequest, Backups
from wavelift.base.errors import NotFoundError, WaveliftError
from wavelift.base.names import client_token, instant_of, run_hash, run_key, slug, tags
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, backups
from wavelift.ledger.cutover_records import Backup, Cutover, TargetPlace
from wavelift.rules.authority import Action
from wavelift.rules.cutover import BackupState
from wavelift.rules.plans import ServerPlan
from wavelift.services.common.authority import Rights, require_run
from wavelift.services.common.instances import Instance, instance_of
from wavelift.services.cutover.steps import Waits
from wavelift.services.dataplane.steps.poll import image_is_available

AVAILABLE: Final = "available"
NAME_LONGEST: Final = 128
"""Characters of an image's name (EC2 API reference, CreateImage)."""


def order(ledger: Ledger, subject: str, ctx: RunContext, *, reboot: bool, rights: Rights) -> Backup:
    """Write that the run makes a backup of the instance; a repeated call finds it.

    :raises DeniedError: whoever asked may not cut over in the environment of the instance.
    """
    if not subject:
        raise NotFoundError("The run names no migration or cutover", next_step="`wavelift backup ID` names one")
    with ledger.read() as tx:
        instance = instance_of(tx, subject)
    require_run(ledger, instance.environment, Action.CUT_OVER, ctx, rights=rights)
    return _insert(ledger, instance, ctx, reboot=reboot)


def _insert(ledger: Ledger, instance: Instance, ctx: RunContext, *, reboot: bool) -> Backup:
    with ledger.write() as tx:
        known = backups.find(tx, backups.backup_id(ctx.run, instance.subject), lock=True)
        if known is not None:
            if known.state is BackupState.FAILED:  # its task was cleared
                return backups.apply(
                    tx, known, "again", at=ctx.clock.now(), by=ctx.requester, state=BackupState.MAKING, error=""
                )
            return known
        return backups.insert(
            tx,
            at=ctx.clock.now(),
            by=ctx.requester,
            run=ctx.run,
            subject=instance.subject,
            wave=instance.wave,
            server=instance.server,
            environment=instance.environment,
            instance_id=instance.instance_id,
            reboot=reboot,
            target=instance.place.dump(),
        )


def place_of(known: Backup) -> TargetPlace:
    """Where the backed-up instance is."""
    return TargetPlace.load(known.target)


def advance(ledger: Ledger, access: AwsAccess, id: str, ctx: RunContext) -> Backup | Waits:
    """Begin the image, or look at it; when it is available, save the launch template. Call it again until it is done.

    :raises PermanentError: AWS could not make the image; the backup has failed.
    """
    with ledger.read() as tx:
        known = backups.get(tx, id)
    if known.state is BackupState.COMPLETED:
        return known
    try:
        return _advance(ledger, access, known, ctx)
    except WaveliftError as error:
        if not error.retryable:
            with ledger.write() as tx:
                now = backups.get(tx, id, lock=True)
                if now.state is BackupState.MAKING:
                    columns: dict[str, Any] = {"state": BackupState.FAILED, "error": str(error)}
                    backups.apply(tx, now, "failed", at=ctx.clock.now(), by=ctx.run, **columns)
        raise


def _advance(ledger: Ledger, access: AwsAccess, known: Backup, ctx: RunContext) -> Backup | Waits:
    work, key = Backups(access), run_key(known.dag_id, known.dag_run_id, known.subject)
    given = tags(known.wave, known.server, key)
    image = work.create_image(
        BackupRequest(
            instance_id=known.instance_id,
            name=_name(known, key),
            reboot=known.reboot,
            tags=given,
            description=f"wavelift: backup of {known.server}",
        )
    )
    if known.image_id != image.image_id:
        with ledger.write() as tx:
            now = backups.get(tx, known.id, lock=True)
            known = backups.apply(tx, now, "begun", at=ctx.clock.now(), by=ctx.run, image_id=image.image_id)
    if image.state != AVAILABLE:
        image = work.image(image.image_id)  # it fails here if AWS could not make it
    if image.state != AVAILABLE:
        return Waits((image_is_available(image.image_id),), f"AWS makes the image {image.image_id}")
    template = work.save_template(
        f"wavelift-{slug(known.wave)}-{known.instance_id}",
        image.image_id,
        known.instance_id,
        token=client_token(key, "backup", instant=instant_of(image.image_id)),
        tags=given,
    )
    with ledger.write() as tx:
        now = backups.get(tx, known.id, lock=True)
        columns: dict[str, Any] = {
            "state": BackupState.COMPLETED,
            "template_id": template.template_id,
            "template_version": template.version,
        }
        return backups.apply(tx, now, "completed", at=ctx.clock.now(), by=ctx.run, **columns)


def _name(known: Backup, key: str) -> str:
    """Unique: of the run and the instance."""
    return f"wavelift-{slug(known.wave)}-{slug(known.server)}"[: NAME_LONGEST - 14] + f"-{run_hash(key)}"


def before_finalize(
    ledger: Ledger, access: AwsAccess, known: Cutover, plan: ServerPlan, ctx: RunContext
) -> Waits | None:
    """The backup that a server's plan asks for before its way back is given up. None: it is there, or none is asked
    for."""
    if plan.cutover is None or plan.cutover.backup != "finalize":
        return None
    with ledger.read() as tx:
        instance = instance_of(tx, known.id)
    found = advance(ledger, access, _insert(ledger, instance, ctx, reboot=False).id, ctx)
    return found if isinstance(found, Waits) else None
