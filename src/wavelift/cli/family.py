"""What the commands of one family share: its list, one of its rows, and a run that is started, watched and told.

A family says what its rows are called and how they are printed: :class:`Family`. Its commands name the routes and the
words that are its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Generic, TypeVar

import typer
from rich.console import Console

from wavelift.airflow.rest import ApiClient
from wavelift.cli.connect import EndedRun, fail, query, tell_user, wake
from wavelift.cli.output import print_json, stdout_console, tell_limit, told_empty
from wavelift.cli.watch import Row, Waiting, Watched, shown, wait
from wavelift.console.answers import Answer, Page, RunStarted
from wavelift.rules.flows import REPORT

DAYS_SECONDS: Final = 7 * 24 * 3600.0
"""An approval and a window may take days; who waits longer looks at the list."""
LOOK_SECONDS: Final = 2.0
MOST: Final = 500
"""Rows a page at most; a run has fewer."""
Note = Annotated[str, typer.Option(help="Kept with the run.")]
RequestName = Annotated[str, typer.Option("--request-id", help="Your own name of this request: repeat it safely.")]
Waits = Annotated[bool, typer.Option("--wait/--no-wait", help="Show progress until it has ended.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
AnswerT = TypeVar("AnswerT", bound=Answer)
RowT = TypeVar("RowT", bound=Answer)


@dataclass(frozen=True, slots=True)
class Family(Generic[RowT]):
    """One kind of rows, as the REST API lists them and as people read them.

    :param path: of the list. :param key: of the rows in an answer of it. :param show: prints rows as a table, and under
        it what went wrong. :param words: what it lists, such as ``migrations``. :param first: what to do before there
        is any.
    """

    path: str
    key: str
    page: type[Page]
    row: type[RowT]
    show: Callable[[Sequence[RowT]], None]
    words: str
    first: str

    def list_rows(
        self,
        api: ApiClient,
        asked: Mapping[str, Any],
        *,
        as_json: bool,
        more: Callable[[Page, int], None] | None = tell_limit,
        wider: Mapping[str, Any] | None = None,
    ) -> None:
        """Print the rows that match.

        :param asked: option → value, as given; also ``limit``. :param more: says how to see the rest.
        :param wider: also asked; it shows more rows, so an empty list is not due to it.
        """
        answer = api.call("GET", query(self.path, {**asked, **(wider or {})}))
        if as_json:
            print_json(answer)
            return
        page = self.page.model_validate(answer)
        rows = getattr(page, self.key)
        if not rows:
            told_empty(self.words, self.first, **{name: value for name, value in asked.items() if name != "limit"})
            return
        self.show(rows)
        if more is not None:
            more(page, len(rows))

    def print_rows(self, answers: Iterable[Any]) -> None:
        """Rows as the REST API gave them."""
        self.show([self.row.model_validate(answer) for answer in answers])


def show_one(answer: Any, model: type[AnswerT], show: Callable[[AnswerT], None], *, as_json: bool) -> None:
    """Everything about one thing: as the REST API gave it, or for people."""
    if as_json:
        print_json(answer)
    else:
        show(model.model_validate(answer))


def require_yes(question: str, *, yes: bool) -> None:
    """Ask before what cannot be undone; the command ends with status 1 when the answer is no, or nobody can be asked.

    :param yes: it was said beforehand, by ``--yes``.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Nobody can be asked here: say it again with --yes")
    if not typer.confirm(question, err=True):
        fail("Nothing was changed")


# Runs


