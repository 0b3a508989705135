"""An export's runs in the ledger: what each froze, and the export that it opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wavelift.base.domain import Message
from wavelift.base.errors import NotFoundError, PermanentError, SpecError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, Tx, WaveRun, WaveRunState, exports, waves
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.conf import ExportConf
from wavelift.rules.environment import Environment
from wavelift.rules.export_plan import joined_prefix
from wavelift.rules.instance_export import ExportState
from wavelift.rules.limits import LIMITS
from wavelift.services.dataplane.export_messages import ExportPlace

PREFIX: Final = "export/"
"""Of the names under which the ledger keeps the runs of exports: no wave's name has a slash."""
Load = Callable[[str], Environment]
"""The environment of this name by the present files. SpecError: they allow no export."""


class FrozenExport(Message):
    """What ``admit`` freezes for a run."""

    environment: Environment
    conf: dict[str, Any]
    """As Airflow gave it, without what was left empty."""


def run_name(environment: str) -> str:
    return f"{PREFIX}{environment}"


def frozen(run: WaveRun) -> FrozenExport:
    return FrozenExport.load(run.spec)


def of_this_run(tx: Tx, ctx: RunContext) -> FrozenExport:
    """:raises NotFoundError: the run was never admitted."""
    return frozen(waves.get(tx, ctx.run))


def place_of(environment: Environment, per_region: int = LIMITS["exports_per_region"].value) -> ExportPlace:
    """Where an environment's exports are.

    :param per_region: exports of account and region at a time, unless the environment says another number.
    :raises SpecError: it has no ``exports``.
    """
    if environment.exports is None:
        raise no_exports(environment.environment)
    return ExportPlace(
        environment=environment.environment,
        aws_conn_id=environment.aws_conn_id,
        region=environment.region,
        account=environment.account,
        bucket=environment.exports_bucket,
        role=environment.role,
        queue=environment.queue,
        limit=environment.limits.get("exports_per_region", per_region),
    )


def prefix_of(environment: Environment, conf: ExportConf) -> str:
    """What the object's key begins with. :raises SpecError: both prefixes together are none."""
    return joined_prefix(environment.exports.prefix if environment.exports else "", conf.prefix)


def no_exports(environment: str) -> SpecError:
    return SpecError(
        "Nothing is exported from this environment: its file has no 'exports'",
        next_step="Add exports: {name: …} to its file: the bucket is export-to-s3-<name>-<region>",
        environment=environment,
    )


def known_of(ledger: Ledger, ctx: RunContext) -> InstanceExport:
    """The export of this run. :raises NotFoundError: it has none."""
    with ledger.read() as tx:
        return there(exports.of_dag_run(tx, ctx.run), ctx)


def there(known: InstanceExport | None, ctx: RunContext) -> InstanceExport:
    if known is None:
        raise NotFoundError(
            "This run has no export", next_step="Clear the run's first task, `admit`: it opens it", run=ctx.run
        )
    return known


def require_going(known: InstanceExport) -> None:
    """:raises PermanentError: a person has asked to cancel it, or it has ended."""
    if known.cancel_requested or known.state is ExportState.CANCELLING:
        raise PermanentError(
            "The export was cancelled on request",
            next_step="To export the instance after all, start a new export",
            export=known.id,
        )
    if known.state.terminal:
        raise PermanentError(
            f"The export has ended: it is {known.state}",
            next_step="Clear the run's first task, `admit`, with downstream: it begins anew",
            export=known.id,
        )


def require_unchanged(run: WaveRun, load: Load) -> None:
    """A run that has ended and is cleared begins anew only as it began: the present files must say the same place.

    :raises SpecError: they allow no export, or lead elsewhere.
    """
    if run.state is WaveRunState.RUNNING:
        return
    then = frozen(run).environment
    unlimited = {"limit": 0}  # how many run at a time may change
    places = [place_of(each).model_copy(update=unlimited) for each in (then, load(then.environment))]
    if places[0] != places[1]:
        raise SpecError(
            "This run has ended, and the file of its environment has changed since it began",
            next_step="Start a new export",
            environment=then.environment,
        )
