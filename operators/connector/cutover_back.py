"""The end of a cutover's way back on the connector's queue: sources are connected and on again."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wavelift.operators.connector._plane import ConnectorOperator
from wavelift.rules.flows import CUTOVER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

    from wavelift.adapters.vsphere.session import VsphereSession
    from wavelift.services.dataplane.cutover_messages import SourceToStart, StartedSource


class GrantedSources(ConnectorOperator):
    """Base of what changes sources outside their cutover's own tasks: each has a grant of its own."""

    needs_grant = "stop"
    grant_action = "cutover"
    _vm: str = ""

    @contextmanager
    def granted(self, context: Context, source: SourceToStart) -> Iterator[VsphereSession]:
        """A session with a source's vCenter, once its grant was verified."""
        before = source.before
        self.verify_grant(
            context,
            source.token,
            scope="stop",
            environment=source.environment,
            server=source.server,
            vm=before.instance_uuid,
            vcenter=before.connection,
            plan=source.digest,
        )
        self._vm = before.vm
        with self.vcenter(before.connection) as session:
            yield session

    @contextmanager
    def vcenter(self, vsphere_conn_id: str) -> Iterator[VsphereSession]:
        """A session, once the VM that it will change is the one of the grant."""
        from wavelift.services.dataplane import grants

        with super().vcenter(vsphere_conn_id) as session:
            assert self._grant is not None  # the base opened nothing without it
            grants.verify_vm(session, self._grant, self._vm)
            yield session


class StartSourcesOperator(GrantedSources):
    """Connect sources to their networks as they were before their cutover, and power on those that were on.

    Runs on the connector's queue. Each needs the grant that ``undo`` issued once its instance was seen stopped. A
    server that fails does not stop the others, and what a retry may cure is tried again. Returns
    ``{"servers": [...]}``: a :class:`~wavelift.services.dataplane.source_return.StartedSource` each.

    :param undone: what :class:`UndoOperator` returned.
    """

    grant_issuer = CUTOVER.task_id("undo")
    template_inputs = ("undone",)
    undone: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.base.errors import Cancelled, FencedError, WaveliftError
        from wavelift.services.dataplane.cutover_messages import SourceToStart, StartedSource

        found: list[StartedSource] = []
        again: WaveliftError | None = None
        for one in (self.undone or {}).get("sources", ()):
            source = SourceToStart.load(one)
            try:
                found.append(self._start(context, source))
            except (FencedError, Cancelled):
                raise
            except WaveliftError as error:
                self.log.error("%s: %s", source.server, error)
                again = error if error.retryable else again
                found.append(StartedSource(server=source.server, cutover=source.cutover, error=str(error)))
        ti = context["ti"]
        if again is not None and ti.try_number <= ti.max_tries:
            raise again
        return {"servers": [each.dump() for each in found]}

    def _start(self, context: Context, source: SourceToStart) -> StartedSource:
        from wavelift.services.dataplane.source_return import start_source

        with self.granted(context, source) as session:
            started = start_source(session, source, self._cancel)
        self.log.info("%s: %s", source.server, "on" if started.powered_on else "off, as it was")
        return started


class LookAtSourcesOperator(ConnectorOperator):
    """Look whether sources that cutovers stopped are off, and off their networks. Only reads.

    Runs on the connector's queue. A vCenter that does not answer does not hide the others; what a retry may cure is
    tried again. Returns a :class:`~wavelift.services.dataplane.cutover_messages.SeenSource` each.

    :param sources: what :class:`WatchedSourcesOperator` returned.
    """

    needs_grant = "nothing"
    template_inputs = ("sources",)
    sources: Any

    def work(self, context: Context) -> list[dict[str, Any]]:
        from itertools import groupby

        from wavelift.base.errors import Cancelled, FencedError, WaveliftError
        from wavelift.services.dataplane.cutover_messages import SeenSource, WatchedSource
        from wavelift.services.dataplane.source_watch import look_at

        seen: list[SeenSource] = []
        sources = sorted((WatchedSource.load(each) for each in self.sources), key=lambda one: one.connection)
        again: WaveliftError | None = None
        for connection, grouped in groupby(sources, lambda one: one.connection):
            left = list(grouped)
            try:
                with self.vcenter(connection) as session:
                    while left:
                        try:
                            seen.append(look_at(session, left[0]))
                        except (FencedError, Cancelled):
                            raise
                        except WaveliftError as error:
                            seen.append(SeenSource.unseen(left[0], error))
                        left.pop(0)
            except (FencedError, Cancelled):
                raise
            except WaveliftError as error:
                self.log.error("%s: %s", connection, error)
                again = error if error.retryable else again
                seen += [SeenSource.unseen(one, error) for one in left]
        ti = context["ti"]
        if again is not None and ti.try_number <= ti.max_tries:
            raise again
        return [each.dump() for each in seen]


class FenceSourcesOperator(GrantedSources):
    """Disconnect sources again that are on, or connected, although their instances took their place.

    Runs on the connector's queue. Each needs the grant that :class:`JudgeSourcesOperator` issued, which is short.

    :param judged: what that returned.
    """

    grant_issuer = "judge"
    template_inputs = ("judged",)
    judged: Any

    def work(self, context: Context) -> list[str]:
        from wavelift.base.errors import Cancelled, FencedError, WaveliftError
        from wavelift.services.dataplane.cutover_messages import SourceToStart
        from wavelift.services.dataplane.source_watch import fence_again

        fenced = []
        failed: WaveliftError | None = None
        for one in (self.judged or {}).get("fence", ()):
            source = SourceToStart.load(one)
            try:
                with self.granted(context, source) as session:
                    fence_again(session, source, self._cancel)
            except (FencedError, Cancelled):
                raise
            except WaveliftError as error:  # the others must not stay connected for that
                self.log.error("%s: %s", source.server, error)
                failed = error
                continue
            self.log.warning("%s: its source is disconnected again", source.server)
            fenced.append(source.server)
        if failed is not None:
            raise failed
        return fenced
