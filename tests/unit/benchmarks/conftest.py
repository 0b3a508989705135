"""The benchmarks are no installed package: ``python -m`` finds them in the folder where it is started."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))
