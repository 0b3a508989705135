"""The checks of a launched instance, before anything is switched to it.

They are made near AWS, on the environment's queue, and repeated until each has passed or its time is over. A check that
has passed is not made again while others are still awaited.

A package can install checks of its own: a function under the entry point ``wavelift.checks``, whose name is the
``kind`` in a wave's file. It is called with a :class:`CheckedInstance` and the ``arguments`` of the file, and returns
None if the check has passed, or else words that say what is missing. YAML names no code.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import GONE_STATES
from wavelift.adapters.aws.instances import Instances
from wavelift.adapters.aws.ssm import Ssm
from wavelift.base.domain import Message
from wavelift.base.errors import BusyError, PermanentError
from wavelift.base.installed import installed_checks
from wavelift.base.names import client_token, instant_of
from wavelift.base.printable import printable
from wavelift.base.run import RunContext
from wavelift.rules.checks import BaseCheck
from wavelift.rules.wave_cutover import Check

KEPT: Final = "checks"
"""Key in the task's state store."""
PROBE_SECONDS: Final = 10.0
"""For one connection or one answer of an instance."""
WORDS_LONGEST: Final = 500
SHELL: Final = "AWS-RunShellScript"
POWERSHELL: Final = "AWS-RunPowerShellScript"
DEFAULT_OK: Final = range(200, 400)

InstalledCheck = Callable[["CheckedInstance", Mapping[str, str]], "str | None"]


class CheckedInstance(Message):
    """What a check looks at."""

    server: str
    instance_id: str
    private_ip: str
    public_ip: str = ""
    region: str
    windows: bool = False


class CheckOutcome(Message):
    """One check, as it stands."""

    kind: str
    name: str
    """With port, path or command: what the report shows."""
    passed: bool
    words: str = ""
    """Why it has not passed."""


class CheckOrder(Message):
    """What is checked, and how AWS is reached for it."""

    instance: CheckedInstance
    aws_conn_id: str
    checks: tuple[Check, ...]

    @property
    def server(self) -> str:
        return self.instance.server

    @property
    def region(self) -> str:
        return self.instance.region


class CheckReport(Message):
    """Every check of one instance."""

    server: str
    instance_id: str
    outcomes: tuple[CheckOutcome, ...]

    @property
    def passed(self) -> bool:
        return all(each.passed for each in self.outcomes)

    def waits(self) -> str:
        """The checks that have not passed yet, in words."""
        return "; ".join(f"{each.name}: {each.words}" for each in self.outcomes if not each.passed)


class ChecksFailedError(PermanentError):
    """An instance did not pass its checks in time."""

    def __init__(self, report: CheckReport) -> None:
        super().__init__(
            f"The instance did not pass: {report.waits()}",
            next_step="Look at the instance's system log, its security groups and the application. Then clear this "
            "task to check again, or go back to the source",
            server=report.server,
            instance=report.instance_id,
        )
        self.report = report

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.report,))


def with_status(checks: Iterable[Check]) -> tuple[Check, ...]:
    """The checks of a plan, with EC2's own first: that one is always made."""
    given = tuple(checks)
    status = [each for each in given if each.kind == "status"] or [Check(kind="status")]
    return (*status, *(each for each in given if each.kind != "status"))


def name_of(check: Check) -> str:
    """A check as people read it."""
    if check.kind == "tcp":
        return f"tcp {check.port}"
    if check.kind == "http":
        return f"http{'s' if check.tls else ''} port {_port(check)} {check.path or '/'}"
    if check.kind == "ssm":
        return f"ssm: {printable(check.command or '', 60)}"
    return "EC2 status checks" if check.kind == "status" else check.kind


@dataclass
class _Kept:
    """What earlier looks found of this instance, as the task's state store keeps it."""

    began: datetime
    passed: dict[str, str]
    commands: dict[str, str]

    @classmethod
    def of(cls, ctx: RunContext, instance_id: str) -> _Kept:
        """Time begins anew with every instance, and after an end: :func:`make_checks` forgets it then."""
        left = ctx.checkpoints.get(KEPT)
        if not isinstance(left, Mapping) or left.get("instance") != instance_id:
            return cls(ctx.clock.now(), {}, {})
        return cls(datetime.fromisoformat(left["began"]), dict(left["passed"]), dict(left["commands"]))

    def store(self, ctx: RunContext, instance_id: str) -> None:
        value = {
            "instance": instance_id,
            "began": self.began.isoformat(),
            "passed": self.passed,
            "commands": self.commands,
        }
        ctx.checkpoints.set(KEPT, value)


