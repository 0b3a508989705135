"""The kit is general: a simulator of about 60 lines (``shelf.py``) gets everything from it, over HTTPS."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from wavelift.simulators.kit.client import Simulator, launch
from wavelift.simulators.kit.process import SimulatorError

pytestmark = pytest.mark.wire

PROGRAM = [sys.executable, str(Path(__file__).parent / "shelf.py")]
CUT = (OSError, HTTPException)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    state = tmp_path_factory.mktemp("shelf")
    process = launch(PROGRAM, state, tls=True, settings={"room": 2})
    with Simulator(process, process.ready(), state) as simulator:
        yield simulator


@pytest.fixture
def shelf(running: Simulator) -> Simulator:
    running.reset()
    return running


def _call(shelf: Simulator, method: str, jar: str, body: bytes = b"") -> Any:
    context = ssl.create_default_context(cafile=str(shelf.ca_file))
    request = urllib.request.Request(f"{shelf.url}/jars/{jar}", method=method, data=body or None)
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _is_closed(connection: ssl.SSLSocket) -> bool:
    connection.settimeout(60)
    try:
        return connection.recv(1) == b""
    except OSError as error:
        return not isinstance(error, TimeoutError)


def _files(shelf: Simulator) -> set[str]:
    world = shelf.state_folder / "world"
    return {path.relative_to(world).as_posix() for path in world.rglob("*") if path.is_file()}


def _everything(shelf: Simulator) -> dict[str, Any]:
    return {
        "state": shelf.state(),
        "counters": shelf.counters(),
        "rules": shelf.rules(),
        "evidence": shelf.evidence(),
        "settings": shelf.settings(),
        "offset": shelf.clock()["offset"],
        "files": _files(shelf),
    }


def test_https_only_with_its_own_authority(shelf: Simulator) -> None:
    assert shelf.url.startswith("https://127.0.0.1:")
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(shelf.url, timeout=60, context=ssl.create_default_context())


def test_calls_are_counted_and_state_shows_what_exists(shelf: Simulator) -> None:
    _call(shelf, "PUT", "a", b"plum")
    assert _call(shelf, "GET", "b") == (404, "no jar b")
    assert shelf.state() == {"jars": ["a"]}
    assert shelf.counters() == {
        "shelf.PutJar": {"calls": 1, "bytes_in": 4},
        "shelf.GetJar": {"calls": 1, "bytes_in": 0, "errors": 1},
    }
    shelf.reset_counters()
    assert shelf.counters() == {}


def test_clock_and_settings_are_a_test_s_to_change(shelf: Simulator) -> None:
    shelf.advance(3600)
    assert _call(shelf, "PUT", "a")["stored"] > time.time() + 3000
    _call(shelf, "PUT", "b")
    assert _call(shelf, "PUT", "c") == (409, "the shelf is full")
    shelf.settings(other_words=True)
    assert _call(shelf, "PUT", "c") == (409, "no room")
    assert shelf.settings(room=3)["room"] == 3
    assert "stored" in _call(shelf, "PUT", "c")
    with pytest.raises(SimulatorError, match="no setting 'colour'"):
        shelf.settings(colour="red")


def test_fault_rules_of_the_kit_and_of_the_simulator(shelf: Simulator) -> None:
    rule = shelf.rule(operation="GetJar", key="a*", status=503, message="later", skip=1, count=1)
    _call(shelf, "PUT", "a", b"plum")
    seen = [_call(shelf, "GET", "a") for _ in range(3)]
    assert seen[1] == (503, "later")
    assert "stored" in seen[0]
    assert "stored" in seen[2]
    assert [(each["id"], each["applied"]) for each in shelf.rules()] == [(rule, 1)]
    shelf.rule(operation="GetJar", cut_response_after=0, count=1)
    with pytest.raises(CUT):
        _call(shelf, "GET", "a")
    shelf.rule(operation="PutJar", cut_request_after=1, count=1)
    with pytest.raises(CUT):
        _call(shelf, "PUT", "half", b"plum")
    assert shelf.state() == {"jars": ["a"]}
    shelf.rule(kind="spill", key="b")
    _call(shelf, "PUT", "b", b"cherry")
    (spilt,) = shelf.evidence()["spilt"]
    assert (spilt["jar"], Path(spilt["path"]).read_bytes()) == ("b", b"cherry")
    for wrong, why in (({"colour": "red"}, "a rule has no"), ({"kind": "storm"}, "kind is one of")):
        with pytest.raises(SimulatorError, match=why):
            shelf.rule(**wrong)
    shelf.clear_rules()
    assert shelf.rules() == []


def test_a_reset_leaves_what_a_start_leaves(shelf: Simulator, tmp_path: Path) -> None:
    shelf.rule(kind="spill", key="a")
    shelf.rule(operation="DeleteJar", probability=0.5)
    for jar in ("a", "b"):
        _call(shelf, "PUT", jar, b"plum")
    shelf.advance(60)
    shelf.settings(room=7, other_words=True)
    used, pid = _everything(shelf), shelf.pid
    shelf.reset()
    after = _everything(shelf)
    process = launch(PROGRAM, tmp_path, tls=True, settings={"room": 2})
    with Simulator(process, process.ready(), tmp_path) as fresh:
        assert after == _everything(fresh)
    assert all(used[name] != after[name] for name in after)
    assert _call(shelf, "GET", "b") == (404, "no jar b")
    assert shelf.rule(status=500) == 1
    assert shelf.pid == pid


def test_a_reset_ends_calls_that_run_and_they_leave_nothing(shelf: Simulator) -> None:
    """One is held back by a rule, one waits for the rest of its body."""
    shelf.rule(operation="PutJar", key="held", latency=120)
    ends: list[Any] = []

    def held() -> None:
        try:
            ends.append(_call(shelf, "PUT", "held", b"plum"))
        except CUT as error:
            ends.append(error)

    thread = threading.Thread(target=held)
    thread.start()
    context = ssl.create_default_context(cafile=str(shelf.ca_file))
    host, port = shelf.url.removeprefix("https://").split(":")
    with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host) as half:
        half.sendall(b"PUT /jars/half HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nplum")
        while not shelf.rules()[0]["applied"]:
            time.sleep(0.01)
        begin = time.monotonic()
        shelf.reset()
        assert time.monotonic() - begin < 30
        assert _is_closed(half)
    thread.join(60)
    assert isinstance(ends[0], Exception), ends
    assert shelf.state() == {"jars": []}
    assert shelf.counters() == {}
    assert _files(shelf) == set()


def test_a_wrong_control_call_says_what_there_is(shelf: Simulator) -> None:
    with pytest.raises(SimulatorError, match="reset"):
        shelf.control("GET", "nowhere")
