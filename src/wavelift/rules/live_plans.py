"""What a wave of ``method: hcx`` becomes: what a run freezes, and the shape from which its DAG is built."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, Self

from wavelift.base.domain import Message
from wavelift.base.errors import SpecError
from wavelift.rules.hcx_environment import HcxEnvironment, hcx_environment_problems
from wavelift.rules.hcx_wave import (
    PLACES,
    HcxWave,
    LiveLanding,
    LiveOptions,
    LiveServer,
    MigrationType,
    Provision,
    hcx_landing_problems,
    hcx_wave_problems,
)
from wavelift.rules.plans import WaveShape, known_servers, unique_names
from wavelift.rules.problem import lines_of, quoted
from wavelift.rules.wave import Selector
from wavelift.rules.wave_cutover import ApprovalChoice, Window


class Placement(Message):
    """Where one server lands, by the names that the destination's vCenter shows. HCX's ids are looked up."""

    pool: str
    folder: str
    datastore: str
    provision: Provision = "same"
    networks: dict[str, str] = {}
    """Network of the source → network of the destination."""


class LivePlan(Message):
    """Everything from the spec about one server."""

    server: str
    """Unique name in tasks and reports."""
    selector: Selector
    """By name or path, in the source's vCenter."""
    wave: str
    target: Placement


class ResolvedLive(Message):
    """A wave of ``method: hcx`` and its environment, checked against each other. ``admit`` freezes it for the run.

    ``frozen.digest_of`` makes its digest. It holds no secret: connections are Airflow's, by their ids.
    """

    wave: str
    method: Literal["hcx"] = "hcx"
    description: str
    environment: HcxEnvironment
    type: MigrationType
    options: LiveOptions
    window: Window | None
    approve: ApprovalChoice
    approval_hours: float
    approve_switchover: bool
    accept_warnings: bool
    accept_no_tools: bool
    max_hours: float
    """Hours in which each server must be migrated, from the start on."""
    retries: int
    retry_delay_s: int
    deadline_minutes: int | None
    servers: tuple[LivePlan, ...]

    def choose(self, names: Collection[str] | None) -> Self:
        """The wave with only these servers. None keeps all.

        :raises SpecError: if the wave does not have one of them.
        """
        if names is None:
            return self
        wanted = known_servers(names, [plan.server for plan in self.servers], wave=self.wave)
        return self.model_copy(update={"servers": tuple(plan for plan in self.servers if plan.server in wanted)})


def resolve_live(wave: HcxWave, environment: HcxEnvironment) -> ResolvedLive:
    """The plan of every server.

    :raises SpecError: with all problems of wave and environment, one per line. A window that is over is none of them.
    """
    problems = [
        *hcx_environment_problems(environment),
        *hcx_wave_problems(wave),
        *hcx_landing_problems(wave, environment),
    ]
    if problems:
        raise SpecError(lines_of(problems), wave=wave.wave, environment=environment.environment)
    landing = LiveLanding(environment)
    return ResolvedLive(
        wave=wave.wave,
        description=wave.description,
        environment=environment,
        type=wave.type,
        options=wave.options,
        window=wave.window,
        approve=wave.approve,
        approval_hours=wave.approval_hours,
        approve_switchover=wave.approve_switchover,
        accept_warnings=wave.accept_warnings,
        accept_no_tools=wave.accept_no_tools,
        max_hours=wave.max_hours,
        retries=wave.retries,
        retry_delay_s=wave.retry_delay_s,
        deadline_minutes=wave.deadline_minutes,
        servers=tuple(
            LivePlan(server=name, selector=server.selector, wave=wave.wave, target=_placement(wave, server, landing))
            for name, server in zip(live_names(wave), wave.servers, strict=True)
        ),
    )


def _placement(wave: HcxWave, server: LiveServer, landing: LiveLanding) -> Placement:
    own = server.target
    provision = (own.provision if own is not None else None) or wave.target.provision or "same"
    networks = {**(wave.target.networks or {}), **((own.networks if own is not None else None) or {})}
    places = {field: landing.value(wave.target, own, field) for field in landing.allowed}
    return Placement.load({**places, "provision": provision, "networks": networks})


def lost_live_rights(frozen: ResolvedLive, now: HcxEnvironment) -> list[str]:
    """What a frozen wave uses and the environment does not allow any more, in words.

    :param now: the environment in which the wave lands by its present files.
    """
    then = frozen.environment
    between = (
        ("hcx.connection", then.hcx.connection, now.hcx.connection),
        ("hcx.mesh", then.hcx.mesh, now.hcx.mesh),
        ("source.connection", then.source.connection, now.source.connection),
        ("destination.connection", then.destination.connection, now.destination.connection),
    )
    found = [
        f"{name}: the run uses '{used}', the environment has '{has}' now" for name, used, has in between if used != has
    ]
    targets = [plan.target for plan in frozen.servers]
    used = {(field, str(getattr(target, field))) for target in targets for field in PLACES}
    used |= {("network", name) for target in targets for name in target.networks.values()}
    allowed_now = {field: getattr(now, listed) for field, listed in PLACES.items()} | {"network": now.networks}
    found += [
        f"the environment does not allow the {field} {quoted(name)} any more"
        for field, name in sorted(used)
        if name not in allowed_now[field]
    ]
    return found


def live_names(wave: HcxWave) -> tuple[str, ...]:
    """One unique name per server."""
    selectors = [server.selector for server in wave.servers]
    return tuple(unique_names([(one.leaf, one.value) for one in selectors]))


def live_shape(wave: HcxWave, environment: HcxEnvironment) -> WaveShape:
    """What the wave's DAG is built from."""
    return WaveShape(
        wave=wave.wave,
        method="hcx",
        connector=environment.source.queue,
        environment=environment.environment,
        environment_queue=environment.destination.queue,
        hcx_queue=environment.hcx.queue,
        description=wave.description,
        retries=wave.retries,
        retry_delay_s=wave.retry_delay_s,
        deadline_minutes=wave.deadline_minutes,
        server_names=live_names(wave),
        approval=wave.approve,
        approval_hours=wave.approval_hours,
        window_start=wave.window.start.isoformat() if wave.window is not None else "",
        window_end=wave.window.end.isoformat() if wave.window is not None else "",
        approve_switchover=wave.approve_switchover,
    )
