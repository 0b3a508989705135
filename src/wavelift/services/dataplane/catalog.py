"""The connector's part of the catalogue import: it reads the vCenter and hands over one page after another."""

from __future__ import annotations

import logging
from collections.abc import Callable

from wavelift.adapters.vsphere import catalog, tagging
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.catalog import CatalogIndex, CatalogRow
from wavelift.base.errors import MissingPrivilegeError, NotFoundError
from wavelift.base.run import CancelFlag

log = logging.getLogger(__name__)

HandOver = Callable[[int, list[CatalogRow]], None]
"""``(number, rows)`` → gives a page away; at most 500 rows, numbered from 0."""


def read_catalog(session: VsphereSession, hand_over: HandOver, *, cancel: CancelFlag) -> CatalogIndex:
    """Read the whole inventory and hand over each page as soon as it is there; returns what binds them together.

    A vCenter that keeps its tags from us costs the tags, not the import.

    :raises WaveliftError: the vCenter cannot be read.
    """
    tags, unknown = _tags(session)
    count = rows = 0
    for page in catalog.pages(session, tags):
        cancel.check()
        hand_over(count, page)
        count, rows = count + 1, rows + len(page)
        log.info("page %d: %d servers so far", count, rows)
    return CatalogIndex(manager=catalog.manager(session), pages=count, rows=rows, tags_unknown=unknown)


def _tags(session: VsphereSession) -> tuple[dict[str, tuple[str, ...]], str]:
    try:
        return tagging.vm_tags(session), ""
    except (NotFoundError, MissingPrivilegeError) as error:
        log.warning("the catalogue will have no tags: %s", error)
        return {}, str(error)
