"""moto's WSGI application, called in-process, one call at a time (it is not made for threads)."""

from __future__ import annotations

import io
import os
import sys
import threading
import traceback
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wavelift.simulators.aws.ebs.snapshot import Snapshot
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.keys import SERVICE_ALIAS, Key
from wavelift.simulators.kit.message import Request, Response
from wavelift.simulators.aws.settings import ACCOUNT
from wavelift.simulators.aws.vmimport.roles import Document, load

if TYPE_CHECKING:
    from wavelift.simulators.aws.vmimport.tasks import ImportTask
    from wavelift.simulators.aws.world import World

ENVIRONMENT: Final = {
    "MOTO_ACCOUNT_ID": ACCOUNT,
    "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
    "MOTO_ENABLE_AMI_VALIDATION": "true",
    "MOTO_ENABLE_KEYPAIR_VALIDATION": "true",
    "DISABLE_GLOBAL_CORS": "true",
}
UNKNOWN: Final = {
    "ec2": ("InvalidAction", "The action {operation} is not valid for this web service.", 400),
    "iam": ("InvalidAction", "Could not find operation {operation}", 400),
    "sts": ("InvalidAction", "Could not find operation {operation}", 400),
}
UNKNOWN_ELSE: Final = ("UnknownOperationException", "Operation {operation} is not implemented here", 400)
OURS: Final = frozenset({"content-length", "server", "date", "connection"})
"""Headers that the server writes."""


@dataclass(frozen=True, slots=True)
class Role:
    """A role of IAM: its trust and all its permission policies."""

    arn: str
    trust: Document
    policies: list[Document]


