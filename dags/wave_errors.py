"""Defines no DAG. Raises one Airflow import error that lists the invalid specs, so that the web UI shows them."""

from wavelift.dag_factory import raise_spec_errors

raise_spec_errors()
