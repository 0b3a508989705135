"""The flow that exports one instance to S3 (AMP-10, VIE-01 to VIE-06)."""

from __future__ import annotations

from typing import Final

from wavelift.rules.flow import EXPORT_DAG, Flow, Mode, Plane, SlotKind, Step

EXPORT_DAGS: Final = f"{EXPORT_DAG}."
"""What the ids of its DAGs begin with; the environment's name follows. No wave and no network has such a name."""

EXPORT: Final = Flow(
    name="export",
    lead=EXPORT_DAGS,
    suffix="",
    prefix="exp-",
    words="Export an instance of environment {wave} to S3",
    steps=(
        Step(
            name="admit",
            plane=Plane.CONTROL,
            words="check the run's conf and who asks, and write the export down",
        ),
        Step(
            name="setup",
            plane=Plane.CONTROL,
            after=("admit",),
            words="in mode setup: make the bucket of the region, or see that it is right",
        ),
        Step(
            name="check",
            plane=Plane.CONTROL,
            after=("admit",),
            words="check bucket and instance, and choose the method",
        ),
        Step(
            name="reserve",
            plane=Plane.CONTROL,
            after=("check",),
            holds=(SlotKind.EXPORT,),
            words="win one of the region's export slots",
            waits="waits for a slot",
        ),
        Step(
            name="begin",
            plane=Plane.CONTROL,
            after=("reserve",),
            holds=(SlotKind.EXPORT,),
            words="write the intent; start the task of AWS and follow it, or take the snapshots",
            waits="waits for AWS",
        ),
        Step(
            name="read",
            plane=Plane.ENVIRONMENT,
            after=("begin",),
            holds=(SlotKind.EXPORT,),
            optional=True,
            moves=True,
            words="method direct: read the snapshots and write the OVA",
        ),
        Step(
            name="verify",
            plane=Plane.ENVIRONMENT,
            after=("read",),
            holds=(SlotKind.EXPORT,),
            words="open the object, and compare what the run asks for",
        ),
        Step(
            name="record",
            plane=Plane.CONTROL,
            after=("verify",),
            holds=(SlotKind.EXPORT,),
            words="record the object as the export's result",
        ),
        Step(
            name="remove",
            plane=Plane.CONTROL,
            after=("record",),
            teardown=True,
            holds=(SlotKind.EXPORT,),
            words="remove snapshots and image; of an export without result also task, upload and object",
        ),
        Step(
            name="release",
            plane=Plane.CONTROL,
            after=("remove",),
            teardown=True,
            words="give the slot back",
        ),
        Step(
            name="report",
            plane=Plane.CONTROL,
            after=("setup", "release"),
            teardown=True,
            words="tell how it ended",
        ),
    ),
    modes=(
        Mode("export", "check", "export the instance"),
        Mode("check", "check", "check bucket and instance; make nothing"),
        Mode("setup", "setup", "make the bucket `export-to-s3-<name>-<region>`, or see that it is right"),
    ),
)
"""One DAG per environment that has ``exports``. It belongs to no wave."""
CHAIN: Final = tuple(EXPORT.step(name) for name in EXPORT.path_to("record"))
"""The steps of an export, in their order, without the teardowns, which remove what it made."""
