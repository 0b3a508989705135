"""``wavelift queue``: who waits for a slot, behind whom, and who goes first."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from wavelift.airflow.rest import path_of
from wavelift.base.printable import printable
from wavelift.cli.connect import api_errors_told, client
from wavelift.cli.output import AsJson, Times, add_row, print_json, say, show, table
from wavelift.console.queue_answers import QueueList, QueueRow
from wavelift.console.requests import PriorityBody

app = typer.Typer(invoke_without_command=True)


class Choice(StrEnum):
    """:data:`~wavelift.rules.queue.PriorityName` as typer takes it."""

    NEXT = "next"
    NORMAL = "normal"
    LATER = "later"


PRIORITY_HELP: Final = "Among all who wait for a slot: next goes before the others, later after them."


@app.callback()
def show_queue(context: typer.Context, as_json: AsJson = False) -> None:
    """Servers that wait for a slot: at which place, and who has the slots."""
    if context.invoked_subcommand is None:
        _show(as_json=as_json)


@api_errors_told()
def _show(*, as_json: bool) -> None:
    answer = client().call("GET", "/wavelift/queue")
    if as_json:
        print_json(answer)
        return
    rows = QueueList.model_validate(answer).queue
    if not rows:
        say("No server of the waves that you may read waits for a slot")
        return
    times = Times()
    shown = table("id, since", "wave/server", "waits", ids=["id, since"])
    for row in rows:
        add_row(shown, f"{row.id}\n{times.of(row.waits_since)}", printable(f"{row.wave}/{row.server}"), _words(row))
    show(shown)
    times.tell()


@app.command()
@api_errors_told()
def move(
    id: Annotated[str, typer.Argument(metavar="ID", help="Of a migration or replication run that waits.")],
    priority: Annotated[Choice, typer.Option(help=PRIORITY_HELP)],
) -> None:
    """Give a server that waits another priority; the order of asking stays as it was."""
    body = PriorityBody(priority=priority.value)
    answer = client().call("POST", path_of("wavelift", "queue", id, "priority"), body.model_dump())
    row = QueueRow.model_validate(answer)
    say(f"{row.wave}/{row.server}: {_words(row)}")


def _words(row: QueueRow) -> str:
    words = printable(row.words)  # names of servers: their line breaks are no lines of ours
    return words if row.priority == Choice.NORMAL else f"{words}; priority {row.priority}"
