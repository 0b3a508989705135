"""Pre-flight of the two connections: vCenter or AWS that can't be opened is a finding about the whole wave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Final

from wavelift.base.domain import Finding
from wavelift.base.errors import (
    DeniedConnectionError,
    LoginError,
    NoConnectionError,
    SpecError,
    ThrottledError,
    TlsError,
    UnknownNameError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.regions import partitions
from wavelift.rules.findings import WHOLE_WAVE, Findings

_WITHOUT_VCENTER: Final = "without vCenter, no server of the wave can be found and checked"
_WITHOUT_AWS: Final = "without AWS, neither the environment nor what a server needs there can be checked"
_DETAILS: Final = ("vcenter", "user")
"""Coordinates of an error that help to find a wrong field."""
_CODES: Final[tuple[tuple[type[WaveliftError], str], ...]] = (
    (NoConnectionError, "connection.missing"),
    (LoginError, "connection.login"),
    (TlsError, "connection.certificate"),
    (SpecError, "connection.invalid"),
    (UnreachableError, "connection.unreachable"),
    (ThrottledError, "connection.unreachable"),
    (WaveliftError, "connection.failed"),
)
"""Most special first."""


def check_vcenter(connection: str, error: WaveliftError) -> Finding:
    """vCenter could not be opened, or not be read."""
    return _closed(connection, error, _WITHOUT_VCENTER)


def check_aws(connection: str, error: WaveliftError) -> Finding:
    """AWS could not be opened, or not be asked."""
    return _closed(connection, error, _WITHOUT_AWS)


def _closed(connection: str, error: WaveliftError, why: str) -> Finding:
    found = Findings(WHOLE_WAVE)
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    told = [f"connection {connection}"] if connection not in error.what else []
    told += [str(error.where[name]) for name in _DETAILS if str(error.where.get(name, error.what)) not in error.what]
    found.error(
        code,
        f"{error.what} ({', '.join(told)})" if told else error.what,
        why=why,
        do=error.next_step or "Correct the connection under Admin → Connections",
        part=f"connection {connection}",
    )
    return found.all[0]


@contextmanager
def contact(*, first: bool) -> Iterator[None]:
    """Around opening a connection: what a task must take its error for.

    On the first contact of a run, what does not exist is wrong: a retry can't help. Later it was there before, so a
    retry may help: DNS fails, or Airflow cannot look up a connection and says that it has none.

    :param first: no earlier task of the run has opened it.
    """
    try:
        yield
    except UnknownNameError as error:
        if not first:
            raise
        raise SpecError(
            error.what,
            next_step="Correct the host under Admin → Connections; if it is right, check the DNS server that this "
            "worker uses",
            **error.where,
        ) from error
    except (NoConnectionError, DeniedConnectionError) as error:
        if first:
            raise
        raise UnreachableError(
            error.what,
            next_step="A retry asks again: Airflow says this, too, when its api-server or its secrets backend does not "
            f"answer. If it stays so: {error.next_step}",
            **error.where,
        ) from error


def in_region(error: WaveliftError, region: str) -> WaveliftError:
    """``error`` of the first call to AWS: if AWS has no such region, no endpoint of it will ever answer.

    A region that is newer than botocore's data is not refused if its endpoints answer.
    """
    known = sorted(name for one in partitions() for name in one.regions)
    if not isinstance(error, UnreachableError) or region in known:
        return error
    near = get_close_matches(region, known, n=1)
    meant = f"Did you mean {near[0]}? " if near else ""
    return SpecError(
        f"AWS does not answer in the region {region!r}, which is not known",
        next_step=f"{meant}Correct 'region' in the environment, or region_name of the AWS connection",
    )
