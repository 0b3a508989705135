"""Settings that a running task reads again."""

from __future__ import annotations

from pathlib import Path

import pytest

from wavelift.airflow import config
from wavelift.base.errors import SpecError

pytestmark = pytest.mark.unit

VARIABLE = "AIRFLOW__WAVELIFT__MAX_MBIT_S"


def test_the_limit_of_the_line_is_what_the_file_says_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "airflow.cfg"
    monkeypatch.setenv("AIRFLOW_CONFIG", str(file))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert config.max_mbit_s() is None, "no file"
    file.write_text("[core]\nfernet_key = a%b\n")
    assert config.max_mbit_s() is None
    file.write_text("[core]\nfernet_key = a%b\n[wavelift]\nmax_mbit_s = 400\n")
    assert config.max_mbit_s() == 400.0
    file.write_text("[wavelift]\nmax_mbit_s = 80.5\n")
    assert config.max_mbit_s() == 80.5
    monkeypatch.setenv(VARIABLE, "12")
    assert config.max_mbit_s() == 12.0, "as Airflow does it: the environment wins"
    for wrong in ("fast", "0", "-3", "inf", "nan"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(SpecError, match="max_mbit_s is"):
            config.max_mbit_s()