class MotoApp:
    """Make one per process: moto's state is global."""

    def __init__(self, world: World) -> None:
        os.environ.update(ENVIRONMENT)
        from moto.ec2.models import ec2_backends
        from moto.ec2.responses import EC2Response
        from moto.iam.models import iam_backends
        from moto.kms.models import kms_backends
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        from wavelift.simulators.aws.moto_bridge.actions import Ec2Actions
        from wavelift.simulators.aws.moto_bridge.imports import ImportActions

        self.lock = threading.RLock()
        self._world = world
        self._ec2, self._iam, self._kms = ec2_backends, iam_backends, kms_backends
        for mixin in (Ec2Actions, ImportActions):
            mixin.world = world
            if mixin not in EC2Response.__bases__:
                EC2Response.__bases__ = (mixin, *EC2Response.__bases__)
        self._app = DomainDispatcherApplication(create_backend_app)

    @property
    def ec2(self) -> Any:
        return self._ec2[ACCOUNT][self._world.settings.region]

    def reset(self) -> None:
        from moto.moto_api._internal.models import moto_api_backend

        with self.lock:
            moto_api_backend.reset()

    def handle(self, request: Request) -> Response:
        with self.lock:
            self._start_instances()
            try:
                with self._consistent_in_time(request):
                    status, headers, body = self._call(request)
            except NotImplementedError:
                raise self._unknown(request) from None
            except AwsError:
                raise
            except Exception:
                traceback.print_exc(file=sys.stderr)
                raise AwsError("InternalError", "An internal error has occurred", 500) from None
        if status >= 400 and "html" in headers.get("Content-Type", "") and b"<!doctype html" in body.lower()[:200]:
            raise self._unknown(request)
        return Response(status, headers, body)

    def _unknown(self, request: Request) -> AwsError:
        code, message, status = UNKNOWN.get(request.service, UNKNOWN_ELSE)
        return AwsError(code, message.format(operation=request.operation or request.path), status)

    def _call(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        answer: dict[str, Any] = {}

        def start_response(status: str, headers: list[tuple[str, str]], _info: Any = None) -> None:
            answer["status"], answer["headers"] = int(status.split()[0]), dict(headers)

        chunks: Iterable[bytes] = self._app(_environ(request), start_response)
        body = b"".join(chunks)
        if (close := getattr(chunks, "close", None)) is not None:
            close()
        kept = {name: value for name, value in answer["headers"].items() if name.lower() not in OURS}
        return answer["status"], kept, body

    @contextmanager
    def _consistent_in_time(self, request: Request) -> Iterator[None]:
        """Keep from these calls what is too young to be seen; whatever is told its own id to end it, ends it."""
        now = self._world.clock.now()
        young = {name for name, due in self._world.unseen.items() if due > now}
        sees = request.operation.startswith("Describe") or request.operation in {"RunInstances", "CreateTags"}
        if request.service != "ec2" or not young or not sees:
            yield
            return
        shelves = (self.ec2.amis, self.ec2.snapshots, self.ec2.reservations)
        kept = [{name: item for name, item in shelf.items() if _names(name, item) & young} for shelf in shelves]
        for shelf, hidden in zip(shelves, kept, strict=True):
            for name in hidden:
                del shelf[name]
        try:
            yield
        finally:
            for shelf, hidden in zip(shelves, kept, strict=True):
                shelf.update(hidden)

    def hide(self, name: str) -> None:
        """A new thing: seen only after a while, where that is asked for."""
        if seconds := self._world.settings.unseen_seconds:
            self._world.unseen[name] = self._world.clock.now() + seconds

    def _start_instances(self) -> None:
        """Instances whose time has come are running."""
        now = self._world.clock.now()
        waiting = []
        for due, instance in self._world.starting:
            if instance._state.name != "pending":
                continue
            if due <= now:
                instance._state.name, instance._state.code = "running", 16
            else:
                waiting.append((due, instance))
        self._world.starting[:] = waiting

    # what the other parts ask of IAM, KMS and EC2

    def role(self, name: str) -> Role | None:
        with self.lock:
            backend = self._iam[ACCOUNT][self._world.settings.partition]
            found = next((role for role in backend.get_roles() if role.name == name), None)
            if found is None:
                return None
            documents = [load(text) for text in found.policies.values()]
            for policy in found.managed_policies.values():
                current = (item for item in policy.versions if item.version_id == policy.default_version_id)
                documents += [load(item.document) for item in current]
            return Role(str(found.arn), load(found.assume_role_policy_document), documents)

    def find_key(self, text: str) -> Key | None:
        """A KMS key of this account and region, by id, ARN, alias or alias's ARN."""
        parts = text.split(":")
        if text.startswith("arn:") and parts[3:5] != [self._world.settings.region, ACCOUNT]:
            return None
        with self.lock:
            backend = self._kms[ACCOUNT][self._world.settings.region]
            try:
                found = backend.describe_key(text)
            except Exception:
                return None
            services = [name.removeprefix(SERVICE_ALIAS) for name in found.aliases if name.startswith(SERVICE_ALIAS)]
            return Key(
                arn=str(found.arn),
                state=str(found.key_state),
                spec=str(found.key_spec),
                usage=str(found.key_usage or "ENCRYPT_DECRYPT"),  # KMS's default, which moto leaves empty
                service=services[0] if services else "",
            )

    def key_arn(self, key: str) -> str:
        """Of a KMS key by id, ARN or alias."""
        with self.lock:
            return str(self._kms[ACCOUNT][self._world.settings.region].describe_key(key).arn)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        from wavelift.simulators.aws.moto_bridge.resources import SimSnapshot

        with self.lock:
            self.ec2.snapshots[snapshot.id] = SimSnapshot(self.ec2, snapshot, self._world.ebs.state_of)

    def register_import(self, task: ImportTask, *, windows: bool) -> str:
        from wavelift.simulators.aws.moto_bridge.imports import image_values, platform
        from wavelift.simulators.aws.moto_bridge.resources import SimAmi

        values, mappings = image_values(task)
        image_id = f"ami-0{uuid.uuid4().hex[:16]}"
        with self.lock:
            image = SimAmi(self.ec2, image_id, values=values, mappings=mappings, **platform(task.request, windows))
            self.ec2.amis[image_id] = image
            for name in (image_id, *(item["Ebs"]["SnapshotId"] for item in mappings)):
                self.hide(name)
        return image_id


def _names(name: str, item: Any) -> set[str]:
    """The ids by which a resource of moto's is known: reservations hold instances."""
    return {name, *(instance.id for instance in getattr(item, "instances", ()))}


def _environ(request: Request) -> dict[str, Any]:
    body = request.body.content
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path.encode().decode("latin-1"),
        "RAW_URI": request.raw_path + (f"?{request.raw_query}" if request.raw_query else ""),
        "REQUEST_URI": request.raw_path + (f"?{request.raw_query}" if request.raw_query else ""),
        "QUERY_STRING": request.raw_query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": request.headers.get("content-type", ""),
    }
    for name, value in request.headers.items():
        if name not in {"content-type", "content-length", "transfer-encoding", "expect"}:
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return environ
