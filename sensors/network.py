"""Wait for a network's cutover that somebody else started. Runs on the control plane: it reads the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from wavelift.operators._inputs import Declared
from wavelift.operators.control._plane import OpensLedger

if TYPE_CHECKING:
    from airflow.sdk import Context


class NetworkCutoverSensor(OpensLedger, Declared, BaseOperator):
    """Wait, deferred, until a network's cutover is in a state; fail once it goes no further without reaching it.

    It watches only: killing it leaves the cutover alone. Never on a connector's queue: the ledger can't be reached
    there. One that failed goes no further by itself.

    :param cutover: ``net-…``, as the list of cutovers and the REST API give it.
    :param states: that are waited for: ``switched``, ``reverted``, ``finished`` … Default: ``switched``.
    """

    template_inputs = ("cutover", "states")
    cutover: str
    states: Sequence[str] = ("switched",)

    def execute(self, context: Context) -> Any:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.network_cutovers import NetworkCutoverTrigger
        from wavelift.rules.network_cutover import NetworkState
        from wavelift.rules.problem import allowed

        wrong = [each for each in self.states if each not in {state.value for state in NetworkState}]
        if wrong or not self.states:
            raise AirflowFailException(f"{', '.join(wrong) or 'nothing'} is no state; {allowed(list(NetworkState))}")
        trigger = NetworkCutoverTrigger(
            cutover=self.cutover, states=list(self.states), poll_seconds=config.poll_seconds()
        )
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """:raises AirflowFailException: it is in another state, from which it goes no further by itself."""
        from wavelift.base.errors import NotFoundError
        from wavelift.ledger import network_cutovers

        if "error" in event:
            raise RuntimeError(f"watching {self.cutover} failed: {event['error']}")
        try:
            with self.ledger() as ledger, ledger.read() as tx:
                known = network_cutovers.get(tx, self.cutover)
        except NotFoundError as error:
            raise AirflowFailException(str(error)) from error
        if event["state"] not in self.states:
            words = known.error or known.phase or "see its steps"
            raise AirflowFailException(f"{known.id} of {known.network} is {known.state}: {words}")
        return {"cutover": known.id, "network": known.network, "state": event["state"], "prefix": known.prefix}
