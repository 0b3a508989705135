"""What a network becomes: what a run freezes, and the shape from which its DAG is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wavelift.base.domain import Message
from wavelift.base.errors import SpecError
from wavelift.rules.hcx_environment import HcxEnvironment, hcx_environment_problems
from wavelift.rules.network import NetworkSpec, network_landing_problems, network_problems
from wavelift.rules.problem import lines_of
from wavelift.rules.wave import DEFAULT_RETRIES, DEFAULT_RETRY_DELAY_S
from wavelift.rules.wave_cutover import ApprovalChoice

DEFAULT_QUEUE: Final = "default"


class ResolvedNetwork(Message):
    """A network and its environment, checked against each other. ``admit`` freezes it for the run.

    ``frozen.digest_of`` makes its digest. It holds no secret: connections are Airflow's, by their ids.
    """

    spec: NetworkSpec
    environment: HcxEnvironment

    @property
    def network(self) -> str:
        return self.spec.network

    @property
    def prefix(self) -> str:
        """The prefix whose gateway moves: ``10.1.2.0/24``."""
        return self.spec.destination.prefix


def resolve_network(network: NetworkSpec, environment: HcxEnvironment) -> ResolvedNetwork:
    """:raises SpecError: with all problems of network and environment, one per line."""
    problems = [
        *hcx_environment_problems(environment),
        *network_problems(network),
        *network_landing_problems(network, environment),
    ]
    if problems:
        raise SpecError(lines_of(problems), network=network.network, environment=environment.environment)
    return ResolvedNetwork(spec=network, environment=environment)


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What the DAG of a network is built from."""

    network: str
    environment: str = ""
    description: str = ""
    hcx_queue: str = DEFAULT_QUEUE
    """Queue of the tasks that access the HCX manager. The others: the source's and the destination's NSX and vCenter,
    and the worker that asks whether the network can be reached."""
    source_queue: str = DEFAULT_QUEUE
    destination_queue: str = DEFAULT_QUEUE
    probe_queue: str = DEFAULT_QUEUE
    disconnect_by: str = "person"
    on_failure: str = "revert"
    approval: ApprovalChoice = "required"
    approval_hours: float = 24
    retries: int = DEFAULT_RETRIES
    retry_delay_s: int = DEFAULT_RETRY_DELAY_S
    deadline_minutes: int | None = None

    @classmethod
    def of(cls, network: NetworkSpec, environment: HcxEnvironment) -> NetworkShape:
        return cls(
            network=network.network,
            environment=environment.environment,
            description=network.description,
            hcx_queue=environment.hcx.queue,
            source_queue=environment.source.queue,
            destination_queue=environment.destination.queue,
            probe_queue=network.probes.queue if network.probes is not None else environment.destination.queue,
            disconnect_by=network.source.disconnect.by,
            on_failure=network.on_failure,
            approval=network.approve,
            approval_hours=network.approval_hours,
            retries=network.retries,
            retry_delay_s=network.retry_delay_s,
            deadline_minutes=network.deadline_minutes,
        )

    @classmethod
    def fallback(cls, network: str) -> NetworkShape:
        """A shape with defaults for a file that is gone, so that the tasks of a current run find their DAG."""
        return cls(network=network)
