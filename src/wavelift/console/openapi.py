"""The REST API as an OpenAPI document; ``python -m wavelift.console.openapi docs/openapi.json`` renews it.

It is not served: FastAPI's own pages know no login.
"""

from __future__ import annotations

import json
from pathlib import Path

from wavelift.console.api import create_app


def openapi_text() -> str:
    return json.dumps(create_app().openapi(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    import sys

    Path(sys.argv[1]).write_text(openapi_text())
