"""Code that the DAGs of all flows of a wave share.

The structure of a DAG never depends on the list of servers, which only fills the form. Edges, queues and teardowns come
from :mod:`wavelift.rules.flows`. The module of each flow makes the tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, cast

from airflow.sdk import DAG, BaseOperator, Param, task_group
from airflow.sdk.definitions.param import ParamsDict

from wavelift.airflow.notifications import run_callbacks
from wavelift.rules.authority import BY_NAME, SCHEDULED
from wavelift.rules.flows import SERVER_GROUP, Flow, Plane
from wavelift.rules.plans import WaveShape

MAX_RETRY_DELAY: Final = timedelta(minutes=10)
TEARDOWN_RETRIES: Final = 10
"""A snapshot that is not removed can harm the customer. Its removal is retried for about an hour (back-off up to 10
minutes)."""


class WaveTasks(ABC):
    """The tasks of one flow for one wave. Subclasses make them with :meth:`task`, in the order of the flow."""

    def __init__(self, flow: Flow, shape: WaveShape) -> None:
        self.flow = flow
        self.shape = shape
        self._queues = self.queues()
        self._made: dict[str, Any] = {}
        self._server: Any = None

    def queues(self) -> dict[Plane, str]:
        """The queue of each plane; the others have Airflow's default queue."""
        return {Plane.CONNECTOR: self.shape.connector, Plane.ENVIRONMENT: self.shape.environment_queue}

    @abstractmethod
    def of_run(self) -> Any:
        """Make the tasks that run before the servers' tasks. Return the value over which the server group is mapped."""

    @abstractmethod
    def of_server(self) -> None:
        """Make the tasks of one server."""

    @abstractmethod
    def report(self) -> BaseOperator:
        """Make the last task of the run."""

    def mapped(self, server: Any) -> None:
        # No docstring: Airflow shows it as the group's tooltip.
        self._server = server
        self.of_server()

    def task(self, kind: type[BaseOperator], name: str, **arguments: Any) -> Any:
        """Make the task of a step. The step defines its queue, its edges and whether it is a teardown."""
        step = self.flow.step(name)
        if step.plane in self._queues:
            arguments["queue"] = self._queues[step.plane]
        if step.per_server:
            arguments |= {"server": self._server, "map_index_template": "{{ task.server['name'] }}"}
        if step.per_server and step.teardown:
            arguments["retries"] = TEARDOWN_RETRIES
        made: Any = kind(task_id=name, **arguments)
        if step.teardown:
            # No setups for the teardowns: with setups, clearing one server would clear the snapshot tasks of all.
            made.as_teardown(on_failure_fail_dagrun=True)
        for before in step.after:
            # Edges into and out of the mapped group belong to the group.
            if before in self._made and self.flow.step(before).per_server == step.per_server:
                self._made[before] >> made
        self._made[name] = made
        return made


def wave_dag(tasks: WaveTasks, *, doc: str, form: Mapping[str, Param], **settings: Any) -> DAG:
    """The DAG of one flow of one wave.

    :param doc: its page in the web UI. ``{wave}`` is the wave; the name of a step is its task's id.
    :param settings: settings of the DAG in which the flows differ.
    """
    flow, shape = tasks.flow, tasks.shape
    run_types = BY_NAME if settings.get("schedule") is None else (*BY_NAME, SCHEDULED)
    dag = DAG(
        flow.dag_id(shape.wave),
        description=shape.description or flow.words.format(wave=shape.wave),
        doc_md=doc.format(wave=shape.wave, **{step.name: step.task_id for step in flow.steps}),
        catchup=False,
        # `admit` refuses all others, too: nobody stands behind a backfill or an asset.
        allowed_run_types=cast(Any, run_types),  # Airflow converts the words
        tags=["wavelift", f"wave:{shape.wave}", *([f"environment:{shape.environment}"] if shape.environment else [])],
        # The DAG file registers the DAG through its globals. Only building a DAG must not assign it to a file.
        auto_register=False,
        default_args={
            "retries": max(2, shape.retries),
            "retry_delay": timedelta(seconds=shape.retry_delay_s),
            "retry_exponential_backoff": True,
            "max_retry_delay": MAX_RETRY_DELAY,
        },
        **run_callbacks(),
        **settings,
    )
    with dag:
        servers = tasks.of_run()
        group = task_group(group_id=SERVER_GROUP)(tasks.mapped).expand(server=servers)
        report = tasks.report()
        group >> report
        for before in flow.before_servers:
            if before not in group.upstream_task_ids:  # the pre-flight, over which it is expanded, is
                dag.get_task(before) >> group
    # `group >> x` does not include teardowns. Without these edges, the report would run in parallel with the removals.
    for step in flow.removals:
        dag.get_task(step.task_id) >> report
    # Set the form last: Airflow copies it, with the names of all servers, into each task that is made afterwards.
    dag.params = ParamsDict(form)
    return dag
