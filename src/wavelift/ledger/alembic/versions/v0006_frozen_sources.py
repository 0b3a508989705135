"""Specs that were frozen before environments had to name their sources name the one that their wave came from.

Else nothing of an old run could be read: neither its report nor a clean-up or a deletion of what it left outside.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_RUN = sa.table("wave_run", sa.column("dag_id"), sa.column("dag_run_id"), sa.column("spec", sa.JSON))


def upgrade() -> None:
    connection = op.get_bind()
    for dag_id, run_id, spec in connection.execute(sa.select(_RUN.c.dag_id, _RUN.c.dag_run_id, _RUN.c.spec)).all():
        wave = spec.get("wave")
        wave = wave if isinstance(wave, dict) else spec  # a replicate run froze the wave itself
        environment = wave.get("environment")
        if not isinstance(environment, dict) or "sources" in environment:
            continue
        environment["sources"] = [{"connection": wave["connection"], "connectors": [wave["connector"]]}]
        mine = (_RUN.c.dag_id == dag_id) & (_RUN.c.dag_run_id == run_id)
        connection.execute(sa.update(_RUN).where(mine).values(spec=spec))
