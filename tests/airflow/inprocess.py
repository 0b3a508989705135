"""A wave's DAG run in this process: no scheduler, no api-server, one task after the other.

``dag.test()`` of Airflow's SDK walks through the DAG and hands each task to the SDK's supervisor; XComs, task states
and the task state store are those of a real metadata database (SQLite) behind a real execution API, and what is
deferred runs its trigger on the spot. Clearing is what the API's route does. What it has not: processes of their own,
other runs beside it, forms, a schedule. That is proven with a running Airflow.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from tests.airflow.outside import Outside

from wavelift.ledger import Migration

ALONE: Final = ("GetConnection", "GetVariable", "MaskSecret")
"""Requests whose answering asks Airflow itself: for those it must not take itself for a task."""


@contextmanager
def before(operator: Any, act: Callable[[], None], *, method: str = "work") -> Iterator[None]:
    """``act`` happens whenever a task of this operator begins, or comes to another of its methods."""
    real = getattr(operator, method)

    def acted(*given: Any, **more: Any) -> Any:
        act()
        return real(*given, **more)

    with patch.object(operator, method, acted):
        yield


@dataclass(kw_only=True)
class Lab(Outside):
    """Airflow's metadata database and settings for runs in this process.

    :param home: stands for ``AIRFLOW_HOME``.
    :param settings: environment variables of every run.
    """

    home: Path
    settings: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def environment(self, **more: str) -> Iterator[None]:
        """Airflow's settings, for as long as something of it runs."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
        with patch.dict(os.environ, {**kept, **self.settings, **more}, clear=True):
            yield

    def run(self, dag_id: str, conf: dict[str, Any] | None = None, *, file: str = "waves.py", **settings: str) -> Done:
        """Run a DAG of the folder to its end.

        :param file: the DAG file that has it.
        :param settings: more environment variables, for this run.
        """
        with self.environment(**settings):
            run = self._dag(dag_id, file).test(run_conf=conf)
        return Done(self, dag_id, run.run_id, str(run.state.value), file)

    def run_scheduled(self, dag_id: str, instant: datetime) -> Done:
        """Run a DAG as its timetable would for an instant: nobody triggered it."""
        with patch("airflow.models.dagrun.get_or_create_dagrun", _scheduled_for(instant)):
            return self.run(dag_id)

    def _dag(self, dag_id: str, file: str) -> Any:
        """Parsed anew: a run leaves its conf in the params of the DAG that ran it."""
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(dag_folder=self.dags / file).dags[dag_id]
        dag.deadline = None  # ``dag.test()`` looks for the ids that only a serialised DAG has
        return dag

    def clear(self, done: Done, *tasks: str | tuple[str, int], **settings: str) -> Done:
        """Clear tasks of a run with all that comes after them, as the web UI does, and run it to its end again.

        ``dag.test()`` begins every run anew: here it finds the one that is there, as it was left.
        """
        from airflow.serialization.definitions.dag import SerializedDAG

        with self.environment(**settings):
            _clear(self._dag(done.dag_id, done.file), done.run_id, tasks)
            with (
                patch("airflow.models.dagrun.get_or_create_dagrun", _finds(done.run_id)),
                patch.object(SerializedDAG, "clear_dags", lambda *_, **__: None),
            ):
                run = self._dag(done.dag_id, done.file).test()
        return Done(self, done.dag_id, run.run_id, str(run.state.value), done.file)


