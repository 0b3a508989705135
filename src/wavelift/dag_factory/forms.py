"""The trigger forms of a wave's DAGs: one Param per key of the run's conf."""

from __future__ import annotations

from typing import Final

from airflow.sdk import Param

from wavelift.rules.plans import WaveShape

MODES: Final = ["migrate", "plan", "preflight", "launch", "verify", "cleanup"]


def migrate_form(shape: WaveShape) -> dict[str, Param]:
    names = list(shape.server_names)
    return {
        # null means all: Airflow's form sends null for an emptied multi-select (facts 1).
        "servers": Param(
            None,
            type=["null", "array"],
            items={"type": "string"},
            examples=names,
            title="Servers",
            description="If none is chosen: every server of the wave.",
        ),
        "launch": Param(
            "spec",
            type="string",
            enum=["spec", "none", "running"],
            title="Launch",
            values_display={"spec": "as set in the wave's file", "none": "image only", "running": "launch an instance"},
        ),
        "mode": Param(
            "migrate",
            type="string",
            enum=MODES,
            title="Mode",
            description="plan and preflight stop after the checks and create nothing.",
        ),
        "note": Param(
            None, type=["null", "string"], format="multiline", title="Note", description="Kept in the audit trail."
        ),
    }


def replicate_form(shape: WaveShape) -> dict[str, Param]:
    return {
        # null means all: Airflow's form sends null for an emptied multi-select (facts 1).
        "servers": Param(
            None,
            type=["null", "array"],
            items={"type": "string"},
            examples=list(shape.server_names),
            title="Servers",
            description="If none is chosen: every server of the wave that has a replication job.",
        ),
        "note": Param(
            None, type=["null", "string"], format="multiline", title="Note", description="Kept in the audit trail."
        ),
    }
