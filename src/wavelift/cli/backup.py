"""``wavelift backup``: an image of a migrated instance, and the list of them."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from wavelift.cli.connect import api_errors_told, client, ended, query, wake
from wavelift.cli.cutover_details import print_backups
from wavelift.cli.family import MOST, Family, Note, leave, tell_result
from wavelift.cli.output import AsJson, Limit
from wavelift.console.cutover_answers import BackupPage, BackupRow, BackupStarted
from wavelift.rules.environment import BACKUP_DAG, BACKUP_TASK

LIST: Final = "list"
BACKUPS: Final = Family(
    "/wavelift/backups",
    "backups",
    BackupPage,
    BackupRow,
    print_backups,
    words="backups",
    first="`wavelift backup ID` makes one of the instance of a migration or a cutover",
)
WAIT_SECONDS: Final = 24 * 3600.0
"""The first image of many terabytes takes hours."""
What = Annotated[
    str, typer.Argument(metavar="ID|list", help="Id of a migration or a cutover; or list, for the backups there are.")
]


def backup(  # noqa: PLR0913  # one parameter per option
    what: What,
    reboot: Annotated[bool, typer.Option("--reboot", help="Shut the guest down for the snapshots.")] = False,
    note: Note = "",
    follow: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the image is there.")] = True,
    wave: Annotated[str, typer.Option(help="With list: only this wave.")] = "",
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Make an image of a migrated instance, and a launch template. Without --reboot it is crash-consistent."""
    if what == LIST:
        _list(wave, limit, as_json=as_json)
    else:
        _make(what, reboot=reboot, note=note, follow=follow, as_json=as_json)


@api_errors_told()
def _list(wave: str, limit: int, *, as_json: bool) -> None:
    BACKUPS.list_rows(client(), {"wave": wave, "limit": limit}, as_json=as_json, more=None)


@api_errors_told()
def _make(subject: str, *, reboot: bool, note: str, follow: bool, as_json: bool) -> None:
    api = client()
    wake(api, BACKUP_DAG, f"Airflow has no DAG {BACKUP_DAG}, or you may not see it")
    body = {"subject": subject, "reboot": reboot, **({"note": note} if note else {})}
    answer = api.call("POST", "/wavelift/backups", body)
    run = BackupStarted.model_validate(answer)
    if not follow:
        shows = f"{run.backup}: {run.dag_id}, run {run.dag_run_id}; `wavelift backup list` shows it"
        leave(answer, [shows], as_json=as_json)
        return
    done = ended(api, run, timeout=WAIT_SECONDS)
    found = api.call("GET", query(BACKUPS.path, {"subject": subject, "limit": MOST}))["backups"]
    rows = [row for row in found if row["id"] == run.backup]
    tell_result(BACKUPS, answer, rows, done, as_json=as_json, explained_by=BACKUP_TASK)
