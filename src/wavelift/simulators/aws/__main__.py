"""``python -m wavelift.simulators.aws --state DIR``: run until SIGTERM, SIGINT or the end of standard input."""

from __future__ import annotations

import sys
from functools import partial

from wavelift.simulators.aws.launcher import ACCESS_KEY, SECRET_KEY
from wavelift.simulators.aws.settings import Settings
from wavelift.simulators.aws.world import AwsWorld
from wavelift.simulators.kit import main as kit


def main(argv: list[str] | None = None) -> int:
    parser = kit.parser("wavelift.simulators.aws", "A simulated AWS account")
    parser.add_argument("--access-key", default=ACCESS_KEY)
    parser.add_argument("--secret-key", default=SECRET_KEY, help="of the permanent pair; not a secret")
    options = parser.parse_args(argv)
    make = partial(AwsWorld, access_key=options.access_key, secret_key=options.secret_key)
    return kit.run(options, Settings(), make)


if __name__ == "__main__":
    sys.exit(main())
