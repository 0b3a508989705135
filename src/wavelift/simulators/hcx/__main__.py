"""``python -m wavelift.simulators.hcx --state DIR --sites FILE``: run until SIGTERM, SIGINT or the end of standard
input."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from wavelift.simulators.hcx.settings import Settings
from wavelift.simulators.hcx.sites import Site
from wavelift.simulators.hcx.systems import end_of
from wavelift.simulators.hcx.world import HcxWorld
from wavelift.simulators.kit import main as kit


def main(argv: list[str] | None = None) -> int:
    parser = kit.parser("wavelift.simulators.hcx", "A simulated HCX manager")
    parser.add_argument(
        "--sites", type=Path, required=True, help="JSON: source and destination, with the fields of sites.Site"
    )
    options = parser.parse_args(argv)
    told = json.loads(options.sites.read_text())
    source, destination = (end_of(Site(**told[name])) for name in ("source", "destination"))
    return kit.run(options, Settings(), partial(HcxWorld, source=source, destination=destination))


if __name__ == "__main__":
    sys.exit(main())
