"""moto's WSGI application, called in this process, one call at a time (it is not safe for threads)."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from moto.ec2.responses import EC2Response
from moto.elbv2.responses import ELBV2Response
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.route53.responses import Route53
from moto.ssm.responses import SimpleSystemManagerResponse

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.actions import Ec2Actions
from wavelift.simulators.aws.moto_bridge.addresses import AddressActions
from wavelift.simulators.aws.moto_bridge.elbv2 import TargetActions
from wavelift.simulators.aws.moto_bridge.exports import ExportActions
from wavelift.simulators.aws.moto_bridge.images import ImageActions
from wavelift.simulators.aws.moto_bridge.imports import ImportActions
from wavelift.simulators.aws.moto_bridge.instances import InstanceActions
from wavelift.simulators.aws.moto_bridge.route53 import Route53Actions
from wavelift.simulators.aws.moto_bridge.routes import RouteActions
from wavelift.simulators.aws.moto_bridge.ssm import CommandActions
from wavelift.simulators.aws.moto_bridge.templates import TemplateActions
from wavelift.simulators.aws.moto_bridge.volumes import VolumeActions
from wavelift.simulators.kit.message import Request, Response

APPLICATION: Final = DomainDispatcherApplication(create_backend_app)
"""It holds no state of the account, and is slow to build."""
UNKNOWN: Final = {
    "ec2": ("InvalidAction", "The action {operation} is not valid for this web service.", 400),
    "iam": ("InvalidAction", "Could not find operation {operation}", 400),
    "sts": ("InvalidAction", "Could not find operation {operation}", 400),
}
UNKNOWN_ELSE: Final = ("UnknownOperationException", "Operation {operation} is not implemented here", 400)
MIXINS: Final[dict[Any, tuple[Any, ...]]] = {
    EC2Response: (
        *(Ec2Actions, ImportActions, InstanceActions, AddressActions),
        *(ImageActions, TemplateActions, RouteActions, VolumeActions, ExportActions),
    ),
    ELBV2Response: (TargetActions,),
    Route53: (Route53Actions,),
    SimpleSystemManagerResponse: (CommandActions,),
}
"""moto's classes, and what comes before their own methods."""
OURS: Final = frozenset({"content-length", "server", "date", "connection"})
"""Headers that our server writes itself."""


class MotoApp:
    """Answers the calls of EC2, IAM, KMS and others on an account. Only the last one made works: moto's classes are
    global."""

    def __init__(self, account: Account) -> None:
        self._account, self._backends = account, account.backends
        for response, mixins in MIXINS.items():
            for mixin in mixins:
                mixin.account = account
                if mixin not in response.__bases__:
                    _put_before(response, mixin)

    def handle(self, request: Request) -> Response:
        with self._backends.lock:
            self._account.catch_up()
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
            finally:
                self._account.address_log.look(self._backends.ec2)
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

        chunks: Iterable[bytes] = APPLICATION(_environ(request), start_response)
        body = b"".join(chunks)
        if (close := getattr(chunks, "close", None)) is not None:
            close()
        kept = {name: value for name, value in answer["headers"].items() if name.lower() not in OURS}
        return answer["status"], kept, body

    @contextmanager
    def _consistent_in_time(self, request: Request) -> Iterator[None]:
        """Hide resources that are too new from calls that read. Calls that end a resource by its id still find it."""
        now = self._account.clock.now()
        young = {name for name, due in self._account.unseen.items() if due > now}
        sees = request.operation.startswith("Describe") or request.operation in {"RunInstances", "CreateTags"}
        if request.service != "ec2" or not young or not sees:
            yield
            return
        shelves = (self._backends.ec2.amis, self._backends.ec2.snapshots, self._backends.ec2.reservations)
        kept = [{name: item for name, item in shelf.items() if _names(name, item) & young} for shelf in shelves]
        for shelf, hidden in zip(shelves, kept, strict=True):
            for name in hidden:
                del shelf[name]
        try:
            yield
        finally:
            for shelf, hidden in zip(shelves, kept, strict=True):
                shelf.update(hidden)


def _put_before(response: Any, mixin: type) -> None:
    """A class's own methods come before its bases', so those that the mixin takes over become a base behind it."""
    taken = {name: item for name, item in vars(response).items() if not name.startswith("__") and name in vars(mixin)}
    for name in taken:
        delattr(response, name)
    response.__bases__ = (mixin, type(f"{response.__name__}Own", (), taken), *response.__bases__)


def _names(name: str, item: Any) -> set[str]:
    """The ids of a resource of moto's: a reservation holds instances."""
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
