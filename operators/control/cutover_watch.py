"""Upkeep of open cutovers on the control plane: what was seen of fenced sources, servers that nobody serves,
and networks that nobody routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from wavelift.operators.control._plane import ControlOperator
from wavelift.operators.control._telling import TellingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.adapters.aws.access import AwsAccess
    from wavelift.ledger import Ledger
    from wavelift.ledger.cutover_records import TargetPlace
    from wavelift.services.network.alerts import NetworkAlert


class WatchedSourcesOperator(ControlOperator):
    """List the sources on a connector that cutovers stopped and fenced. Skipped if there is none.

    :param connector: the queue that looks at them.
    """

    plain_inputs = ("connector",)
    connector: str

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.services.cutover.watch import watched

        with self.ledger() as ledger:
            found = watched(ledger, self.connector)
        if not found:
            raise AirflowSkipException(f"no cutover on connector {self.connector} is open")
        return [each.dump() for each in found]


class JudgeSourcesOperator(TellingOperator):
    """Alert for sources that are on, or connected, and grant that they are fenced again where their file says so.

    Returns a :class:`~wavelift.services.cutover.watch.Judged`.

    :param seen: what :class:`LookAtSourcesOperator` returned.
    """

    template_inputs = ("seen",)
    seen: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.cutover.watch import judge
        from wavelift.services.dataplane.cutover_messages import SeenSource

        seen = [SeenSource.load(each) for each in self.seen or ()]
        with self.ledger() as ledger:
            ctx = self.server_context(context)
            found = judge(ledger, seen, ctx, rights=self.rights(), key_file=config.grant_key_file())
            self.tell(ledger, found.wrong, "fence", context)
        for each in seen:
            if each.error:
                self.log.error("%s: %s", each.server, each.error)
        return dict(found.dump())


class CutoverUpkeepOperator(TellingOperator):
    """Alert for servers that perhaps nobody serves and networks that perhaps nobody routes, and end test instances
    whose time is over."""

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.cutover.trial import end_due
        from wavelift.services.cutover.watch import alarm
        from wavelift.services.network import alerts

        with self.ledger() as ledger:
            ctx = self.server_context(context)
            told = alarm(ledger, ctx)
            self.tell(ledger, told, "nobody_serves", context)
            networks = alerts.alarm(ledger, ctx)
            for one in networks:
                self._nobody_routes(ledger, one, context)
            ending = end_due(ledger, self._access, by=str(ctx.run), clock=ctx.clock)
        return {"alarms": [*(each.words for each in told), *(one.words for one in networks)], "ending": list(ending)}

    def _nobody_routes(self, ledger: Ledger, alert: NetworkAlert, context: Context) -> None:
        from wavelift.airflow.notifiers import Kind, Notice, notify

        self.log.error("%s: %s. %s", alert.network, alert.words, "; ".join(alert.next_steps))
        notice = Notice(
            kind=Kind.NOBODY_ROUTES,
            subject=f"{alert.cutover} {alert.since.isoformat()}",
            title=f"{alert.network}: {alert.words}",
            text="\n".join((alert.words, *alert.next_steps)),
            at=alert.since,
            details={"cutover": alert.cutover, "network": alert.network},
        )
        notify(ledger, notice, context)

    def _access(self, place: TargetPlace) -> AwsAccess:
        return self.aws_of(place)
