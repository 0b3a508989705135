"""No DAG: raises one airflow import error that lists the broken specs."""

from wavelift.dag_factory import raise_spec_errors

raise_spec_errors()
