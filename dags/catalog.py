"""The DAGs of connectors (catalogue, health), for each connector that a wave names, and of environments (check)."""

from airflow.sdk import DAG  # noqa: F401 - Airflow's safe mode parses only files that contain "airflow" and "dag"

from wavelift.dag_factory.catalog import register_catalog
from wavelift.dag_factory.environments import register_environments

register_catalog(globals())
register_environments(globals())
