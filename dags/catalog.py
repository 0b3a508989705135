"""The DAGs of the server catalogue and of connectors' health, for each connector that a wave names."""

from airflow.sdk import DAG  # noqa: F401 - Airflow's safe mode reads only files that say airflow and dag

from wavelift.dag_factory.catalog import register_catalog

register_catalog(globals())
