"""A small client for Airflow's public REST API and for wavelift's routes on the same server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3

from wavelift.base.net import is_private
from wavelift.base.printable import without_login
from wavelift.base.rates import PROGRESS_KEY, TransferProgress
from wavelift.base.tries import FAILURE_KEY, FailedTry

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 60
MOST_BYTES: Final = 2**63
MOST_ROWS: Final = 20_000
"""Task instances of one run that are read: ten times those of the largest wave."""
RETRY: Final = "up_for_retry"
"""The state of a task instance that failed and waits for its next try."""
ASKS: Final = "awaiting_input"
"""The state of a task instance that waits for a person's answer."""
UNDER_WAY: Final = (
    *("scheduled", "queued", "running", "deferred", ASKS),
    *(RETRY, "up_for_reschedule", "restarting"),
)
"""States of a task instance that has begun, or is about to, and has not ended."""
DETAIL_LONGEST: Final = 500
"""Characters of an answer that has no form of ours: the page of a proxy, for example."""
NOT_LOGGED_IN: Final = "not logged in: set WAVELIFT_USER and WAVELIFT_PASSWORD, or WAVELIFT_TOKEN"


class ApiError(RuntimeError):
    """The API refused the request or did not answer. The message is for people, ``answer`` for programs."""

    def __init__(self, message: str, *, status: int = 0, answer: Any = None) -> None:
        super().__init__(without_login(message))
        self.status = status
        self.answer = answer

    @property
    def unknown(self) -> bool:
        """There is no such thing, or the caller may not see it. A login that does not count says neither."""
        return self.status in (403, 404) and str(self) != NOT_LOGGED_IN


