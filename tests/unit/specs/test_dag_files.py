"""The DAG files never raise: a wave whose DAG can't be built, or folders that can't be read, stop no other wave."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from wavelift import dag_factory
from wavelift.airflow import config
from wavelift.base.errors import SpecError
from wavelift.dag_factory import catalog, migrate, upkeep

pytestmark = pytest.mark.unit


@pytest.fixture
def site(folders: Any, wave_text: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The waves ``crm`` and ``erp``."""
    folders.wave(wave_text.replace("wave: erp", "wave: crm"), "crm")
    monkeypatch.setattr(config, "waves_folder", lambda: folders.waves)
    monkeypatch.setattr(config, "environments_folder", lambda: folders.environments)
    monkeypatch.setattr(config, "last_valid_folder", lambda: folders.kept)
    monkeypatch.setattr(config, "networks_folder", lambda: folders.networks)
    return folders


def registered() -> list[str]:
    namespace: dict[str, Any] = {}
    dag_factory.register_waves(namespace)
    return sorted(namespace)


def test_one_wave_that_airflow_refuses_stops_no_other(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def migrate_dag(shape: Any) -> Any:
        if shape.wave == "erp":
            raise RecursionError
        return migrate.migrate_dag(shape)

    assert registered() == ["crm.migrate", "erp.migrate"]
    monkeypatch.setattr(dag_factory, "migrate_dag", migrate_dag)
    assert registered() == ["crm.migrate"]


@pytest.mark.parametrize("text", ["wave: erp\nretries: " + "9" * 5000, "a0: &a0 {x: 1}\n"])
def test_a_wave_file_stops_no_other_dag(site: Any, text: str) -> None:
    assert registered() == ["crm.migrate", "erp.migrate"]
    site.wave(text)
    assert registered() == ["crm.migrate", "erp.migrate"], "its last valid version stays"
    with pytest.raises(SpecError, match=r"waves/erp.yaml"):
        dag_factory.raise_spec_errors()


def test_folders_that_are_not_configured_are_told_by_the_file_without_dags(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder() -> Any:
        raise SpecError("the option waves_folder is wrong")

    monkeypatch.setattr(config, "waves_folder", folder)
    assert registered() == []
    with pytest.raises(SpecError, match="waves_folder"):
        dag_factory.raise_spec_errors()


def test_a_task_of_a_connector_builds_no_wave(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``server_catalog`` and ``instance_export`` are no waves, whatever the last part of the DAG's id is."""
    for dag in ("server_catalog.migrate", "connector_health.replicate", "instance_export.migrate"):
        monkeypatch.setattr(dag_factory, "get_parsing_context", lambda dag=dag: SimpleNamespace(dag_id=dag))
        assert registered() == []
    monkeypatch.setattr(dag_factory, "get_parsing_context", lambda: SimpleNamespace(dag_id="erp.migrate"))
    assert registered() == ["erp.migrate"]


def test_a_wave_of_hcx_has_its_own_dag_and_none_of_ec2(site: Any, hcx: Any) -> None:
    assert registered() == ["crm.migrate", "erp.migrate", "live1.live"]
    for connectors in (catalog._connectors(), upkeep._connectors()):
        assert connectors == ["dc-west", "default"], "no catalogue and no watch of the queues of HCX"


def test_a_broken_network_is_told_by_the_file_without_dags(site: Any, hcx: Any) -> None:
    dag_factory.raise_spec_errors()
    hcx.network("network: [")
    hcx.environment("environment: [", "vmc")
    with pytest.raises(SpecError, match=r"networks/web.yaml:1") as caught:
        dag_factory.raise_spec_errors()
    told = [line for line in str(caught.value).splitlines() if line.startswith("environments/vmc.yaml")]
    assert len(told) == 1, "once, although waves and networks both need it"
