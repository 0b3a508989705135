"""The ``cutover:`` section: what a file may say, and where a wrong value is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.specs import ENVIRONMENT, WAVE
