"""What all wavelift operators share: the run context over Airflow's task state store, errors, and being killed.

:class:`WaveliftOperator` reaches AWS. Where a vCenter is in reach, :mod:`wavelift.operators.connector._plane` adds it;
where the ledger is, :mod:`wavelift.operators.control._plane`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, Protocol, cast

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, DownstreamTasksSkipped
from pydantic import ValidationError

from wavelift.base.errors import Cancelled, FencedError, PermanentError, WaveliftError
from wavelift.base.rates import PROGRESS_KEY, RateMeter, TransferProgress
from wavelift.base.run import CancelFlag, DagRun, Progress, Requester, RunContext
from wavelift.base.tries import Backoff
from wavelift.operators._inputs import Declared
from wavelift.operators._keys import FAILURE_KEY
from wavelift.operators._liveness import GONE, AirflowLiveness, status_of
from wavelift.rules.flows import REPORT

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.sdk import Context

    from wavelift.adapters.aws.access import AwsAccess
    from wavelift.services.dataplane.messages import ServerTask

log = logging.getLogger(__name__)

HANDED_OUT: Final = frozenset({"name", "task", "place"})
"""What :meth:`WaveliftOperator.hand_out` says of each server, as far as it is read."""
BEAT_SECONDS: Final = 1.5
"""How often a long transfer writes to the state store: that write is also the fence."""


class StateStore:
    """:class:`~wavelift.base.run.CheckpointStore` over ``context["task_state_store"]``.

    A call of an outlived try is answered with 404 by Airflow: that becomes
    :class:`~wavelift.base.errors.FencedError`.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    @contextmanager
    def _fence(self) -> Iterator[None]:
        try:
            yield
        except AirflowRuntimeError as error:
            if status_of(error) in GONE:
                raise FencedError("Another try of this task owns the work now") from error
            raise WaveliftError(
                "Airflow's task state store did not answer",
                detail=str(error.error.detail)[:200],
                next_step="The retry goes on where this try stopped; look at Airflow's api-server",
            ) from error

    def get(self, key: str) -> Any | None:
        with self._fence():
            return self._store.get(key)

    def set(self, key: str, value: Any) -> None:
        with self._fence():
            self._store.set(key, value)

    def delete(self, key: str) -> None:
        with self._fence():
            self._store.delete(key)


class Heartbeat:
    """Writes the newest progress every :data:`BEAT_SECONDS`, and sets the cancel flag when fenced.

    The last progress has the rate 0: the transfer is over. After an error nothing more is written, since the next try
    may own the store; the rate expires by its age.
    """

    def __init__(self, store: StateStore, cancel: CancelFlag) -> None:
        self._store = store
        self._cancel = cancel
        self._newest: dict[str, Progress] = {}
        self._meter = RateMeter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wavelift-heartbeat", daemon=True)

    def progress(self, progress: Progress) -> None:
        with self._lock:
            self._newest[progress.disk] = progress

    def beat(self, *, last: bool = False) -> None:
        with self._lock:
            newest = dict(self._newest)
            rate = 0.0 if last else self._meter.rate(time.monotonic(), sum(one.done for one in newest.values()))
        self._store.set(PROGRESS_KEY, TransferProgress.stored(newest, rate))

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self.beat()
            except FencedError as error:
                self._cancel.set(str(error), fenced=True)
                return
            except Exception as error:
                # The api-server is away for a moment: the transfer goes on, and the next beat tells whose it is.
                log.warning("progress was not written: %s", error)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            self.beat(last=True)


class AwsPlace(Protocol):
    """An account and a region: a plan's target, an environment, a recorded run."""

    @property
    def aws_conn_id(self) -> str: ...

    @property
    def region(self) -> str: ...


class OpensAws:
    """Of an operator or sensor that reaches AWS: the one place where it is opened."""

    first_contact: bool = False
    """Whether no earlier task of the run has met AWS: then a service that never answered is soon given up, since no
    time cures a wrong name or a closed firewall. Elsewhere it is an outage, and borne as one."""
    _cancel: CancelFlag | None = None

    def aws(self, aws_conn_id: str, region_name: str | None, **settings: Any) -> AwsAccess:
        """The access of an AWS connection.

        :param settings: ``verify`` and ``botocore_config``, as in the Amazon provider.
        """
        from wavelift.airflow.hooks.vm_import import VmImportHook
        from wavelift.rules.preflight_connections import contact

        hook = VmImportHook.of(aws_conn_id, region_name, **settings)
        with contact(first=self.first_contact):
            return hook.access(self._cancel, proven=not self.first_contact)


class AwsSettings(Declared):
    """AWS arguments of a public operator or sensor, as in the Amazon provider; a class names them in its inputs."""

    aws_conn_id: str = "aws_default"
    region_name: str | None = None
    verify: bool | str | None = None
    botocore_config: dict[str, Any] | None = None

    @property
    def aws_settings(self) -> dict[str, Any]:
        """For :meth:`OpensAws.aws`, and for a trigger."""
        return {
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
            "verify": self.verify,
            "botocore_config": self.botocore_config,
        }


