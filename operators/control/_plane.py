"""What operators of the control plane add: the ledger, which they alone write, and waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from wavelift.base.errors import TamperedError, WaveliftError
from wavelift.operators._base import ServerOperator, WaveliftOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.ledger import Ledger
    from wavelift.rules.plans import ResolvedWave
    from wavelift.services.common.admit import Lost
    from wavelift.services.common.authority import Allowed, Rights
    from wavelift.services.common.wanted import Terms
    from wavelift.services.dataplane.messages import ServerTask


class OpensLedger:
    """Of an operator or sensor of the control plane: the one place where the ledger is opened."""

    def ledger(self) -> Ledger:
        """The ledger; use it in a ``with`` block, and not while disks are read."""
        from wavelift.airflow import config
        from wavelift.ledger import Ledger

        return Ledger.open(config.ledger_url())


class ControlOperator(OpensLedger, WaveliftOperator):
    """Base of operators for Airflow's default queue: the ledger and AWS, no vCenter."""

    def resolved(self, wave: str) -> ResolvedWave:
        """The wave as its files are now. :raises SpecError: when they do not allow a new run."""
        from wavelift.airflow import config
        from wavelift.specs import resolved_wave

        return resolved_wave(wave, config.waves_folder(), config.environments_folder())

    def lost_rights(self) -> Lost:
        """Tells what an ended run of the wave froze that the present files do not allow any more."""
        from wavelift.services.common.admit import lost_of

        return lost_of(self.resolved)

    def rights(self) -> Rights:
        """Asks who may do what, by the files as they are now."""
        from wavelift.airflow.rights import present_rights

        return present_rights()

    def terms(self, context: Context) -> Terms:
        """On which terms the run's servers wait for slots."""
        from wavelift.airflow import config
        from wavelift.rules.queue import Priority
        from wavelift.services.common.wanted import Terms

        return Terms(
            per_account=config.integer("migrations_per_account"),
            per_datastore=config.integer("snapshots_per_datastore"),
            per_host=config.integer("reads_per_host"),
            priority=Priority.named(str((context["dag_run"].conf or {}).get("priority"))),
        )


class WaveRunOperator(ControlOperator):
    """Base of the control plane's tasks in the run of a wave.

    A refusal of edited XComs is an event in the audit trail, also though the task fails.
    """

    def leave_words(self, context: Context, error: WaveliftError) -> None:
        if isinstance(error, TamperedError):
            from wavelift.services.common import frozen

            ctx = self.server_context(context, str(error.where.get("server", "")))
            with self.ledger() as ledger:
                frozen.tell(ledger, error, ctx, task=self.task_id)
        super().leave_words(context, error)


class ControlServerOperator(ServerOperator, WaveRunOperator):
    """Base of the control plane's tasks for one server of a wave.

    What came by XCom is compared with the ledger before :meth:`work_on`, which gets the plan that the run froze.
    """

    action: ClassVar[str] = "migrate"
    """An :class:`~wavelift.rules.authority.Action`: what whoever stands behind the server must be allowed."""
    reserves: ClassVar[bool] = False
    """Whether this task binds the server to its VM and map index; all others must find it so."""
    came: ServerTask
    """As it came by XCom, before the plan was replaced with the frozen one."""
    allowed: Allowed
    """Of a task that reserves: by whose right, and by which files."""

    def work(self, context: Context) -> Any:
        from wavelift.rules.authority import Action
        from wavelift.rules.cutover import is_presync
        from wavelift.services.common import frozen
        from wavelift.services.common.admit import reopen
        from wavelift.services.common.authority import require_again, require_rights

        task = self.came = self.server_task(context, self.server)
        with self.ledger() as ledger:
            ctx = self.server_context(context, task.name)
            # Whoever may cut over may send what changed before it.
            action = Action.CUT_OVER if is_presync(ctx.run) else Action(self.action)
            if self.reserves:
                task = frozen.checked(ledger, task, ctx, reserves=True)
                # Before each asking: a right that was taken away while the server waited grants nothing. And before a
                # run that has ended is opened again: whoever may not leaves it closed.
                self.allowed = require_again(ledger, ctx, action, rights=self.rights())
                reopen(ledger, self.lost_rights(), ctx)
            else:
                require_rights(ledger, self.lost_rights(), action, ctx, rights=self.rights())
                task = frozen.checked(ledger, task, ctx)
        return self.work_on(task, context)
