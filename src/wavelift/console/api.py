"""The REST API under ``/wavelift``: the application, and how errors become answers.

Every route denies by default: reading needs the right to read the DAG behind it, writing the right to trigger it, and
what changes something of a wave needs the right in its environment, too.
What runs in Airflow is started and stopped through Airflow's own REST API with the caller's token, so Airflow's own
checks and audit log apply too.
"""

from __future__ import annotations

from typing import Any, Final, cast

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from wavelift import __version__
from wavelift.airflow.rest import ApiError
from wavelift.base.errors import BusyError, DeniedError, NotFoundError, PermanentError, RefusedError, WaveliftError
from wavelift.console.answers import FieldProblem, Problem, WrongRequest
from wavelift.console.audit import add_audit_routes
from wavelift.console.caller import remember_roles
from wavelift.console.catalog import add_catalog_routes
from wavelift.console.cutovers import add_cutover_routes
from wavelift.console.environments import add_environment_routes
from wavelift.console.events import add_event_routes
from wavelift.console.exports import add_export_routes
from wavelift.console.gate import Gate, Login, airflow_login
from wavelift.console.live import add_live_routes
from wavelift.console.migrations import add_migration_routes
from wavelift.console.networks import add_network_routes
from wavelift.console.origin import SameOrigin
from wavelift.console.queue import add_queue_routes
from wavelift.console.replication import add_replication_routes
from wavelift.console.replication_runs import add_replication_run_routes
from wavelift.console.trials import add_trial_routes
from wavelift.console.values import storable_values
from wavelift.rules.wording import problem_of

STATUS: Final = ((NotFoundError, 404), (DeniedError, 403), (PermanentError, 409), (BusyError, 409))
"""What is as it is: the same request would be refused again. The first kind counts."""


REFUSALS: Final[dict[int | str, tuple[type[BaseModel], str]]] = {
    401: (Problem, "No login"),
    403: (Problem, "The caller lacks the right, the token is not valid, or the cookie came from another origin"),
    404: (Problem, "There is no such thing"),
    408: (Problem, "The body did not come in time"),
    409: (Problem, "A rule or the present state refuses it"),
    413: (Problem, "The body is too long"),
    422: (WrongRequest, "The request is wrong; `detail` has one entry per wrong field"),
    429: (Problem, "Too many requests of the caller are under way"),
    "4XX": (Problem, "Refused; `detail` says why and what to do"),
    502: (Problem, "Airflow's own API did not answer"),
    503: (Problem, "It cannot be served now; try again later"),
}
"""What every route may answer instead of its result."""


def create_app(login: Login = airflow_login) -> FastAPI:
    """The application that Airflow's api-server mounts."""
    app = FastAPI(
        title="wavelift",
        version=__version__,
        # Deny by default: no route without a login, whatever it forgets to ask; FastAPI's own pages know no login.
        dependencies=[Depends(get_user), Depends(storable_values), Depends(remember_roles)],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses={status: {"model": model, "description": words} for status, (model, words) in REFUSALS.items()},
    )
    app.add_middleware(Gate, login=login)
    app.add_middleware(SameOrigin)  # the outer one
    app.add_exception_handler(WaveliftError, _wavelift_error)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    add_migration_routes(app)
    add_catalog_routes(app)
    add_replication_routes(app)
    add_replication_run_routes(app)
    add_cutover_routes(app)
    add_network_routes(app)
    add_trial_routes(app)
    add_live_routes(app)
    add_export_routes(app)
    add_queue_routes(app)
    add_event_routes(app)
    add_environment_routes(app)
    add_audit_routes(app)
    return app


async def _wavelift_error(request: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 503)
    answer: dict[str, Any] = {"detail": str(error)}
    if isinstance(error, RefusedError):  # for programs: the rule, and when it will hold no more
        rule = {name: error.where.get(name) for name in ("rule", "until")}
        answer = Problem.model_validate({**answer, **rule, "refusals": error.refusals}).model_dump(mode="json")
    return JSONResponse(answer, status_code=status)


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, ApiError) and 400 <= error.status < 500 else 502
    return JSONResponse({"detail": str(error)}, status_code=status)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's own answer (422), in the words that a run's conf and the specs are refused with."""
    assert isinstance(error, RequestValidationError)
    field = getattr(request.scope.get("route"), "body_field", None)
    body = field.field_info.annotation if field is not None else None
    told = []
    for detail in error.errors():
        place, *inner = detail["loc"]
        message = str(detail["msg"])
        if inner and detail["type"] != "json_invalid":
            seen = cast(ErrorDetails, {**detail, "loc": tuple(inner)})
            message = problem_of(body if place == "body" else None, seen).message
        told.append(FieldProblem(loc=list(detail["loc"]), msg=message, type=detail["type"]))
    return JSONResponse(WrongRequest(detail=told).model_dump(mode="json"), status_code=422)
