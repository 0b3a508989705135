"""The main program of a simulator: options, start, readiness line, end."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from wavelift.simulators.kit import tls
from wavelift.simulators.kit.control import CONTROL
from wavelift.simulators.kit.server import SimulatorServer
from wavelift.simulators.kit.settings import Settings
from wavelift.simulators.kit.site import Site
from wavelift.simulators.kit.world import World

SettingsT = TypeVar("SettingsT", bound=Settings)


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """The options that every simulator has; a simulator may add its own."""
    arguments = argparse.ArgumentParser(prog=program, description=description)
    arguments.add_argument("--state", type=Path, required=True, help="folder for everything that it writes")
    arguments.add_argument("--listen", default="127.0.0.1:0", help="address:port, port 0 for a free one")
    arguments.add_argument("--tls", action="store_true", help="HTTPS by an authority made at start (ca.pem)")
    arguments.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, repeatable")
    arguments.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this")
    return arguments


def run(options: argparse.Namespace, settings: SettingsT, make: Callable[[Path, SettingsT], World[SettingsT]]) -> int:
    """Serve until SIGTERM, SIGINT or the end of standard input. Returns the exit status.

    The first line on standard output is a JSON object with ``url``, ``control``, ``ca_file``, ``pid`` and the
    world's ``hello``.
    A reset makes a new world by ``make`` with the settings of the start.
    """
    try:
        settings.update(dict(pair.split("=", 1) for pair in options.set))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    state: Path = options.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    host, _, port = options.listen.rpartition(":")
    made = tls.make(state, host=host) if options.tls else None
    site = Site(state / "world", lambda folder: make(folder, replace(settings)))
    server = SimulatorServer((host, int(port)), site, made.context if made else None)
    _end_on_signals(server, options.until_stdin_closes)
    url = f"{'https' if made else 'http'}://{host}:{server.server_address[1]}"
    hello = {"url": url, "control": url + CONTROL.rstrip("/"), "ca_file": str(made.ca_file) if made else None}
    print(json.dumps({**hello, "pid": os.getpid(), **site.world.hello()}), flush=True)
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        server.server_close()
        with contextlib.suppress(TimeoutError):  # a thread that does not end dies with the process
            site.world.close()
    return 0


def _end_on_signals(server: SimulatorServer, with_stdin: bool) -> None:
    def end(*_: Any) -> None:
        # shutdown() waits for the serving loop, and a signal handler runs in that loop's thread.
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    if with_stdin:

        def watch() -> None:
            sys.stdin.buffer.read()
            end()

        threading.Thread(target=watch, name="stdin", daemon=True).start()
