"""Step functions that return at once, for ``wave_overhead``: the remaining cost of a task is the cost of its start.

A task process imports the same modules as without stubs: each function is replaced after its module has been imported,
and the stubs import no module themselves.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def _take_snapshot(session: Any, task: Any, ctx: Any, **_: Any) -> Any:
    from wavelift.base.domain import SnapshotRef
    from wavelift.services.dataplane.messages import TakenSnapshot

    ref = SnapshotRef(
        server=task.name, vm=task.facts.moref, moref="snapshot-0", name="stub", created="", quiesced=False
    )
    return TakenSnapshot(ref=ref, disks=task.facts.disks)


def _remove_snapshot(session: Any, access: Any, task: Any, ctx: Any) -> bool:
    return True


def _export_server(source: Any, access: Any, ctx: Any, options: Any) -> Any:
    from wavelift.base.domain import ExportResult

    return ExportResult(server=source.task.name, snapshot=source.snapshot.ref.name, disks=())


def _verify_server(access: Any, task: Any, export: Any, ctx: Any, **_: Any) -> Any:
    from wavelift.base.domain import VerifyResult

    return VerifyResult(server=task.name, level="off", bytes_verified=0, bytes_read_back=0)


def _advance_import(ledger: Any, access: Any, staged: Any, ctx: Any, **_: Any) -> Any:
    from wavelift.base.domain import ImportResult
    from wavelift.ledger import migrations
    from wavelift.services.migration.image import ImportDone

    id = migrations.migration_id(ctx.run_key)
    with ledger.write() as tx:
        migrations.record_export(tx, id, staged.export, clock=ctx.clock)
    with ledger.write() as tx:
        migrations.record_verify(tx, id, staged.verified, clock=ctx.clock)
    with ledger.write() as tx:
        migrations.record_import_started(tx, id, "import-ami-0", clock=ctx.clock)
    return ImportDone(ImportResult(server=staged.task.name, task_id="import-ami-0", image_id="ami-0", snapshot_ids=()))


def _record_image(ledger: Any, access: Any, task: Any, image: Any, ctx: Any) -> None:
    from wavelift.ledger import migrations

    with ledger.write() as tx:
        migrations.record_import(tx, migrations.migration_id(ctx.run_key), image, clock=ctx.clock)


STUBS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "wavelift.services.dataplane.snapshot": {"take_snapshot": _take_snapshot},
    "wavelift.services.dataplane.snapshot_removal": {"remove_snapshot": _remove_snapshot},
    "wavelift.services.dataplane.transfer": {"export_server": _export_server},
    "wavelift.services.dataplane.verify": {"verify_server": _verify_server},
    "wavelift.services.migration.image": {"advance_import": _advance_import, "record_image": _record_image},
}


class _Stubbing(importlib.abc.MetaPathFinder):
    """Finds the stubbed modules as ever, and replaces their functions after they have run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in STUBS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _replace(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _replace(module: ModuleType) -> None:
    for function, stub in STUBS[module.__name__].items():
        getattr(module, function)  # a name that is gone must not be stubbed in silence
        setattr(module, function, stub)


def install() -> None:
    """Replace the functions, in modules that are there and in those to come."""
    for name in STUBS:
        if module := sys.modules.get(name):
            _replace(module)
    sys.meta_path.insert(0, _Stubbing())
