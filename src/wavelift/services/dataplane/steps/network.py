"""The three undoable steps of a network cutover: the source's connection, the extension, the destination's connection.

Each call makes sure by reading, and not by the order of the tasks, that both sides never route the network at once: the
destination is connected, or HCX told to connect it, only while the source is disconnected, and the source only while
the destination is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from wavelift.adapters.hcx.extensions import Extension, Extensions, read_extension
from wavelift.adapters.hcx.jobs import Job, Jobs
from wavelift.adapters.hcx.transport import RefusedRequestError
from wavelift.base.errors import NotFoundError, PermanentError, WaveliftError
from wavelift.base.rest import RestClient, UnreadableError
from wavelift.base.run import RunContext
from wavelift.base.times import utc_minute
from wavelift.rules.network_cutover import CONNECTIVITY, EXTENSION, OFF, ON
from wavelift.services.dataplane.network_messages import NOTHING
from wavelift.services.dataplane.source_side import LOOK_AGAIN, Side
from wavelift.services.dataplane.steps.step import Outcome, Settled, State, Step, Waiting

LINGERS: Final = timedelta(minutes=10)
"""How long the list of extensions may lag behind what HCX did, or was asked for by a task that was killed then."""
QUIET: Final = timedelta(minutes=15)
"""After this time, what HCX was asked for without naming a job comes no more: it took minutes wherever it was seen."""
ASKED: Final = "asked"
"""Key of the checkpoints: what HCX was asked for, when, and the job that it named."""
Guard = Callable[[], Outcome | None]
"""What must hold before a write. It raises, or says what is waited for; None or Settled: go on."""


class Connectivity(Step):
    """Connect or disconnect a network at one side.

    :param name: of the step: ``source`` or ``destination``. :param to: what the cutover makes of it.
    :param guards: what must hold before it is connected there (``ON``), and before it is disconnected (``OFF``).
    """

    kind = "network_connectivity"

    def __init__(self, side: Side, *, name: str, to: str, network: str, guards: Mapping[str, Guard]) -> None:
        self._side, self._name, self._to, self._network, self._guards = side, name, to, network, guards

    @property
    def name(self) -> str:
        return self._name

    @property
    def words(self) -> str:
        return self._told(self._to)

    @property
    def undo_words(self) -> str:
        return self._told(ON if self._to == OFF else OFF)

    def _told(self, to: str) -> str:
        verb, of = ("Connect", "to") if to == ON else ("Disconnect", "from")
        return f"{verb} {self._network} {of} its router at the {self._name}"

    def read(self) -> State:
        return self._side.read()

    def wanted(self, before: State) -> State:
        return {**before, CONNECTIVITY: self._to}

    def ready(self, now: State, to: State) -> Outcome | None:
        guard = self._guards.get(to[CONNECTIVITY])
        found = guard() if guard is not None else None
        return found if isinstance(found, Waiting) else None

    def change(self, now: State, to: State) -> str:
        self._side.write(to)
        return ""

    def settled(self, to: State, receipt: str = "") -> Outcome:
        return self._side.settled(to)


@dataclass(frozen=True, slots=True)
class AskedOfHcx:
    """What HCX was asked for and may still be doing.

    :param job: empty: HCX named none, or its answer was lost.
    """

    what: str
    at: datetime
    job: str = ""


class ExtensionRemoved(Step):
    """End an extension, with the cloud network connected to its gateway. The undo makes it again from its record.

    A state is what identifies an extension (its ends, gateway and MON), None: the network is not extended.

    :param ctx: whose checkpoints keep what HCX was asked for. :param source_id: of the source network, in HCX.
    :param record: the whole item, as it was recorded.
    :param guards: what must hold before it is ended, and before it is made again.
    """

    kind = "network_extension"

    def __init__(
        self,
        client: RestClient,
        ctx: RunContext,
        *,
        source_id: str,
        record: Mapping[str, Any],
        guards: tuple[Guard, Guard],
    ) -> None:
        self._extensions, self._jobs = Extensions(client), Jobs(client)
        self._source_id, self._record = source_id, record
        self._may_end, self._may_make = guards
        self._checkpoints, self._clock = ctx.checkpoints, ctx.clock

    @property
    def name(self) -> str:
        return EXTENSION

    @property
    def words(self) -> str:
        return "End the extension in HCX, with the cloud network connected to its gateway"

    @property
    def undo_words(self) -> str:
        return "Extend the network again, as it was; that takes minutes"

    def found(self) -> Extension | None:
        """The extension of the source network now.

        :raises UnreadableError: it may be one that HCX lists without saying of which network.
        """
        listed = self._extensions.list()
        known = extension_of(listed, self._source_id)
        nameless = [each.id for each in listed if not each.source_id]
        if known is None and nameless:
            raise UnreadableError(
                f"HCX lists extensions without saying of which network: {', '.join(nameless)}",
                next_step="Look in HCX whether the network is extended. The retry asks again",
                source=self._source_id,
            )
        return known

    def read(self) -> State:
        known = self.found()
        return None if known is None else identity(known)

    def wanted(self, before: State) -> State:
        if before is None:
            raise PermanentError("The network is not extended: there is nothing to end", step=self.name)
        return None

    def ready(self, now: State, to: State) -> Outcome | None:
        what = "end" if to is None else "make"
        asked = self._asked(what)
        if asked is not None:
            waiting = self._follow(asked)
            if waiting is not None:
                return waiting
        found = self._may_end() if to is None else self._may_make()
        return found if isinstance(found, Waiting) else None

    def change(self, now: State, to: State) -> str:
        """The question is kept before it is asked: a task that is killed here must not ask HCX twice at once."""
        what = "end" if to is None else "make"
        earlier = self._asked(what)
        self._keep(AskedOfHcx(what, self._clock.now()))
        try:
            if to is not None:
                job = self._extensions.create(self._record)
            else:
                known = self.found()
                job = None if known is None else self._extensions.unextend(known.id, connect=True)
        except (RefusedRequestError, NotFoundError):
            if self._idle(earlier, ending=to is None):
                self._keep(AskedOfHcx(what, self._clock.now(), NOTHING))
            raise
        self._keep(AskedOfHcx(what, self._clock.now(), job or ""))
        return job or ""

    def _idle(self, earlier: AskedOfHcx | None, *, ending: bool) -> bool:
        """Whether a refusal means that HCX does nothing. It also refuses what it is at already: by an earlier question
        whose answer was lost, or by somebody else's. Its word for that is not documented, but another one than that of
        the record."""
        if earlier is not None and not earlier.job:
            return False
        if not ending:
            return True
        try:
            known = self.found()
        except WaveliftError:  # the refusal is what is told
            return False
        return known is not None and known.state == read_extension(self._record).state

    def under_way(self, to: State, receipt: str) -> Waiting | None:
        job = f", job {receipt}" if receipt else ""
        doing = "ended" if to is None else "made"
        return Waiting(f"until HCX has {doing} the extension{job}", LOOK_AGAIN, receipt)

    def settled(self, to: State, receipt: str = "") -> Outcome:
        """The list decides; a job that still runs is waited for, because it may connect the cloud network at its end.

        What a job says of its end is a note then: the extension is as it should be.
        """
        asked = self._asked("end" if to is None else "make")
        if asked is None or not asked.job or asked.job == NOTHING:
            return Settled()
        job = self._job(asked.job)
        if job is not None and not job.over:
            return Waiting(f"until HCX's job {job.id} is done ({job.words})", LOOK_AGAIN, job.id)
        return Settled(f"HCX's job {job.id}: {job.words}" if job is not None and job.bad else "")

    def _follow(self, asked: AskedOfHcx) -> Waiting | None:
        """It was asked for, and the place does not show it. None: ask (again).

        :raises PermanentError: HCX's job ended without it.
        """
        if asked.job == NOTHING:
            return None
        if not asked.job:
            if self._clock.now() - asked.at < LINGERS:
                return Waiting(f"until the list of extensions shows it, asked {utc_minute(asked.at)}", LOOK_AGAIN)
            return None  # nothing came of it: whoever asked died before HCX had it
        job = self._job(asked.job)
        if job is None:
            return None if self._clock.now() - asked.at >= LINGERS else Waiting("until the list shows it", LOOK_AGAIN)
        if not job.over:
            return Waiting(f"until HCX's job {job.id} is done ({job.words})", LOOK_AGAIN, job.id)
        if job.bad:
            if job.done:  # else HCX may still roll it back
                self._keep(AskedOfHcx(asked.what, asked.at, NOTHING))
            raise PermanentError(
                f"HCX's job {job.id} to {asked.what} the extension ended: {job.words}",
                next_step="Look at the job in HCX. Clear the order's task to ask again, or go back",
                step=self.name,
            )
        if self._clock.now() - asked.at < LINGERS:  # done, and the list still says otherwise
            return Waiting(f"until the list of extensions shows what job {job.id} did", LOOK_AGAIN, job.id)
        raise PermanentError(
            f"HCX's job {job.id} is done, and the list of extensions does not show it",
            next_step="Look at the extension in HCX. Clear the order's task to look again, or go back",
            step=self.name,
        )

    def _job(self, id: str) -> Job | None:
        try:
            return self._jobs.read(id)
        except NotFoundError:
            return None

    def _asked(self, what: str) -> AskedOfHcx | None:
        kept = self._checkpoints.get(ASKED)
        if not isinstance(kept, dict) or kept.get("what") != what or kept.get("of") != self._source_id:
            return None
        return AskedOfHcx(what, datetime.fromisoformat(kept["at"]), str(kept["job"]))

    def _keep(self, asked: AskedOfHcx) -> None:
        value = {"what": asked.what, "of": self._source_id, "at": asked.at.isoformat(), "job": asked.job}
        self._checkpoints.set(ASKED, value)


def extension_of(extensions: Iterable[Extension], source_id: str) -> Extension | None:
    """The extension of a source network.

    :raises PermanentError: there are several.
    """
    found = [each for each in extensions if each.source_id == source_id]
    if len(found) > 1:
        raise PermanentError(
            f"HCX lists {len(found)} extensions of one source network: {', '.join(each.id for each in found)}",
            next_step="Leave one of them in HCX",
            network=found[0].source_name,
        )
    return found[0] if found else None


def identity(extension: Extension) -> State:
    """What makes an extension the same one, whichever id HCX gives it when it is made again."""
    return {
        "source": extension.source_id,
        "source_name": extension.source_name,
        "destination": extension.destination_id,
        "tier": extension.destination_gateway,
        "gateway": extension.gateway,
        "netmask": extension.netmask,
        "mon": bool(extension.mon),
    }


def quiet(client: RestClient, asked_at: datetime | None, job: str, now: datetime) -> Waiting | None:
    """Whether nothing can come late of an end of the extension that HCX was asked for; None: it is certain.

    :param asked_at: when the end was ordered; None: never. :param job: HCX's job; empty: nobody knows it.
    """
    if asked_at is None or job == NOTHING:
        return None
    if job:
        try:
            found = Jobs(client).read(job)
        except NotFoundError:
            found = None
        if found is not None and found.done:
            return None
        if found is not None and not found.bad:
            return Waiting(f"until HCX's job {job} is over ({found.words})", LOOK_AGAIN, job)
        # It failed and is not done: HCX may still roll it back. Or HCX does not know it any more.
    if now - asked_at >= QUIET:
        return None
    until = utc_minute(asked_at + QUIET)
    return Waiting(
        f"until {until}: HCX may have been asked to end the extension, and connects its network then", LOOK_AGAIN
    )
