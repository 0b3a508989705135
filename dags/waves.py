"""The DAGs of every valid wave spec. wave_errors.py reports the invalid specs."""

from airflow.sdk import DAG  # noqa: F401 - Airflow's safe mode parses only files that contain "airflow" and "dag"

from wavelift.dag_factory import register_waves

register_waves(globals())
