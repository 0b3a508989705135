"""``python -m wavelift.simulators.nsx --state DIR``: run until SIGTERM, SIGINT or the end of standard input."""

from __future__ import annotations

import sys

from wavelift.simulators.kit import main as kit
from wavelift.simulators.nsx.settings import Settings
from wavelift.simulators.nsx.world import NsxWorld


def main(argv: list[str] | None = None) -> int:
    parser = kit.parser("wavelift.simulators.nsx", "A simulated NSX of one site")
    return kit.run(parser.parse_args(argv), Settings(), NsxWorld)


if __name__ == "__main__":
    sys.exit(main())
