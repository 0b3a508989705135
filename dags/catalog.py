"""The DAGs of connectors (catalogue, health, watch), for each that a wave names, of environments, and of upkeep."""

from airflow.sdk import DAG  # noqa: F401 - Airflow's safe mode parses only files that contain "airflow" and "dag"

from wavelift.dag_factory.catalog import register_catalog
from wavelift.dag_factory.environments import register_environments
from wavelift.dag_factory.upkeep import register_upkeep

register_catalog(globals())
register_environments(globals())
register_upkeep(globals())
