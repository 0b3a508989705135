"""The DAGs of every valid wave spec; broken specs are named by wave_errors.py."""

from airflow.sdk import DAG  # noqa: F401 - Airflow's safe mode reads only files that say airflow and dag

from wavelift.dag_factory import register_waves

register_waves(globals())
