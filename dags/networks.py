"""The DAG of every valid network that is cut over. wave_errors.py reports the invalid specs."""

from airflow.sdk import DAG  # noqa: F401 - Airflow's safe mode parses only files that contain "airflow" and "dag"

from wavelift.dag_factory.network import register_networks

register_networks(globals())
