"""Checks what a connector reaches: its vCenter, each ESXi host, AWS, clock differences, and VDDK (SMS-01)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.reach import reach_s3, sign_in
from wavelift.adapters.vsphere import hosts, nbdkit
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.catalog import ConnectorHealth, HealthCheck
from wavelift.base.errors import WaveliftError
from wavelift.base.run import Clock

MAX_SKEW: Final = timedelta(minutes=2)
"""AWS refuses signatures that are 5 minutes off (S3: 15); vCenter's times are compared with ours for snapshots."""


def check_connector(
    connector: str,
    open_session: Callable[[], AbstractContextManager[VsphereSession]],
    open_access: Callable[[], AwsAccess] | None,
    *,
    clock: Clock,
) -> ConnectorHealth:
    """Try everything that the connector's tasks need; what fails is told, never raised.

    :param open_access: None when the connector names no AWS connection: then AWS is left out.
    """
    checks = [*_vcenter(open_session), *(_aws(open_access) if open_access else ())]
    return ConnectorHealth(connector=connector, checked_at=clock.now(), checks=tuple(checks))


def _vcenter(open_session: Callable[[], AbstractContextManager[VsphereSession]]) -> Iterator[HealthCheck]:
    try:
        with open_session() as session:
            about = session.about
            yield _good("vcenter", f"{about.full_name} at {session.config.place}, signed in as {session.user}")
            yield _skew("clock:vcenter", "vCenter", session.clock_ahead())
            yield from _hosts(session)
            yield from _vddk(session)
    except WaveliftError as error:
        yield _bad("vcenter", error)


def _vddk(session: VsphereSession) -> Iterator[HealthCheck]:
    """What reading through nbdkit needs on this machine, where its configuration names a plugin."""
    if session.config.vddk is not None:
        for one in nbdkit.check(session.config.vddk):
            yield HealthCheck(name=f"vddk:{one.name}", ok=one.ok, what=one.what, next_step=one.next_step)


def _hosts(session: VsphereSession) -> Iterator[HealthCheck]:
    """Every host under this vCenter, by HTTPS as downloads would go."""
    known = hosts.host_facts(session, hosts.host_refs(session))
    for ref, reach in hosts.probe_all(session.config, known).items():
        name = f"host:{known[ref].name}"
        if reach.error is not None:
            yield _bad(name, reach.error)
        else:
            yield _good(name, f"{reach.tried}:{known[ref].port} answers with a trusted certificate")


def _aws(open_access: Callable[[], AwsAccess]) -> Iterator[HealthCheck]:
    try:
        access = open_access()
        account, ahead = sign_in(access)
    except WaveliftError as error:
        yield _bad("aws:sts", error)
        return
    yield _good("aws:sts", f"signed in to account {account}, region {access.region}")
    if ahead is not None:
        yield _skew("clock:aws", "AWS", ahead)
    try:
        yield _good("aws:s3", f"{reach_s3(access)} answers")
    except WaveliftError as error:
        yield _bad("aws:s3", error)


def _good(name: str, what: str) -> HealthCheck:
    return HealthCheck(name=name, ok=True, what=what)


def _bad(name: str, error: WaveliftError) -> HealthCheck:
    return HealthCheck(name=name, ok=False, what=error.what, next_step=error.next_step)


def _skew(name: str, whose: str, ahead: timedelta) -> HealthCheck:
    seconds = ahead.total_seconds()
    told = f"{whose}'s clock is {abs(seconds):.0f} s {'ahead of' if seconds >= 0 else 'behind'} this connector's"
    if abs(ahead) <= MAX_SKEW:
        return _good(name, told)
    return HealthCheck(name=name, ok=False, what=told, next_step="Set the clocks by NTP; AWS refuses skewed signatures")
