"""Routes of environments and of the caller: who am I, and where may I send servers (AMP-02)."""

from __future__ import annotations

from fastapi import FastAPI

from wavelift.base.errors import NotFoundError
from wavelift.console.access import require_trigger
from wavelift.console.answers import EnvironmentDetails, EnvironmentList, EnvironmentRow, Me, RunStarted
from wavelift.console.caller import Caller, CallerDep, Given, roles_of
from wavelift.console.deps import AirflowDep, SpecsDep, start_run
from wavelift.rules.authority import WHOAMI
from wavelift.rules.conf import EnvironmentConf
from wavelift.rules.environment import CHECK_DAG
from wavelift.rules.hcx_environment import aws_only


def add_environment_routes(app: FastAPI) -> None:
    @app.get("/me")
    def show_me(caller: CallerDep, specs: SpecsDep) -> Me:
        """The caller's name, roles and groups as environments name them, and what is granted to them."""
        principals, problem = specs.principals()
        name = caller.requester.name
        return Me(
            name=name,
            roles=sorted(roles_of(caller.user) or ()),
            groups=sorted(principals.groups_of(name)) if principals else [],
            vcenter_principal=principals.vcenter_principal(name) if principals else None,
            environments=[_row(given) for given in caller.given()],
            problem=problem,
        )

    @app.get("/environments")
    def list_environments(caller: CallerDep) -> EnvironmentList:
        """The environments that are granted to the caller."""
        return EnvironmentList(environments=[_row(given) for given in caller.given()])

    @app.get("/environments/{environment}")
    def show_environment(environment: str, caller: CallerDep) -> EnvironmentDetails:
        """What an environment that is granted to the caller allows."""
        given = given_to(caller, environment)
        return EnvironmentDetails(**_row(given).model_dump(), spec=given.environment.dump())

    @app.post("/environments/{environment}/check")
    def check_environment(environment: str, caller: CallerDep, airflow: AirflowDep) -> RunStarted:
        """Check the account of an environment that is granted to the caller, by a run of ``environment_check``."""
        require_trigger(caller.user, CHECK_DAG)
        name = aws_only(given_to(caller, environment).environment).environment
        return start_run(airflow, CHECK_DAG, EnvironmentConf(environment=name))


def given_to(caller: Caller, name: str) -> Given:
    """:raises NotFoundError: nothing of it is granted to the caller: whether it is there is not told."""
    for given in caller.given():
        if given.environment.environment == name:
            return given
    raise NotFoundError(
        "No environment of this name is granted to you",
        next_step=f"`{WHOAMI}` shows what is; an administrator adds you under 'may' of the environment's file",
        environment=name,
    )


def _row(given: Given) -> EnvironmentRow:
    return EnvironmentRow.of(
        given.environment, name=given.environment.environment, actions=[each.value for each in given.actions]
    )
