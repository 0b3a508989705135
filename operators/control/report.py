"""The last task of a wave's run: it tells how every server ended, closes what is open and tidies up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from wavelift.base.printable import printable
from wavelift.operators._base import StateStore
from wavelift.operators._keys import FAILURE_KEY, PROOF_KEY, REPORT_KEY
from wavelift.operators.control._plane import WaveRunOperator
from wavelift.operators.control.admit import first_step_of_runs
from wavelift.rules.flows import ADMIT, MIGRATE, PREFLIGHT, REPLICATE, server_step

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.ledger import Ledger, Migration
    from wavelift.ledger.replication_records import ReplicationRun
    from wavelift.rules.flows import Flow
    from wavelift.rules.plans import ServerPlan
    from wavelift.services.common.grants import RefusedLink
    from wavelift.services.common.report import TaskOutcome
    from wavelift.services.dataplane.messages import PreflightReport
    from wavelift.services.migration.report import WaveReport
    from wavelift.services.replication.report import ReplicationReport, ServerEnd

FAILED_STATES: Final = ("failed", "upstream_failed", "removed")


def task_states(context: Context) -> dict[str, str]:
    """``task`` or ``task_<map index>`` → state, of the run that reports."""
    ti = context["ti"]
    return dict(ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {}))


def why_stopped(context: Context, states: Mapping[str, str], ended_by: Mapping[str, Collection[str]]) -> str:
    """What ended the run before its servers did. Airflow lets the report, a teardown, alone decide how the run ends.

    :param ended_by: task → states of it with which the run was over.
    """
    for name, bad in ended_by.items():
        if states.get(name) in bad:
            return f"{name}: {_words(context, name, -1) or 'it was stopped'}"
    return ""


def ended_by(first: str) -> dict[str, Collection[str]]:
    """For :func:`why_stopped`: neither ``admit`` nor the task that the run's mode begins with is skipped by itself.

    :param first: empty: the mode has none.
    """
    return dict.fromkeys((ADMIT, first) if first else (ADMIT,), ("failed", "skipped"))


def task_outcomes(context: Context, states: Mapping[str, str], servers: Sequence[str]) -> list[TaskOutcome]:
    """Each server's failed tasks and what they said; only those are asked for their words: one call each.

    :param servers: in the order of their map indexes.
    """
    from wavelift.services.common.report import TaskOutcome

    found = []
    for index, server in enumerate(servers):
        mine = {name.rpartition("_")[0]: state for name, state in states.items() if name.endswith(f"_{index}")}
        failed = tuple(name for name, state in mine.items() if server_step(name) and state in FAILED_STATES)
        said = (_words(context, name, index) or f"{name} was stopped" for name in failed if mine[name] == "failed")
        found.append(TaskOutcome(server=server, failed_tasks=failed, words=next(said, "")))
    return found


def _words(context: Context, task: str, map_index: int) -> str:
    return words_left(context["ti"], task, map_index=map_index)[0]


def words_left(ti: Any, task: str, *, map_index: int = -1) -> tuple[str, str]:
    """What a failed task left, and what to do next. A connector wrote it: another form than ours is nothing."""
    left = ti.xcom_pull(task_ids=task, key=FAILURE_KEY, map_indexes=map_index)
    if not isinstance(left, dict):
        return "", ""
    what, step = (printable(left.get(key) or "") for key in ("what", "next_step"))
    return what, step


def first_failure(context: Context, flow: Flow, states: Mapping[str, str]) -> str:
    """What the first task of the run said that failed, with the task's name; or which was stopped. Empty: none failed.

    Of a flow without mapped tasks.
    """
    for step in flow.steps:
        if states.get(step.name) in FAILED_STATES and states.get(step.name) != "upstream_failed":
            words, _ = words_left(context["ti"], step.name)  # with what to do next
            return f"{step.name}: {words or 'it was stopped'}"
    return ""


def believed(found: Any, state: str | None) -> PreflightReport | None:
    """What the pre-flight told of the servers; None if it told nothing of them, or did not succeed.

    Then its words say why. It may not have seen all servers, and none of them has tasks. A connector wrote it: another
    form than ours is nothing, and must not keep the report from closing what is open.

    :param found: the report that it left. :param state: of its task.
    """
    from pydantic import ValidationError

    from wavelift.services.dataplane.messages import PreflightReport

    if state != "success" or not isinstance(found, dict) or "servers" not in found:
        return None
    try:
        report = PreflightReport.load(found)
    except ValidationError:
        return None
    return None if report.blind else report


class ReportingOperator(WaveRunOperator):
    """What the reports of all flows share; use them as teardowns."""

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.common import grants

        refused = tuple(self._refused(context))
        with self.ledger() as ledger:
            report = self.finish(ledger, context, task_states(context))
            grants.tell_refused(ledger, refused, self.server_context(context))
        context["ti"].xcom_push(key=REPORT_KEY, value=report.dump())
        self.tell(report)
        grants.raise_when_refused(refused)
        return dict(report.dump())

    def _refused(self, context: Context) -> Iterator[RefusedLink]:
        """What connectors refused for want of a right, by what they left: they have no ledger (AMP-03)."""
        from wavelift.services.common import grants

        ti, states = context["ti"], task_states(context)
        if states.get(PREFLIGHT) == "success":
            yield from grants.in_preflight(ti.xcom_pull(task_ids=PREFLIGHT, key=REPORT_KEY, map_indexes=-1))
        for name, state in states.items():
            step, _, index = name.rpartition("_")
            task, place = (step, int(index)) if index.isdecimal() else (name, -1)
            if state == "failed":
                left = ti.xcom_pull(task_ids=task, key=FAILURE_KEY, map_indexes=place)
                yield from grants.in_words(task, left)

    def finish(self, ledger: Ledger, context: Context, states: Mapping[str, str]) -> Any:
        """Close what is open, and tell how each server ended."""
        raise NotImplementedError

    def tell(self, report: Any) -> None:
        """Log it, and raise when a server failed."""
        raise NotImplementedError

    def admitted(self, context: Context) -> Any:
        """What ``admit`` returned; None when it did not succeed."""
        return context["ti"].xcom_pull(task_ids=ADMIT, map_indexes=-1)

    def fence(self, context: Context) -> Callable[[str], None]:
        """To be called before anything is removed: a report that was cleared meanwhile must not touch it.

        Takes the id of what is tidied.
        """
        store = StateStore(context["task_state_store"])
        return lambda id: store.set("tidying", id)


class ReportOperator(ReportingOperator):
    """Tell how every server ended, close and tidy what is open, and fail when a server failed; use it as a teardown.

    Returns a :class:`~wavelift.services.migration.report.WaveReport`.

    :param wave: name of the wave.
    """

    plain_inputs = ("wave",)
    wave: str

    def finish(self, ledger: Ledger, context: Context, states: Mapping[str, str]) -> WaveReport:
        from wavelift.ledger import waves
        from wavelift.services.dataplane.messages import CleanupReport
        from wavelift.services.migration import report as migration

        ti = context["ti"]
        with ledger.read() as tx:
            frozen = waves.find(tx, self.server_context(context).run)
        first = MIGRATE.first_step(frozen.mode if frozen else "")
        found = ti.xcom_pull(task_ids=PREFLIGHT, key=REPORT_KEY, map_indexes=-1)
        preflight = believed(found, states.get(PREFLIGHT))
        ended = migration.Ended(
            preflight,
            task_outcomes(context, states, [task.name for task in preflight.passed] if preflight else []),
            stopped=why_stopped(context, states, ended_by(first)),
            swept=CleanupReport.load(found) if isinstance(found, dict) and "leftovers" in found else None,
        )
        return migration.finish(ledger, ended, self.server_context(context), tidy=self._tidy(context))

    def tell(self, report: WaveReport) -> None:
        from wavelift.services.migration import report as migration

        for one in report.outcomes:
            self.log.info("%-20s %-10s %s %s %s", one.server, one.state, one.image_id, one.instance_id, one.error)
        migration.raise_when_failed(report)

    def _tidy(self, context: Context) -> Callable[[Migration, ServerPlan], str]:
        """Ends imports and deletes what lies staged."""
        fence = self.fence(context)

        def tidy(migration: Migration, plan: ServerPlan) -> str:
            from wavelift.services.dataplane.abandon import abandon

            fence(migration.id)
            return abandon(self.aws_of(plan.target), plan, migration.run_key)

        return tidy


class ReplicationReportOperator(ReportingOperator):
    """Tell how every server ended, close and tidy what is open; use it as a teardown.

    Fails when a server failed, or was refused on demand: with the rule, and the time from which it holds no more.
    Returns a :class:`~wavelift.services.replication.report.ReplicationReport`.
    """

    def finish(self, ledger: Ledger, context: Context, states: Mapping[str, str]) -> ReplicationReport:
        from wavelift.services.dataplane.replication_messages import AdmittedRuns
        from wavelift.services.replication import report as replication

        ti = context["ti"]
        left = self.admitted(context)
        admitted = AdmittedRuns.load(left) if left else None
        # What an earlier try of it left stays when this one was skipped.
        looked = states.get(PREFLIGHT) == "success"
        found = ti.xcom_pull(task_ids=PREFLIGHT, key=REPORT_KEY, map_indexes=-1) if looked else None
        mapped = (ti.xcom_pull(task_ids=PREFLIGHT, map_indexes=-1) or []) if looked else []
        delete, verify = REPLICATE.first_step("delete"), REPLICATE.first_step("verify")
        ended = replication.Ended(
            admitted,
            believed(found, states.get(PREFLIGHT)),
            self.ends(context, states, [one["name"] for one in mapped]),
            stopped=why_stopped(context, states, ended_by(first_step_of_runs(admitted) if admitted else "")),
            deleted=ti.xcom_pull(task_ids=delete, map_indexes=-1) or (),
            verified=ti.xcom_pull(task_ids=verify, map_indexes=-1) or (),
            wrong=ti.xcom_pull(task_ids=verify, key=PROOF_KEY, map_indexes=-1) or {},
        )
        return replication.finish(ledger, ended, self.server_context(context), tidy=self._tidy(context, ledger))

    def tell(self, report: ReplicationReport) -> None:
        from wavelift.services.replication import report as replication

        for one in report.outcomes:
            self.log.info("%-20s %-10s %s %d blocks %s", one.server, one.state, one.ami_id, one.blocks_sent, one.error)
        replication.raise_when_failed(report)

    def _tidy(self, context: Context, ledger: Ledger) -> Callable[[ReplicationRun, ServerPlan], str]:
        fence = self.fence(context)

        def tidy(known: ReplicationRun, plan: ServerPlan) -> str:
            from wavelift.services.replication.image import tidy_run

            fence(known.id)
            return tidy_run(ledger, self.aws_of(plan.target), plan, known)

        return tidy

    def ends(self, context: Context, states: Mapping[str, str], servers: Sequence[str]) -> list[ServerEnd]:
        """How each server's tasks ended, and what its proof found wrong.

        A proof counts whatever state its task has: a person may have marked it as a success since. It names its server:
        a pre-flight that was cleared alone may list the servers in another order, or without this one.
        """
        from wavelift.services.common.report import TaskOutcome
        from wavelift.services.replication.report import ServerEnd

        left = context["ti"].xcom_pull(task_ids=[REPLICATE.task_id("verify")], key=PROOF_KEY) or ()
        wrong = {one["server"]: one["what"] for one in left if one}
        ends = {each.server: each for each in task_outcomes(context, states, servers)}
        for server in wrong:
            ends.setdefault(server, TaskOutcome(server=server, failed_tasks=(), words=""))
        return [ServerEnd(each, wrong.get(server, "")) for server, each in ends.items()]
