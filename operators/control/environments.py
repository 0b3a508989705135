"""The check of an environment, from the control plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators._base import conf_of
from wavelift.operators.control._plane import ControlOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class EnvironmentCheckOperator(ControlOperator):
    """Pre-flight's account part of the environment that the form names, the free addresses of its subnets, and whether
    the user has a name in vCenter.

    Only for users to whom something of it is granted. Returns an
    :class:`~wavelift.services.housekeeping.environments.EnvironmentCheck`: what is wrong is told there and fails no
    task. An environment of kind ``hcx`` has no account, and is refused.
    """

    first_contact = True

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.rules.conf import EnvironmentConf
        from wavelift.rules.hcx_environment import aws_only
        from wavelift.services.housekeeping.environments import check, environment_to_check

        conf = EnvironmentConf.read(conf_of(context))
        ctx = self.server_context(context)
        with self.ledger() as ledger:
            granting = environment_to_check(ledger, conf.environment or "", ctx, rights=self.rights())
        found = check(lambda: self.aws_of(aws_only(granting.environment)), granting, user=ctx.asker.name)
        for one in found.findings:
            self.log.info("%-8s %s. %s", one.severity, one.what, one.next_action)
        return found.dump()
