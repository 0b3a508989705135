"""The instances that migrations and cutovers made, as the ledger knows them."""

from __future__ import annotations

from dataclasses import dataclass

from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.base.run import DagRun
from wavelift.ledger import Migration, Tx, cutovers, migrations, waves
from wavelift.ledger.cutover_records import Cutover, TargetPlace
from wavelift.rules.flows import CUTOVER, MIGRATE
from wavelift.services.common.admit import frozen_wave


@dataclass(frozen=True, slots=True)
class Instance:
    """The instance of a migration or a cutover, as the ledger knows it."""

    subject: str
    wave: str
    server: str
    environment: str
    instance_id: str
    place: TargetPlace


def instance_of(tx: Tx, subject: str) -> Instance:
    """:raises NotFoundError: there is no such migration or cutover. :raises PermanentError: it has no instance."""
    known = _subject(tx, subject)
    place = TargetPlace.load(known.target) if isinstance(known, Cutover) and known.target else None
    if not known.instance_id:
        raise PermanentError("It has no instance", subject=subject, server=known.server)
    wave = frozen_wave(waves.get(tx, known.run))
    environment = wave.environment
    if place is None:
        place = TargetPlace(aws_conn_id=environment.aws_conn_id, region=environment.region, account=environment.account)
    return Instance(subject, known.wave, known.server, environment.environment, known.instance_id, place)


def run_of(tx: Tx, subject: str) -> DagRun:
    """The DAG run of a migration or a cutover. :raises NotFoundError: there is no such one."""
    return _subject(tx, subject).run


def _subject(tx: Tx, subject: str) -> Cutover | Migration:
    if subject.startswith(CUTOVER.prefix):
        return cutovers.get(tx, subject)
    if subject.startswith(MIGRATE.prefix):
        return migrations.get(tx, subject)
    raise NotFoundError(
        f"'{subject}' is no id of a migration or a cutover",
        next_step="See `wavelift migrations list` and `wavelift cutover list`",
    )
