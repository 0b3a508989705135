"""The section ``[wavelift]`` as tasks read it, and the table of settings against Airflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.configuration import conf

from wavelift.airflow import config
from wavelift.base.errors import SpecError
from wavelift.base.patience import PATIENCE_S
from wavelift.base.settings import AIRFLOW, OPTIONS
from wavelift.rules.limits import LIMITS

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


@pytest.mark.parametrize(
    ("value", "words"),
    [("21", "is 21: it must be at most 20: AWS raises it no further"), ("0", "is 0: it must be at least 1")],
)
def test_vie_04_more_exports_than_aws_allows_are_refused_where_the_setting_is_read(
    monkeypatch: pytest.MonkeyPatch, value: str, words: str
) -> None:
    monkeypatch.setenv(OPTIONS["exports_per_region"].variable, value)
    with pytest.raises(SpecError, match=rf"\[wavelift\] exports_per_region {words}") as told:
        config.limit("exports_per_region")
    assert "Set 1 to 20" in str(told.value)
    monkeypatch.setenv(OPTIONS["exports_per_region"].variable, "20")
    assert config.limit("exports_per_region") == 20


def test_a_ledger_that_an_older_wavelift_left_in_the_home_stays_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv(OPTIONS["ledger_url"].variable, "")
    (tmp_path / "wavelift.db").touch()
    assert config.ledger_url() == f"sqlite:///{tmp_path}/wavelift.db"
    (tmp_path / "wavelift").mkdir()
    (tmp_path / "wavelift" / "wavelift.db").touch()
    assert config.ledger_url() == f"sqlite:///{tmp_path}/wavelift/wavelift.db"


def test_what_the_table_says_of_airflow_s_own_values_is_true() -> None:
    for one in AIRFLOW:
        assert float(conf.get_default_value(one.section, one.option)) == one.default, one.option


def test_an_empty_option_stands_for_what_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path / "dags"))
    for option in OPTIONS.values():
        monkeypatch.setenv(option.variable, option.default)
    assert config.waves_folder() == tmp_path / "dags" / "waves"
    assert config.environments_folder() == tmp_path / "dags" / "environments"
    assert config.state_folder() == tmp_path / "home" / "wavelift"
    assert config.connector_state_folder() == tmp_path / "home" / "wavelift" / "connector"
    assert config.ledger_url() == f"sqlite:///{tmp_path}/home/wavelift/wavelift.db"
    assert config.nbdkit_program() == "nbdkit"
    assert config.patience_s() == PATIENCE_S == 1800
    for name in ("transfers_per_connector", "imports_per_region"):
        assert config.integer(name) == LIMITS[name].value
