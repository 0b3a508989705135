"""The tables of ``docs/settings.md``, made from :mod:`wavelift.base.settings`, and of ``docs/hcx.md``, made from
:mod:`wavelift.adapters.hcx.guesses`.

``python -m wavelift.cli.settings_page docs/settings.md`` writes them again. The text around them is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from wavelift.adapters.hcx import guesses
from wavelift.base.settings import AIRFLOW, OPTIONS, AirflowSetting, Option

TABLE: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first, *others = (f"| {' | '.join(cells)} |\n" for cells in (head, *rows))
    return "".join([first, "|---" * len(head) + "|\n", *others])


def _airflow_row(one: AirflowSetting) -> tuple[str, ...]:
    value = f"{one.value} per core" if one.per_core else str(one.value)
    return f"`[{one.section}] {one.option}`", value, one.unit, str(one.default), one.otherwise


def _option_row(one: Option) -> tuple[str, ...]:
    return f"`{one.name}`", one.unset, one.unit, one.meaning, one.reader.value


def tables() -> dict[str, str]:
    """The tables of the pages by their names."""
    return {
        "airflow": _table(
            ("setting", "value", "unit", "Airflow's own", "with Airflow's own value"), map(_airflow_row, AIRFLOW)
        ),
        "wavelift": _table(("option", "default", "unit", "meaning", "read by"), map(_option_row, OPTIONS.values())),
        "hcx": _table(("what", "value", "how sure", "source", "note"), guesses.rows()),
    }


def renewed(text: str) -> str:
    """The page with its tables as the code has them."""
    made = tables()
    return TABLE.sub(lambda found: found[1] + made[found[2]] + found[3], text)


if __name__ == "__main__":
    import sys

    page = Path(sys.argv[1])
    page.write_text(renewed(page.read_text()))