@dataclass(frozen=True)
class Done:
    """A DAG run that has ended."""

    lab: Lab
    dag_id: str
    run_id: str
    state: str
    file: str = "waves.py"

    def ends(self, expected: str) -> Done:
        assert self.state == expected, self.describe()
        return self

    def describe(self) -> str:
        return "\n".join(f"{row['task_id']}[{row['map_index']}] {row['state']}" for row in self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Its task instances."""
        from airflow.models.taskinstance import TaskInstance

        names = ("task_id", "map_index", "state", "try_number", "rendered_map_index")
        with _session(self.lab) as session:
            found = session.query(TaskInstance).filter_by(dag_id=self.dag_id, run_id=self.run_id)
            return [{name: getattr(row, name) for name in names} for row in found]

    def row(self, task: str, index: int = -1) -> dict[str, Any]:
        name = task if index < 0 else f"server.{task}"
        return next(row for row in self.rows() if (row["task_id"], row["map_index"]) == (name, index))

    def states(self) -> dict[str, str]:
        """Task → state, of tasks that are there once."""
        return {row["task_id"]: row["state"] for row in self.rows() if row["map_index"] < 0}

    def xcom(self, task: str, *, index: int = -1, key: str = "return_value") -> Any:
        from airflow.models.xcom import XComModel

        name = task if index < 0 else f"server.{task}"
        with _session(self.lab) as session:
            found = session.query(XComModel).filter_by(
                dag_id=self.dag_id, run_id=self.run_id, task_id=name, map_index=index, key=key
            )
            row = found.one_or_none()
            return XComModel.deserialize_value(row) if row is not None else None

    def edit(self, task: str, value: Any, *, index: int = -1, key: str = "return_value") -> None:
        """Change an XCom, as a person may over REST: that route stores the value as it came, and serialises nothing."""
        from airflow.models.xcom import XComModel

        name = task if index < 0 else f"server.{task}"
        with _session(self.lab) as session:
            where: dict[str, Any] = {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": name, "map_index": index}
            XComModel.set(key, value, **where, serialize=False, session=session)
            session.commit()

    def rendered(self, task: str, *, index: int = -1) -> dict[str, Any]:
        """The fields of a task as the web UI shows them."""
        from airflow.models.renderedtifields import RenderedTaskInstanceFields

        name = task if index < 0 else f"server.{task}"
        with _session(self.lab) as session:
            found = session.query(RenderedTaskInstanceFields).filter_by(
                dag_id=self.dag_id, run_id=self.run_id, task_id=name, map_index=index
            )
            return dict(found.one().rendered_fields)

    def report(self) -> dict[str, Any]:
        return dict(self.xcom("report", key="report"))

    def outcome(self, server: str) -> dict[str, Any]:
        return next(one for one in self.report()["outcomes"] if one["server"] == server)

    def index(self, server: str) -> int:
        """The map index of a server."""
        return [one["name"] for one in self.xcom("preflight")].index(server)

    def migration(self, server: str) -> Migration:
        return next(one for one in self.lab.ended() if (one.dag_run_id, one.server) == (self.run_id, server))

    def words(self, task: str, index: int = -1) -> str:
        """What a failed task left for the report."""
        return str((self.xcom(task, index=index, key="wavelift_failure") or {}).get("what", ""))


def _clear(dag: Any, run_id: str, tasks: Sequence[str | tuple[str, int]]) -> None:
    """What the route ``clearTaskInstances`` does with ``include_downstream``."""
    from airflow.models.taskinstance import clear_task_instances, find_relevant_relatives
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.utils.session import create_session

    known = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    plain = {task for task in tasks if isinstance(task, str)}
    mapped = {task for task in tasks if not isinstance(task, str)}
    with create_session() as session:
        wanted: dict[str, Any] = {"dag": known, "run_id": run_id, "session": session}
        after = find_relevant_relatives(plain, mapped, direction="downstream", **wanted)
        chosen = {*tasks, *after}
        markers = [task for task in chosen if isinstance(task, str) or task[0] not in chosen]
        clear_task_instances(known.clear(dry_run=True, task_ids=markers, run_id=run_id, session=session), session)


def _finds(run_id: str) -> Any:
    """Instead of ``get_or_create_dagrun``: the run that is there."""

    def found(*, dag: Any, session: Any, **_: Any) -> Any:
        from airflow.models.dagrun import DagRun
        from airflow.utils.state import DagRunState

        run = session.query(DagRun).filter_by(dag_id=dag.dag_id, run_id=run_id).one()
        run.dag = dag
        run.set_state(DagRunState.RUNNING)
        session.commit()
        return run

    return found


def _scheduled_for(instant: datetime) -> Any:
    """Instead of ``get_or_create_dagrun``: a run as the scheduler makes it."""

    def made(*, dag: Any, session: Any, run_id: str, **_: Any) -> Any:
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        return dag.create_dagrun(
            run_id=run_id.replace("manual", "scheduled"),
            logical_date=instant,
            data_interval=(instant, instant),
            run_after=instant,
            run_type=DagRunType.SCHEDULED,
            state=DagRunState.RUNNING,
            triggered_by=DagRunTriggeredByType.TIMETABLE,
            start_date=datetime.now(UTC),
            session=session,
        )

    return made


@contextmanager
def _session(lab: Lab) -> Iterator[Any]:
    from airflow import settings

    with lab.environment():
        make: Any = settings.Session
        session = make()
        try:
            yield session
        finally:
            session.close()


@contextmanager
def airflow_here(lab: Lab) -> Iterator[None]:
    """Airflow in this process with a fresh metadata database, as :class:`Lab` wants it."""
    from airflow import settings
    from airflow.sdk.execution_time import supervisor
    from airflow.utils.db import initdb
    from botocore.loaders import JSONFileLoader

    def connect() -> None:
        settings.configure_vars()
        settings.configure_orm()

    with ExitStack() as stack:
        with lab.environment():
            settings.dispose_orm()
            connect()
            stack.callback(connect)
            stack.callback(settings.dispose_orm)
            initdb()
        stack.enter_context(patch.object(supervisor.InProcessSupervisorComms, "send", _locked_send(supervisor)))
        # Each task makes clients of its own, as in a process of its own, and would read the services' models anew.
        read = functools.lru_cache(maxsize=None)(JSONFileLoader().load_file)
        stack.enter_context(patch.object(JSONFileLoader, "load_file", lambda _self, path: read(path)))
        yield


def _locked_send(supervisor: Any) -> Any:
    """The SDK's own is for one thread; a transfer's heartbeat writes beside it.

    It also takes the module's ``SUPERVISOR_COMMS`` away while it sends, from whoever else sends just then. And it lets
    the client's errors through; a task in a process of its own sees an answer that says what was wrong instead.
    """
    from airflow.sdk.api.client import ServerResponseError
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse

    lock = threading.RLock()

    def send(self: Any, msg: Any) -> Any:
        with lock:
            alone = supervisor.set_supervisor_comms(None) if type(msg).__name__ in ALONE else nullcontext()
            try:
                with alone:
                    self.supervisor._handle_request(msg, supervisor.log, 0)
            except ServerResponseError as error:
                told = {"status_code": error.response.status_code, "message": str(error), "detail": error.detail}
                raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=told)) from error
            return self._get_response()

    return send