class WaveliftOperator(OpensAws, Declared, BaseOperator):
    """Base of all wavelift operators: subclasses write :meth:`work` and keep it to one service call.

    Errors that no retry can cure fail the task at once; every failure leaves its words in XCom for the report. A try
    that was killed may be tried again: a worker that shuts down kills its tasks too, and a task that a person marked
    failed stays so whatever its process says.
    """

    ui_color = "#e8f1fb"
    _cancel: CancelFlag

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._cancel = CancelFlag()
        self._aws: dict[str, AwsAccess] = {}

    def work(self, context: Context) -> Any:
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        with self.failing_in_words(context):
            return self.work(context)

    @contextmanager
    def failing_in_words(self, context: Context) -> Iterator[None]:
        """What leaves the block becomes Airflow's error for it: whether there is another try, and why it failed."""
        try:
            yield
        except FencedError:
            raise  # this try is over: it may not even push an XCom
        except ValidationError as error:
            unread = unreadable(error)
            self.leave_words(context, unread)
            raise AirflowFailException(str(unread)) from None  # pydantic's text quotes the value: a token, too
        except WaveliftError as error:
            self.leave_words(context, error)
            if error.retryable or isinstance(error, Cancelled):
                raise
            raise AirflowFailException(str(error)) from error

    def leave_words(self, context: Context, error: WaveliftError) -> None:
        """Before this try fails: what the report will say of it, and a person who waits for the next one."""
        words: dict[str, Any] = {
            "task": self.task_id,
            "what": str(error),
            "next_step": error.next_step,
            **{key: str(error.where[key]) for key in ("link", "field", "server") if key in error.where},
            **self._next_try(context, error),
        }
        try:
            context["ti"].xcom_push(key=FAILURE_KEY, value=words)
        except AirflowRuntimeError as refused:  # must not hide what failed
            self.log.warning("the report will not know why: %s", refused)

    def _next_try(self, context: Context, error: WaveliftError) -> dict[str, Any]:
        """Which try fails, of how many, and when the next one begins by Airflow's own rule; None if there is none."""
        ti = context["ti"]
        number, most = ti.try_number, ti.max_tries
        again = (error.retryable or isinstance(error, Cancelled)) and 0 < number <= most
        next_at = None
        if again:
            factor = self.retry_exponential_backoff
            backoff = Backoff(
                delay=self.retry_delay,
                multiplier=2.0 if factor is True else float(factor),  # as Airflow reads True
                longest=cast("timedelta | None", self.max_retry_delay),  # Airflow converts seconds
            )
            key = f"{ti.dag_id}#{ti.task_id}#{context['dag_run'].logical_date}"
            next_at = (datetime.now(UTC) + backoff.after(key, number)).isoformat()
        return {"try": number, "of": most + 1, "next_try_at": next_at}

    def on_kill(self) -> None:
        """Airflow does not interrupt ``execute``: all workers poll this flag."""
        self._cancel.set("the task was killed")

    def aws(self, aws_conn_id: str, region_name: str | None, **settings: Any) -> AwsAccess:
        """The access of an AWS connection: one, and so one client per service, however often this task asks.

        For the task's own thread: what it returns may be shared.
        """
        key = repr((aws_conn_id, region_name, sorted(settings.items())))
        if key not in self._aws:
            self._aws[key] = super().aws(aws_conn_id, region_name, **settings)
        return self._aws[key]

    def aws_of(self, place: AwsPlace) -> AwsAccess:
        """The access that a target, an environment or a recorded run names."""
        return self.aws(place.aws_conn_id, place.region)

    def skip_all_but(self, first: str) -> NoReturn:
        """End this task, and skip what comes after it but ``first``, all that follows ``first``, the report, and what
        follows the report.

        Skipped here, a task that has nothing to do in this run costs no process. What this one returns must have been
        pushed before.

        :param first: empty: only the report is left.
        """
        dag = self.get_dag()
        assert dag is not None
        kept = {
            task
            for name in (first, REPORT)
            if name
            for task in (name, *dag.get_task(name).get_flat_relative_ids(upstream=False))
        }
        raise DownstreamTasksSkipped(tasks=sorted(self.get_flat_relative_ids(upstream=False) - kept))

    def skip_sibling(self, context: Context, name: str) -> NoReturn:
        """End this task, and skip one of its group for the same server: one that has nothing to do costs no process.

        What this one returns must have been pushed before. Whatever comes after the sibling needs a trigger rule that
        lets it be skipped.
        """
        raise DownstreamTasksSkipped(tasks=[(self.sibling(name), context["ti"].map_index)])

    def sibling(self, name: str) -> str:
        """The id of another task of this one's group."""
        group = self.task_id.rpartition(".")[0]
        return f"{group}.{name}" if group else name

    def left_by(self, context: Context, name: str, key: str = "return_value") -> Any:
        """What a sibling left for the same server; None when it left nothing."""
        ti = context["ti"]
        return ti.xcom_pull(task_ids=self.sibling(name), key=key, map_indexes=ti.map_index)

    def hand_out(self, context: Context, tasks: Sequence[ServerTask]) -> list[dict[str, Any]]:
        """What the mapped group is expanded over: a few words per server, whose rest lies in an XCom of its own.

        Every task of the group fetches the whole list that it was expanded over: 150 plans for each of 1,200 tasks.
        """
        ti = context["ti"]
        for place, task in enumerate(tasks):
            ti.xcom_push(key=f"server_{place}", value=task.dump())
        return [
            {"name": task.name, "bytes": task.facts.capacity, "task": ti.task_id, "place": place, "try": ti.try_number}
            for place, task in enumerate(tasks)
        ]

    def server_task(self, context: Context, server: Mapping[str, Any]) -> ServerTask:
        """The server that a mapped task is about.

        :param server: what :meth:`hand_out` returned for it, or a whole :class:`ServerTask` as a dict.
        :raises WaveliftError: the pre-flight runs again at this moment. A retry reads both anew: the removal of a
            snapshot must not be given up for that.
        :raises ValidationError: what came by XCom is no server's task, and no retry makes it one.
        """
        from wavelift.services.dataplane.messages import ServerTask

        if not isinstance(server, Mapping) or "plan" in server or not HANDED_OUT.issubset(server):
            return ServerTask.load(server)
        key = f"server_{server['place']}"
        left = context["ti"].xcom_pull(task_ids=server["task"], key=key, map_indexes=-1)
        if not left or (isinstance(left, Mapping) and left.get("name") != server["name"]):
            raise WaveliftError(
                f"What {server['task']} found of this server is gone",
                server=server["name"],
                next_step="The retry reads it anew; if it stays away, trigger a new run of the wave for this server",
            )
        return ServerTask.load(left)

    def server_context(self, context: Context, server: str = "") -> RunContext:
        """The run context of one server's task; names and tokens derive from DAG, run and server.

        :param server: empty: the task is about the run as a whole.
        """
        ti = context["ti"]
        return RunContext(
            DagRun(ti.dag_id, ti.run_id),
            server,
            checkpoints=StateStore(context["task_state_store"]),
            cancel=self._cancel,
            map_index=-1 if ti.map_index is None else ti.map_index,
            requester=requester_of(context),
            asked_by=asker_of(context),
            liveness=AirflowLiveness(context),
        )

    def must_not_be_cleared(self, context: Context, issued: int | None, *, issuer: str) -> None:
        """Refuse an order that was given before a clear of any task of this run, before anything outside is asked.

        :param issued: the ``clear_number`` of the order or grant. :param issuer: the task that gave it.
        :raises GrantError: the run was cleared since.
        """
        from wavelift.rules.grants import require_uncleared

        require_uncleared(issued, clears_of(context), issuer=issuer)

    @contextmanager
    def moving(self, context: Context, server: str) -> Iterator[RunContext]:
        """The run context of a task that moves disks: its progress is written, and an outlived try is stopped."""
        ctx = self.server_context(context, server)
        with Heartbeat(StateStore(context["task_state_store"]), self._cancel) as heartbeat:
            ctx.progress = heartbeat.progress
            yield ctx


