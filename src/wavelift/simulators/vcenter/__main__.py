"""`python -m wavelift.simulators.vcenter --state DIR [--inventory FILE] [--listen HOST:PORT]`.

Builds the Go program if necessary, and replaces itself by it. The first line on standard output is the readiness
object; SIGTERM ends it. Without an inventory file it holds only the virtual machines of `--extra-vms`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from wavelift.simulators.kit.process import SimulatorError
from wavelift.simulators.vcenter.build import ensure_binary
from wavelift.simulators.vcenter.inventory import to_json


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m wavelift.simulators.vcenter", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder for everything it writes")
    parser.add_argument("--inventory", type=Path, help="JSON inventory, as to_json() writes it")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--extra-vms", type=int, default=0, help="without --inventory: this many empty machines")
    args = parser.parse_args()
    args.state.mkdir(parents=True, exist_ok=True)
    inventory = args.inventory
    if inventory is None:
        inventory = args.state / "inventory.json"
        inventory.write_text(to_json([], options={"extra_vms": args.extra_vms}))
    try:
        binary = ensure_binary()
    except SimulatorError as error:
        print(error, file=sys.stderr)
        return 1
    argv = [binary.name, "-state", str(args.state), "-inventory", str(inventory), "-listen", args.listen]
    os.execv(binary, argv)


if __name__ == "__main__":
    sys.exit(main())