def make_checks(access: AwsAccess, instance: CheckedInstance, checks: Sequence[Check], ctx: RunContext) -> CheckReport:
    """Make every check that has not passed yet, once each. The caller calls again until the report has passed.

    :raises ChecksFailedError: the time of one is over, or the instance is gone.
    """
    kept = _Kept.of(ctx, instance.instance_id)
    outcomes = []
    late = False
    prober = _Prober(access, instance, ctx, kept.commands)
    for place, check in enumerate(with_status(checks)):
        ctx.cancel.check()
        key = f"{place} {name_of(check)}"
        if key in kept.passed:
            outcomes.append(CheckOutcome(kind=check.kind, name=name_of(check), passed=True))
            continue
        words, lasts = prober.probe(key, check)
        if words is None:
            kept.passed[key] = ctx.clock.now().isoformat()
        else:
            late = late or lasts or ctx.clock.now() - kept.began >= timedelta(minutes=check.within_minutes)
        shown = printable(words or "", WORDS_LONGEST)
        outcomes.append(CheckOutcome(kind=check.kind, name=name_of(check), passed=words is None, words=shown))
    report = CheckReport(server=instance.server, instance_id=instance.instance_id, outcomes=tuple(outcomes))
    if late or report.passed:
        ctx.checkpoints.delete(KEPT)  # whoever clears the task wants all to be looked at again
    else:
        kept.store(ctx, instance.instance_id)
    if late:
        raise ChecksFailedError(report)
    return report


class _Prober:
    """Makes one check at a time."""

    def __init__(self, access: AwsAccess, instance: CheckedInstance, ctx: RunContext, commands: dict[str, str]) -> None:
        self._access, self._instance, self._ctx, self._commands = access, instance, ctx, commands

    def probe(self, key: str, check: Check) -> tuple[str | None, bool]:
        """What is missing, and whether no time cures it. None: it has passed."""
        if check.kind == "status":
            return self._status()
        if check.kind == "tcp":
            return answers_tcp(self._instance.private_ip, check.port or 0), False
        if check.kind == "http":
            return answers_http(self._instance.private_ip, check), False
        if check.kind == "ssm":
            return self._ssm(key, check)
        return self._installed(check)

    def _status(self) -> tuple[str | None, bool]:
        id = self._instance.instance_id
        health = Instances(self._access).health([id]).get(id)
        if health is None:
            return "EC2 does not know the instance (yet)", False
        if health.passed:
            return None, False
        words = f"it is {health.state}, system {health.system or 'unknown'}, instance {health.instance or 'unknown'}"
        return words, health.state in GONE_STATES

    def _ssm(self, key: str, check: Check) -> tuple[str | None, bool]:
        ssm, id = Ssm(self._access), self._instance.instance_id
        command = self._commands.get(key)
        if command is None:
            return self._sent(ssm, key, check), False
        invocation = ssm.invocation(command, id)
        if invocation.succeeded:
            return None, False
        if not invocation.ended:
            return f"the command is {invocation.status}", False
        del self._commands[key]  # the next look sends it anew
        said = (invocation.error or invocation.output).strip()
        return f"the command ended as {invocation.status} with exit status {invocation.exit_code}: {said}", False

    def _sent(self, ssm: Ssm, key: str, check: Check) -> str:
        """Send the command. A lost answer finds it again: by the token, which the next sending does not share."""
        number = int(self._commands.get(f"{key} sent", "0"))
        token = client_token(self._ctx.run_key, "check", number, instant=instant_of(self._instance.instance_id, key))
        document = POWERSHELL if self._instance.windows else SHELL
        try:
            self._commands[key] = ssm.send(
                self._instance.instance_id, document, {"commands": [check.command or ""]}, token=token
            )
        except BusyError as error:
            return str(error)
        self._commands[f"{key} sent"] = str(number + 1)
        return "the command was sent"

    def _installed(self, check: Check) -> tuple[str | None, bool]:
        found = installed_checks().get(check.kind)
        if found is None:
            return f"no installed package has a check '{check.kind}' on this worker", True
        try:
            made: InstalledCheck = found.load()
            return made(self._instance, check.arguments), False
        except Exception as error:  # somebody else's code: whatever it raises, the check has not passed
            return f"it raised {type(error).__name__}: {error}", False


def answers_tcp(host: str, port: int, *, refused_passes: bool = False) -> str | None:
    """None: something listens there; or, if that passes, a host refuses, which shows that it is there."""
    try:
        with socket.create_connection((host, port), PROBE_SECONDS):
            return None
    except ConnectionRefusedError as error:
        return None if refused_passes else why(error)
    except OSError as error:
        return why(error)


def answers_http(host: str, check: BaseCheck) -> str | None:
    """None: it answers with the status that is expected."""
    connection: http.client.HTTPConnection
    if check.tls:
        # The certificate is for the name that still leads to the source.
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, _port(check), timeout=PROBE_SECONDS, context=unverified)
    else:
        connection = http.client.HTTPConnection(host, _port(check), timeout=PROBE_SECONDS)
    try:
        connection.request("GET", check.path or "/", headers={"User-Agent": "wavelift", "Connection": "close"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return why(error)
    finally:
        connection.close()
    if status == check.status or (check.status is None and status in DEFAULT_OK):
        return None
    return f"it answers {status}, expected {check.status or 'a status from 200 to 399'}"


def _port(check: BaseCheck) -> int:
    return check.port or (443 if check.tls else 80)


def why(error: Exception) -> str:
    """Why a connection did not come about."""
    if isinstance(error, TimeoutError):
        return f"no answer in {PROBE_SECONDS:.0f} s"
    return str(error) or type(error).__name__
