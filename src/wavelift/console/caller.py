"""What a caller may do with waves: Airflow's right on the DAG, and the environment's on top (AMP-02, AMP-03)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import Depends, HTTPException

from wavelift.base.errors import WaveliftError
from wavelift.base.run import DagRun, Requester, SystemClock
from wavelift.console.access import not_loaded, require_trigger
from wavelift.console.deps import LedgerDep, Specs, SpecsDep
from wavelift.ledger import Ledger, groups
from wavelift.rules.authority import Action
from wavelift.rules.flows import FLOWS, NETWORK
from wavelift.rules.hcx_environment import AnyEnvironment
from wavelift.rules.principals import ROLE
from wavelift.services.common import authority
from wavelift.services.common.authority import Rights
from wavelift.specs import Granting

log = logging.getLogger(__name__)


def roles_of(user: Any) -> frozenset[str] | None:
    """The caller's roles as groups ``role/NAME``: those of FAB, or the one of the simple auth manager.

    An auth manager without roles gives none. None: they could not be read, and what was seen before stays.
    """
    try:
        found = [getattr(user, "role", None), *(getattr(user, "roles", None) or ())]
    except Exception as error:  # an auth manager's own user may ask its database here
        log.warning("the roles of a user could not be read: %s", error)
        return None
    names = (getattr(each, "name", each) for each in found)
    return frozenset(f"{ROLE}{name}" for name in names if isinstance(name, str) and name)


def remember_roles(user: GetUserDep, ledger: LedgerDep) -> None:
    """Tasks cannot ask for roles: they believe what was seen here, for a while. At most one write in 5 minutes."""
    roles = roles_of(user)
    if roles is None:
        return
    try:
        groups.remember(ledger, user.get_name(), roles, at=SystemClock().now())
    except WaveliftError as error:  # what was asked does not depend on it
        log.warning("the roles of %s were not remembered: %s", user.get_name(), error)


@dataclass(frozen=True, slots=True)
class Given:
    """An environment, and what the caller may do in it: at least one thing."""

    environment: AnyEnvironment
    actions: tuple[Action, ...]


class Caller:
    """Who calls a route."""

    def __init__(self, user: Any, ledger: Ledger, specs: Specs) -> None:
        self.user = user
        self.requester = Requester(user.get_name())
        self._ledger = ledger
        self._specs = specs
        self.rights = Rights(specs.granting, specs.group_memory())

    def require(self, dag_id: str, action: Action, *, stops: bool = False) -> None:
        """The one question of every route that changes something of a wave, or of a network.

        :param dag_id: of one of its DAGs: the right to trigger it is asked first.
        :param stops: the route only stops what runs. While nobody can read what the environment says, the right on the
            DAG is enough for that.
        :raises HTTPException: 403, without the right on the DAG; 404, there is no such file.
        :raises DeniedError: the environment does not grant it.
        """
        require_trigger(self.user, dag_id)
        wave = next((wave for flow in FLOWS if (wave := flow.wave_of(dag_id))), "")
        network = NETWORK.wave_of(dag_id)
        environment = self._specs.environment_of_network(network) if network else self._specs.environment_of(wave)
        if environment is None and not stops:
            raise HTTPException(404, not_loaded(dag_id))
        if stops and self.rights.at(environment or "").granting is None:
            return
        authority.require(
            self._ledger,
            self.requester,
            environment or "",
            action,
            rights=self.rights,
            clock=SystemClock(),
            wave=wave or network,
        )

    def require_in(self, dag_id: str, environment: str, action: Action, *, wave: str | None = None) -> Granting:
        """Of a route that acts on what lies in an environment, by a run of a DAG that is no wave's; the environment, as
        its file is now.

        :param wave: of what it acts on; None: of no wave.
        :raises HTTPException: 403, without the right on the DAG. :raises DeniedError: the environment does not grant
            it.
        """
        require_trigger(self.user, dag_id)
        return authority.require(
            self._ledger, self.requester, environment, action, rights=self.rights, clock=SystemClock(), wave=wave
        )

    def require_stop_in(self, dag_id: str, environment: str, action: Action) -> None:
        """The same of a route that only stops what runs: while nobody can read what the environment says, the right on
        the DAG is enough.

        :raises HTTPException, DeniedError: as :meth:`require_in`.
        """
        require_trigger(self.user, dag_id)
        if self.rights.at(environment).granting is not None:
            self.require_in(dag_id, environment, action)

    def require_where(self, ran: Collection[DagRun], action: Action) -> None:
        """Of a route that acts on what earlier runs made: it changes nothing before the run which it starts would be
        refused.

        :raises DeniedError: an environment in which one of them landed does not grant it.
        """
        for environment in authority.landed_in(self._ledger, ran):
            authority.require(
                self._ledger, self.requester, environment, action, rights=self.rights, clock=SystemClock()
            )

    def given(self) -> Iterator[Given]:
        """The environments that are granted to the caller, by name; broken ones are granted to nobody."""
        now = SystemClock().now()
        for name in self._specs.environments():
            bench = self.rights.at(name)
            with self._ledger.read() as tx:
                actions = bench.granted(tx, self.requester, now=now)
            if bench.granting is not None and actions:
                yield Given(bench.granting.environment, actions)


def _caller(user: GetUserDep, ledger: LedgerDep, specs: SpecsDep) -> Caller:
    return Caller(user, ledger, specs)


CallerDep = Annotated[Caller, Depends(_caller)]
