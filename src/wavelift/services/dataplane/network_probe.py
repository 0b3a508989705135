"""The probes of a network that was cut over: from the worker that reaches it as its users do.

A package can install checks of its own under the entry point ``wavelift.checks``: here such a function is called with a
:class:`ProbedNetwork` and the ``arguments`` of the file.
"""

from __future__ import annotations

import socket
from datetime import datetime, timedelta
from typing import Any, Final

from wavelift.base.domain import Message
from wavelift.base.errors import PermanentError
from wavelift.base.installed import installed_checks
from wavelift.base.printable import printable
from wavelift.base.run import RunContext
from wavelift.rules.network import Probe
from wavelift.services.dataplane.checks import PROBE_SECONDS, WORDS_LONGEST, answers_http, answers_tcp, why
from wavelift.services.dataplane.network_messages import Probed, ProbeOrder
from wavelift.services.dataplane.source_side import LOOK_AGAIN
from wavelift.services.dataplane.steps.step import Waiting

KEPT: Final = "probes"
"""Key of the checkpoints: when the probing began, and what has passed."""


class ProbedNetwork(Message):
    """What an installed check is called with."""

    network: str
    to: str


def name_of(probe: Probe) -> str:
    """A probe as people read it."""
    if probe.kind == "tcp":
        return f"tcp {probe.to}:{probe.port}"
    if probe.kind == "http":
        return (
            f"http{'s' if probe.tls else ''} {probe.to}:{probe.port or (443 if probe.tls else 80)}{probe.path or '/'}"
        )
    if probe.kind == "dns":
        return f"dns {probe.name} of {probe.to}"
    return f"{probe.kind} {probe.to}"


def probe(order: ProbeOrder, ctx: RunContext) -> Probed | Waiting:
    """Make every check that has not passed yet, once each. Call it again when it waits.

    :raises PermanentError: the time of one is over.
    """
    kept = _kept(order, ctx)
    passed: dict[str, str] = kept["passed"]
    began = datetime.fromisoformat(kept["began"])
    waits, late = [], []
    for place, each in enumerate(order.checks):
        ctx.cancel.check()
        key = f"{place} {name_of(each)}"
        if key in passed:
            continue
        words = _ask(order, each)
        now = ctx.clock.now()
        if words is None:
            passed[key] = now.isoformat()
            continue
        told = f"{name_of(each)}: {printable(words, WORDS_LONGEST)}"
        waits.append(told)
        if now - began >= timedelta(minutes=each.within_minutes):
            late.append(told)
    if late:
        ctx.checkpoints.delete(KEPT)  # whoever clears the task wants all to be asked again
        raise PermanentError(
            f"The network cannot be reached as it should: {'; '.join(late)}",
            next_step="Look at routes, firewalls and the machines. Clear this task to ask again, or go back",
            network=order.network,
        )
    if waits:
        ctx.checkpoints.set(KEPT, kept)
        return Waiting(f"until the network is reached ({'; '.join(waits)})", LOOK_AGAIN)
    ctx.checkpoints.delete(KEPT)
    return Probed(cutover=order.cutover, passed=tuple(name_of(each) for each in order.checks), at=ctx.clock.now())


def _kept(order: ProbeOrder, ctx: RunContext) -> dict[str, Any]:
    left = ctx.checkpoints.get(KEPT)
    if isinstance(left, dict) and left.get("of") == order.cutover and left.get("since") == order.since.isoformat():
        return left
    return {
        "of": order.cutover,
        "since": order.since.isoformat(),
        "began": ctx.clock.now().isoformat(),
        "passed": {},
    }


def _ask(order: ProbeOrder, probe: Probe) -> str | None:
    """What is missing; None: it has passed."""
    if probe.kind == "tcp":
        return answers_tcp(probe.to, probe.port or 0, refused_passes=probe.accept_refused)
    if probe.kind == "http":
        return answers_http(probe.to, probe)
    if probe.kind == "dns":
        return _dns(probe)
    found = installed_checks().get(probe.kind)
    if found is None:
        return f"no installed package has a check '{probe.kind}' on this worker"
    try:
        made: Any = found.load()
        said: str | None = made(ProbedNetwork(network=order.network, to=probe.to), probe.arguments)
    except Exception as error:  # somebody else's code: whatever it raises, the check has not passed
        return f"it raised {type(error).__name__}: {error}"
    return said


def _dns(probe: Probe) -> str | None:
    import dns.exception
    import dns.resolver

    try:
        server = socket.getaddrinfo(probe.to, None, proto=socket.IPPROTO_UDP)[0][4][0]
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = [str(server)], probe.port or resolver.port
        answers = resolver.resolve(probe.name or "", "A", lifetime=PROBE_SECONDS, search=False)
    except (OSError, dns.exception.DNSException) as error:
        return why(error)
    found = sorted(str(each) for each in answers)
    if probe.answer is not None and probe.answer not in found:
        return f"it answers {', '.join(found)}, expected {probe.answer}"
    return None
