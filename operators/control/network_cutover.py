"""The named step of other people's DAGs: cut a network over, go back, or finish, and wait until it has ended."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from wavelift.operators.control._starting import StartingOperator
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


class NetworkCutoverOperator(StartingOperator):
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
        run = named_run(self.network, conf, self.request_name(context))
        with self.ledger() as ledger:
            known = self._asked(ledger, conf, run, context)
            if self.has_ended(context, run):
                return self._told(ledger, known.id, conf, run)
        self.wait_for_end(run)

    def _asked(self, ledger: Ledger, conf: NetworkConf, run: DagRun, context: Context) -> NetworkCutover:
        """The cutover of the request, whose DAG run is there."""
        from wavelift.rules.authority import Action
        from wavelift.services.common.authority import require
        from wavelift.services.network import requests

        before = requests.made_before(ledger, run)
        if before is not None:
            return before
        place, own = present_place(self.network), self.server_context(context)
        environment = place.environment.environment
        require(ledger, own.asker, environment, Action.CUT_OVER, rights=self.rights(), clock=own.clock)
        self.require_awake(context, run.dag_id)
        made = requests.reserve(ledger, place, conf, replace(own, run=run), request_id=self.request_name(context))
        assert made is not None  # every mode here has one
        if conf.mode != "cutover":  # the run is about this one, whatever is open when it begins
            conf = conf.model_copy(update={"cutover": made.id})
        self.start(run, conf.given(), note=self.note, give_back=lambda: requests.give_back(ledger, run, own.clock))
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