class ApiClient:
    """Client with a bearer token.

    :param url: address of Airflow's API server.
    :param login: returns a new token. It is called when a token is first needed, and again after a 401.
    """

    def __init__(self, url: str, login: Callable[[], str]) -> None:
        self.url = url.rstrip("/")
        self._login = login
        self._token = ""
        self._pool = urllib3.PoolManager(retries=False)

    def raw(self, method: str, path: str, body: Any = None, *, token: str = "") -> tuple[int, Any]:
        """Make one call and return status and parsed body.

        :raises ApiError: if there is no answer, or if the address would carry a login in plain text.
        """
        answer = self._send(method, path, body, token)
        return answer.status, _parsed(answer)

    def _send(
        self, method: str, path: str, body: Any, token: str, timeout: float = READ_SECONDS
    ) -> urllib3.BaseHTTPResponse:
        if (token or body is not None) and not is_private(self.url):
            raise ApiError(
                f"{self.url} is plain HTTP to another machine: passwords and tokens are sent over HTTPS only. "
                "Use the https:// address (WAVELIFT_URL of the command line, [api] base_url of Airflow)"
            )
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            return self._pool.request(
                method,
                self.url + path,
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, timeout), read=min(READ_SECONDS, timeout)),
            )
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(f"No answer from {self.url}: {_reason(error)}") from error

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Make one call as the user. Logs in if necessary."""
        answer = self._as_user(method, path, body)
        return answer.status, _parsed(answer)

    def _as_user(
        self, method: str, path: str, body: Any = None, timeout: float = READ_SECONDS
    ) -> urllib3.BaseHTTPResponse:
        if not self._token:
            self._token = self._login()
        answer = self._send(method, path, body, self._token, timeout)
        if answer.status == 401 or _is_stale(answer):
            self._token = self._login()
            answer = self._send(method, path, body, self._token, timeout)
        return answer

    def call(self, method: str, path: str, body: Any = None, *, timeout: float = READ_SECONDS) -> Any:
        """Like :meth:`request`, but returns only the body.

        :raises ApiError: for every status except 2xx, with the server's message.
        """
        sent = self._as_user(method, path, body, timeout)
        status, answer = sent.status, _parsed(sent)
        if not 200 <= status < 300:
            raise ApiError(_words(status, answer, method, path), status=status, answer=answer)
        return answer

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """:raises ApiError: the answer that the block reads has another form."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ApiError(
                f"What answers at {self.url} is not Airflow, or a proxy before it: its answer has another form"
            ) from error

    def close(self) -> None:
        self._pool.clear()

    # DAG runs

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, run_id: str = "", note: str = "") -> str:
        """Trigger a DAG run and return its id."""
        body: dict[str, Any] = {"logical_date": None, "conf": dict(conf or {})}
        if run_id:
            body["dag_run_id"] = run_id
        if note:
            body["note"] = note
        answer = self.call("POST", f"{dag_path(dag_id)}/dagRuns", body)
        with self._reading():
            return str(answer["dag_run_id"])

    def is_paused(self, dag_id: str) -> bool | None:
        """Whether Airflow starts nothing of a DAG. None: it does not know the DAG, or the caller may not see it.

        :raises ApiError: nobody is logged in, or Airflow does not serve it. That says nothing about the DAG.
        """
        try:
            answer = self.call("GET", dag_path(dag_id))
        except ApiError as error:
            if error.unknown:
                return None
            raise
        with self._reading():
            return bool(answer["is_paused"])

    def held_runs(self, dag_id: str) -> int:
        """How many runs of a paused DAG go on when it is unpaused."""
        asked = urlencode({"state": ["queued", "running"], "limit": 1}, doseq=True)
        answer = self.call("GET", f"{dag_path(dag_id)}/dagRuns?{asked}")
        with self._reading():
            return int(answer["total_entries"])

    def unpause(self, dag_id: str) -> None:
        self.call("PATCH", dag_path(dag_id), {"is_paused": False})

    def run_state(self, dag_id: str, run_id: str) -> str:
        answer = self.call("GET", _run(dag_id, run_id))
        with self._reading():
            return str(answer["state"])

    def find_run_state(self, dag_id: str, run_id: str) -> str | None:
        """The state of a run; ``""`` if there is no such run, None if the API does not tell."""
        status, answer = self.request("GET", _run(dag_id, run_id))
        if status == 404:
            return ""
        if status != 200:
            return None
        with self._reading():
            return str(answer["state"])

    def scheduler_runs(self) -> bool | None:
        """Whether Airflow's scheduler runs; None if the API does not tell."""
        status, answer = self.request("GET", path_of("api", "v2", "monitor", "health"))
        try:
            return bool(answer["scheduler"]["status"] != "unhealthy") if status == 200 else None
        except (KeyError, TypeError):
            return None

    def task_instances(
        self,
        dag_id: str,
        run_id: str,
        *,
        task_id: str = "",
        states: Sequence[str] = (),
        timeout: float = READ_SECONDS,
    ) -> list[dict[str, Any]]:
        """All task instances of a run, including mapped ones; only those of one task, or in some states, if given."""
        found: list[dict[str, Any]] = []
        which = {"limit": 100, **({"task_id": task_id} if task_id else {}), **({"state": states} if states else {})}
        while True:
            asked = urlencode({**which, "offset": len(found)}, doseq=True)
            page = self.call("GET", f"{_run(dag_id, run_id)}/taskInstances?{asked}", timeout=timeout)
            with self._reading():
                rows = [_placed(row) for row in page["task_instances"]]
                found += rows
                if len(found) >= page["total_entries"] or not rows:
                    return found
            if len(found) >= MOST_ROWS:
                raise ApiError(f"{self.url} tells more than {MOST_ROWS} tasks of the run {run_id}")

    def xcom(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        *,
        map_index: int = -1,
        key: str = "return_value",
        timeout: float = READ_SECONDS,
    ) -> Any:
        """One XCom value, parsed; None if there is none."""
        answer = self._as_user(
            "GET",
            f"{_task(dag_id, run_id, task_id)}/xcomEntries/{segment(key)}?map_index={map_index}&deserialize=false",
            timeout=timeout,
        )
        if answer.status != 200:
            return None
        with self._reading():
            value = _parsed(answer)["value"]
        try:
            return json.loads(value) if isinstance(value, str) and value[:1] in '[{"' else value
        except ValueError:  # a text that only looks like JSON
            return value

    def failed_try(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, timeout: float = READ_SECONDS
    ) -> FailedTry:
        """What the last try of a task left when it failed."""
        return FailedTry.load(self.xcom(dag_id, run_id, task_id, map_index=map_index, key=FAILURE_KEY, timeout=timeout))

    def progress(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, timeout: float = READ_SECONDS
    ) -> TransferProgress | None:
        """The progress that a task's heartbeat stored in its state store; None if there is none.

        Its age is computed of two times of the server: the clocks of connector and caller do not matter. A value that a
        person wrote there, with another form, is none.
        """
        place = f"{_task(dag_id, run_id, task_id)}/state-store/{segment(PROGRESS_KEY)}?map_index={map_index}"
        answer = self._as_user("GET", place, timeout=timeout)
        if answer.status != 200:
            return None
        stored = _parsed(answer)
        try:
            age = _time_of(answer) - datetime.fromisoformat(stored["updated_at"])
            found = TransferProgress.load(stored["value"], age=age.total_seconds())
            return found if found is None or _is_plausible(found) else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def fail_task(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> None:
        """Mark one task instance failed. This calls ``on_kill`` of the running task or of its trigger."""
        path = f"{_task(dag_id, run_id, task_id)}/{map_index}"
        self.call("PATCH", f"{path}?update_mask=new_state", {"new_state": "failed"})

    def asks(self, dag_id: str, run_id: str, task_id: str) -> bool:
        """Whether a task waits for a person's answer. False also if there is no such task, or it asks nothing."""
        status, answer = self.request("GET", _question(dag_id, run_id, task_id))
        if status == 404:
            return False
        if status != 200:
            raise ApiError(_words(status, answer, "GET", dag_path(dag_id)), status=status, answer=answer)
        with self._reading():
            return not answer["response_received"]

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str) -> None:
        """Give the caller's answer to what a task asks.

        :raises ApiError: 409: somebody was quicker; 403: the caller may not answer.
        """
        self.call("PATCH", _question(dag_id, run_id, task_id), {"chosen_options": [option], "params_input": {}})

    def clear(self, dag_id: str, run_id: str, tasks: list[Any], *, downstream: bool = True) -> list[dict[str, Any]]:
        """Clear tasks and return what was cleared.

        :param tasks: task ids, or ``[task id, map index]`` pairs.
        """
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": False,
            "include_downstream": downstream,
            "task_ids": tasks,
        }
        answer = self.call("POST", f"{dag_path(dag_id)}/clearTaskInstances", body)
        with self._reading():
            return list(answer["task_instances"])

    def wait_for_run(
        self,
        dag_id: str,
        run_id: str,
        *,
        timeout: float,
        every: Callable[[], None] = lambda: None,
        interval: float = 1.0,
        bear: Callable[[ApiError], None] | None = None,
    ) -> str:
        """Wait for the final state of a run. ``every`` is called after each query.

        :param bear: gets the error of a query, and raises it when the wait must end. Without it, every error ends it.
        :raises ApiError: if the run has not finished after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        state = "not seen"
        while True:
            try:
                state = self.run_state(dag_id, run_id)
                every()
            except ApiError as error:
                if bear is None:
                    raise
                bear(error)
            if state in ("success", "failed"):
                return state
            if time.monotonic() > deadline:
                raise ApiError(f"run {run_id} of {dag_id} is still {state} after {timeout:.0f} s")
            time.sleep(interval)


def segment(text: str) -> str:
    """``text`` as one segment of a path. Dots alone would be an instruction to the client: go up."""
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")


def path_of(*parts: str) -> str:
    """``/one/two``, of parts that may hold any character."""
    return "".join(f"/{segment(part)}" for part in parts)


def dag_path(dag_id: str) -> str:
    return path_of("api", "v2", "dags", dag_id)


def _run(dag_id: str, run_id: str) -> str:
    return dag_path(dag_id) + path_of("dagRuns", run_id)


def _task(dag_id: str, run_id: str, task_id: str) -> str:
    return _run(dag_id, run_id) + path_of("taskInstances", task_id)


def _question(dag_id: str, run_id: str, task_id: str) -> str:
    return _task(dag_id, run_id, task_id) + path_of("-1", "hitlDetails")


def _placed(row: Any) -> dict[str, Any]:
    """A task instance with the fields by which it is known.

    :raises KeyError, TypeError, ValueError: it lacks them.
    """
    return {**row, "task_id": str(row["task_id"]), "map_index": int(row["map_index"]), "state": row["state"]}


def _is_plausible(found: TransferProgress) -> bool:
    numbers = (found.done, found.total, found.sent, found.rate)
    return all(isinstance(one, int | float) and 0 <= one < MOST_BYTES for one in numbers)


def _parsed(answer: urllib3.BaseHTTPResponse) -> Any:
    text = answer.data.decode("utf-8", "replace")
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def _time_of(answer: urllib3.BaseHTTPResponse) -> datetime:
    """When the server answered; our own time if a proxy dropped the header."""
    date = answer.headers.get("Date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)


def _is_stale(answer: urllib3.BaseHTTPResponse) -> bool:
    """Airflow refuses a token that another start of it has signed with 403, not 401."""
    return answer.status == 403 and b"JWT" in answer.data


def _reason(error: Exception) -> str:
    """Without urllib3's names of its own objects."""
    return re.sub(r"^(<[^>]*>|\w+\(.*?\)): ", "", str(error))


def _words(status: int, answer: Any, method: str, path: str) -> str:
    """For people. A message of our own routes stands alone; what Airflow says is told with its place."""
    detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
    ours = path.startswith("/wavelift/") and isinstance(answer, dict) and "detail" in answer
    if status == 401 or "JWT" in str(detail):
        return NOT_LOGGED_IN
    if isinstance(detail, list):  # FastAPI's format: one entry per wrong field
        detail = "; ".join(_field(one) for one in detail)
    if ours:
        return str(detail)
    place = f"{method} {path.partition('?')[0]}"
    said = str(detail or "no reason given")[:DETAIL_LONGEST]
    if status >= 500:
        return f"Airflow did not serve it ({status}): {said} ({place})"
    right = "you lack the right to do this: " if status == 403 else ""
    return f"Airflow refused it ({status}): {right}{said} ({place})"


def _field(one: Any) -> str:
    if not isinstance(one, dict):
        return str(one)
    return f"{'.'.join(map(str, one.get('loc', ())[1:]))}: {one.get('msg')}"