class ServerOperator(WaveliftOperator):
    """An operator for one server of the mapped group: subclasses write :meth:`work_on`.

    :param server: one of the dicts that the pre-flight returned.
    """

    template_inputs: ClassVar[tuple[str, ...]] = ("server",)
    server: Any

    def work(self, context: Context) -> Any:
        return self.work_on(self.server_task(context, self.server), context)

    def work_on(self, task: ServerTask, context: Context) -> Any:
        raise NotImplementedError


def unreadable(error: ValidationError) -> PermanentError:
    """That what came to a task by XCom, or what an earlier try kept, is not what this version writes there.

    It names the fields, never their values.
    """
    found = error.errors(include_url=False, include_input=False, include_context=False)
    told = "; ".join(f"{'.'.join(str(step) for step in one['loc']) or 'all of it'}: {one['msg']}" for one in found[:3])
    return PermanentError(
        f"What another task left for this one is no {error.title} of this version of wavelift: {told}",
        next_step="Find out who edited the run's XComs, or changed wavelift while it ran. Then trigger a new run of "
        "the wave; a run with mode 'cleanup' removes a snapshot that stands",
    )


def asker_of(context: Context) -> Requester:
    """The user who triggered the DAG run, and how it came about. A clear changes neither."""
    run = context.get("dag_run")
    kind = getattr(run, "run_type", None)
    return Requester(getattr(run, "triggering_user_name", None) or "", str(getattr(kind, "value", kind) or "unknown"))


def requester_of(context: Context) -> str:
    """Who asked for the DAG run, as the ledger keeps it."""
    return str(asker_of(context))


def clears_of(context: Context) -> int:
    """How often tasks of the run were cleared. Airflow counts each clear of any task of it, of this one or another."""
    return int(getattr(context["dag_run"], "clear_number", None) or 0)


def conf_of(context: Context) -> dict[str, Any]:
    """The conf of the run over the defaults of its form."""
    return {**context["params"], **(context["dag_run"].conf or {})}
