"""``wavelift grants``: the keys with which the control plane signs what a connector may do.

These commands act on the files of this machine, as the user who runs them. The private key goes nowhere.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from wavelift.base.errors import WaveliftError
from wavelift.base.printable import printable
from wavelift.base.times import utc_minute
from wavelift.cli.connect import fail

if TYPE_CHECKING:
    from wavelift.services.common.grant_keys import KeyFiles, KnownKey

app = typer.Typer(no_args_is_help=True)
out = Console(soft_wrap=True)


def key_files() -> KeyFiles:
    """Where tasks look for them, by Airflow's configuration."""
    logging.getLogger("airflow").setLevel(logging.WARNING)
    from wavelift.airflow import config
    from wavelift.services.common.grant_keys import KeyFiles

    return KeyFiles(config.grant_key_file(), config.grant_keys_folder())


@app.command()
def keygen() -> None:
    """Make the pair of keys if there is none. `wavelift init` does the same."""
    try:
        files = key_files()
        for line in make(files):
            _tell(line)
    except (WaveliftError, OSError) as error:
        fail(str(error))


def make(files: KeyFiles) -> list[str]:
    """Make the pair if there is none, and say so.

    :raises PermanentError: there is one, and it is of no use. :raises OSError: a file can't be written.
    """
    from wavelift.services.common import grant_keys

    made = grant_keys.keygen(files)
    if made is None:
        return [f"the key that signs grants is there: {files.private}"]
    return [
        f"made the key {made}, which signs grants: {files.private}",
        f"a connector on another machine needs {files.public_of(made)} in its [wavelift] grant_keys_folder",
    ]


@app.command()
def rotate(
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only make the next pair, so that its public key can be copied first.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Only remove old public keys that no grant needs any more.")
    ] = False,
) -> None:
    """Sign with a new key from now on. The old public key stays until its last grant has ended."""
    from wavelift.services.common import grant_keys

    try:
        files, now = key_files(), datetime.now(UTC)
        if prepare:
            kid = grant_keys.prepare(files)
            _tell(f"the next key is {kid}; it signs nothing yet")
            _tell(f"copy {files.public_of(kid)} to each connector on another machine, then run wavelift grants rotate")
            return
        if not prune:
            _rotated(files, now)
        gone = grant_keys.prune(files, now=now)
        for one in gone:
            _tell(f"removed the old public key {one.kid}; remove it from connectors on other machines too")
        if prune and not gone:
            _tell("no old public key can go yet; see wavelift grants list")
    except (WaveliftError, OSError) as error:
        fail(str(error))


def _rotated(files: KeyFiles, now: datetime) -> None:
    from wavelift.services.common import grant_keys

    prepared = files.next.exists()
    old, new, until = grant_keys.rotate(files, now=now)
    _tell(f"{new} signs grants from now on")
    _tell(f"the public key of {old} is needed until {utc_minute(until)}, when its last grant ends")
    if not prepared:
        _tell(
            f"connectors on other machines refuse new grants until they have {files.public_of(new)}: copy it now, and "
            "next time run wavelift grants rotate --prepare first"
        )


@app.command("list")
def list_keys() -> None:
    """List the public keys: which one signs, and until when an old one is needed."""
    from wavelift.services.common import grant_keys

    try:
        files = key_files()
        known = grant_keys.known_keys(files)
    except (WaveliftError, OSError) as error:
        fail(str(error))
    _tell(f"private key: {files.private}{'' if files.private.exists() else ' (missing: run wavelift grants keygen)'}")
    _tell(f"public keys, which every connector needs: {files.public}")
    for one in known:
        _tell(f"  {one.kid}  {_words(one)}")
    if not known:
        _tell("  none")


def _words(one: KnownKey) -> str:
    if one.state == "signs":
        return "signs grants"
    if one.state == "next":
        return "signs nothing yet: copy it to the connectors, then run wavelift grants rotate"
    if one.until is None:
        return "not of this control plane, or copied by hand"
    if one.is_over(datetime.now(UTC)):
        return "not needed any more: run wavelift grants rotate --prune"
    return f"needed until {utc_minute(one.until)}"


def _tell(words: str) -> None:
    out.print(printable(words), markup=False, highlight=False)
