"""The canonical id of VM Import/Export in each region, which writes exported instances into a bucket (VIE-02).

``data/export_accounts.json`` is the table of AWS's page, with source and date; and the rows that a later edition of the
page has besides, with theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any


def export_account(region: str) -> str:
    """The canonical id to which a bucket of this region grants WRITE and READ_ACP.

    The page names one for "all other regions": a region that is newer than the page gets that one, too.
    """
    special, other = _table()
    return special.get(region, other)


@cache
def _table() -> tuple[Mapping[str, str], str]:
    text = resources.files("wavelift.rules").joinpath("data/export_accounts.json").read_text("utf-8")
    data: dict[str, Any] = json.loads(text)
    rows = (*data["accounts"], *data["later"]["accounts"])
    return {region: row["id"] for row in rows for region in row["regions"]}, data["default"]
