"""The DAGs for the server catalogue and for connector health, for each connector that a wave names."""

from airflow.sdk import DAG  # noqa: F401 - Airflow's safe mode parses only files that contain "airflow" and "dag"

from wavelift.dag_factory.catalog import register_catalog

register_catalog(globals())
