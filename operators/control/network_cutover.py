"""The named step of other people's DAGs: cut a network over, go back, or finish, and wait until it has ended."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from wavelift.operators.control._waiting import WaitingOperator
from wavelift.operators.control.cutover_plan import is_asleep
from wavelift.operators.control.network import present_place
from wavelift.rules.network_cutover import NetworkState

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.run import DagRun
    from wavelift.ledger import Ledger
    from wavelift.ledger.hcx_records import NetworkCutover
    from wavelift.rules.conf import NetworkConf

GOALS: Final = {
    "cutover": (NetworkState.SWITCHED, NetworkState.FINISHING, NetworkState.FINISHED),
    "revert": (NetworkState.REVERTED,),
    "finish": (NetworkState.FINISHED,),
}
"""Mode → states with which it is reached."""


class NetworkCutoverOperator(WaitingOperator):
    """Cut a network over, as ``POST /networks/{name}/cutovers`` does, and wait, deferred, until its run has ended.

    Control plane. Whoever triggered this DAG run must be allowed to cut over in the network's environment. The same
    ``request_id`` is the same cutover: a retry and a clear find it, and nothing is begun twice. Killing the task leaves
    the cutover alone. Returns ``{"cutover": …, "state": …, "dag_run_id": …}``; fails if it was not reached.

    :param network: its name.
    :param mode: ``cutover`` (default), ``revert`` or ``finish``.
    :param cutover: of modes revert and finish: id of the cutover. Default: the open one.
    :param request_id: your own name of this request. Default: made of this task and its DAG run.
    :param note: kept with the run.
    """

    template_inputs = ("network", "mode", "cutover", "request_id", "note")
    network: str
    mode: str = "cutover"
    cutover: str = ""
    request_id: str = ""
    note: str = ""

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.instant import ENDED, DagRunTrigger
        from wavelift.base.errors import PermanentError
        from wavelift.rules.conf import NetworkConf
        from wavelift.services.network.requests import named_run

        given = {"mode": self.mode, "cutover": self.cutover, "note": self.note}
        conf = NetworkConf.read({key: value for key, value in given.items() if value}, network=self.network)
        if conf.mode not in GOALS:
            raise PermanentError(
                f"Mode {conf.mode} is none that can be waited for",
                next_step=f"Use one of {', '.join(GOALS)}",
                network=self.network,
            )
        run = named_run(self.network, conf, self._name(context))
        with self.ledger() as ledger:
            known = self._asked(ledger, conf, run, context)
            state: Any = context["ti"].get_dagrun_state(run.dag_id, run.dag_run_id)
            if str(getattr(state, "value", state)) in ENDED:
                return self._told(ledger, known.id, conf, run)
        self.log.info("waits for %s", run)
        self.wait_for(DagRunTrigger(dag_id=run.dag_id, run_id=run.dag_run_id, poll_seconds=config.poll_seconds()))

    def _name(self, context: Context) -> str:
        from wavelift.base.names import run_hash, run_key

        ti = context["ti"]
        return self.request_id or run_hash(run_key(ti.dag_id, ti.run_id, f"{ti.task_id}[{ti.map_index}]"))

    def _asked(self, ledger: Ledger, conf: NetworkConf, run: DagRun, context: Context) -> NetworkCutover:
        """The cutover of the request, whose DAG run is there."""
        from wavelift.airflow.runs import start_run
        from wavelift.base.errors import PermanentError
        from wavelift.rules.authority import Action
        from wavelift.services.common.authority import require
        from wavelift.services.network import requests

        before = requests.made_before(ledger, run)
        if before is not None:
            return before
        place, own = present_place(self.network), self.server_context(context)
        environment = place.environment.environment
        require(ledger, own.asker, environment, Action.CUT_OVER, rights=self.rights(), clock=own.clock)
        if is_asleep(context, run.dag_id):
            raise PermanentError(
                f"The DAG {run.dag_id} is paused, or Airflow does not have it: nothing of it starts",
                next_step=f"Unpause {run.dag_id}, then clear this task",
            )
        made = requests.reserve(ledger, place, conf, replace(own, run=run), request_id=self._name(context))
        assert made is not None  # every mode here has one
        if conf.mode != "cutover":  # the run is about this one, whatever is open when it begins
            conf = conf.model_copy(update={"cutover": made.id})
        try:
            start_run(run, conf.given(), note=self.note)
        except Exception:
            requests.give_back(ledger, run, own.clock)
            raise
        self.log.info("%s: %s, run %s", self.network, made.id, run.dag_run_id)
        return made

    def _told(self, ledger: Ledger, id: str, conf: NetworkConf, run: DagRun) -> dict[str, Any]:
        from wavelift.base.errors import PermanentError
        from wavelift.ledger import network_cutovers

        with ledger.read() as tx:
            known = network_cutovers.get(tx, id)
        if known.state not in GOALS[conf.mode]:
            raise PermanentError(
                f"The network's cutover is {known.state}: {known.error or known.phase}",
                next_step=f"See `wavelift network show {known.id}`",
                network=known.network,
                alert=known.alert or None,
            )
        return {"cutover": known.id, "state": str(known.state), "dag_run_id": run.dag_run_id}