def ask(api: ApiClient, dag_id: str, missing: str, path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the route ``path`` for a run, with those values that were given. A DAG that is paused is unpaused, and told.

    :param missing: what to say when Airflow does not know the DAG.
    """
    wake(api, dag_id, missing)
    return dict(api.call("POST", path, {name: value for name, value in given.items() if value}))


def tell_run(run: RunStarted, rows: Iterable[str] = (), *, made_before: bool = False) -> None:
    """On standard error: which run does it, and the ids of what it is about."""
    again = ": this request was made before, nothing was started" if made_before else ""
    tell_user(f"{run.dag_id}, run {run.dag_run_id}{again}")
    for row in rows:
        tell_user(row)


def leave(answer: Any, hints: Iterable[str], *, as_json: bool) -> None:
    """Do not wait for the run. :param hints: how to see how it gets on."""
    if as_json:
        print_json(answer)
    for hint in hints:
        tell_user(hint)


@dataclass(frozen=True, slots=True)
class RunRows(Generic[RowT]):
    """The rows of one DAG run.

    :param which: restricts the list to the DAG, such as ``{"wave": "erp"}``.
    """

    api: ApiClient
    family: Family[RowT]
    run: RunStarted
    which: Mapping[str, str]

    def answers(self) -> list[dict[str, Any]]:
        """As the REST API gives them now, by server."""
        asked = {**self.which, "dag_run_id": self.run.dag_run_id, "limit": MOST}
        found = self.api.call("GET", query(self.family.path, asked))[self.family.key]
        return sorted(found, key=lambda row: str(row.get("server") or row["id"]))


@dataclass
class RowsWatch(Generic[RowT]):
    """The rows of one DAG run, for :func:`wavelift.cli.watch.shown`.

    :param line: how far one is.
    """

    of: RunRows[RowT]
    line: Callable[[RowT], Row]
    clock: Callable[[], float] = time.monotonic
    _waiting: Waiting = field(init=False)

    def __post_init__(self) -> None:
        run = self.of.run
        self.dag_id = run.dag_id
        self._waiting = Waiting(self.of.api, run.dag_id, run.dag_run_id, clock=self.clock, servers_shown=True)

    def rows(self) -> list[Row]:
        """One row each; one of the run as a whole while tasks of no single one are under way."""
        lines = self._waiting.lines()
        found = [self.line(self.of.family.row.model_validate(answer)) for answer in self.of.answers()]
        return [*([Row("", "; ".join(lines))] if lines else []), *found]


def follow(  # what is watched, how it looks, and for how long
    rows: RunRows[RowT],
    watch: Watched,
    answer: Mapping[str, Any],
    *,
    afterwards: Sequence[str],
    as_json: bool,
    timeout: float = DAYS_SECONDS,
) -> None:
    """Show progress until the run has ended, then its rows; status 1 when it did not get through.

    :param answer: of the route that started it. :param afterwards: what who stops waiting may do: lines.
    """
    run = watched(rows.api, rows.run, watch, afterwards=afterwards, as_json=as_json, timeout=timeout)
    tell_result(rows.family, answer, rows.answers(), run, as_json=as_json)


def watched(  # as above
    api: ApiClient, run: RunStarted, watch: Watched, *, afterwards: Sequence[str], as_json: bool, timeout: float
) -> EndedRun:
    """Show progress until the run has ended."""
    # With --json standard output is for the result alone.
    with shown(watch, Console(stderr=True) if as_json else stdout_console()) as look:
        state = wait(
            api,
            run.dag_id,
            run.dag_run_id,
            timeout=timeout,
            interval=LOOK_SECONDS,
            show=look,
            afterwards=afterwards,
        )
    return EndedRun(api, run.dag_id, run.dag_run_id, state)


def tell_result(  # of what, what it was, and where it is told
    family: Family[RowT],
    answer: Mapping[str, Any],
    rows: Sequence[Any],
    run: EndedRun,
    *,
    as_json: bool,
    explained_by: str = REPORT,
) -> None:
    """The rows of a run that has ended; status 1 when it did not get through.

    :param explained_by: the task that says why.
    """
    if as_json:
        print_json({**answer, "state": run.state, family.key: rows})
    elif rows:
        family.print_rows(rows)
    run.require_success(explained_by)
