"""The DAG of every environment from which instances are exported. wave_errors.py reports the invalid specs."""

from airflow.sdk import DAG  # noqa: F401 - Airflow's safe mode parses only files that contain "airflow" and "dag"

from wavelift.dag_factory.exports import register_exports

register_exports(globals())
