"""``python -m wavelift.simulators.aws --state DIR``: run until SIGTERM, SIGINT or the end of standard input."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from wavelift.simulators.kit import tls
from wavelift.simulators.kit.control import CONTROL
from wavelift.simulators.kit.server import SimulatorServer, announce
from wavelift.simulators.aws.settings import Settings
from wavelift.simulators.aws.world import World


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(prog="wavelift.simulators.aws", description="A simulated AWS account")
    arguments.add_argument("--state", type=Path, required=True, help="folder for everything that it keeps")
    arguments.add_argument("--listen", default="127.0.0.1:0", help="address:port, port 0 for a free one")
    arguments.add_argument("--tls", action="store_true", help="HTTPS by an authority made at start (ca.pem)")
    arguments.add_argument("--access-key", default="AKIASIMULATOR0000001")
    arguments.add_argument("--secret-key", default="simulator-secret-key", help="of the permanent pair; not a secret")
    arguments.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, repeatable")
    arguments.add_argument("--until-stdin-closes", action="store_true", help="end with whoever started this")
    return arguments


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    settings = Settings()
    try:
        settings.update(dict(pair.split("=", 1) for pair in options.set))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    state: Path = options.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    host, _, port = options.listen.rpartition(":")
    made = tls.make(state, host=host) if options.tls else None
    world = World(state, access_key=options.access_key, secret_key=options.secret_key, settings=settings)
    server = SimulatorServer((host, int(port)), world, made.context if made else None)
    _end_on_signals(server, options.until_stdin_closes)
    url = f"{'https' if made else 'http'}://{host}:{server.server_address[1]}"
    announce(
        {
            "url": url,
            "control": url + CONTROL.rstrip("/"),
            "ca_file": str(made.ca_file) if made else None,
            "region": settings.region,
            "access_key": options.access_key,
            "pid": os.getpid(),
        }
    )
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        server.server_close()
        world.close()
    return 0


def _end_on_signals(server: SimulatorServer, with_stdin: bool) -> None:
    def end(*_: Any) -> None:
        # shutdown() waits for the serving loop, which is the thread that a signal interrupts.
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    if with_stdin:

        def watch() -> None:
            sys.stdin.buffer.read()
            end()

        threading.Thread(target=watch, name="stdin", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
