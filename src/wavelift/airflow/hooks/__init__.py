"""Hooks: convert an Airflow connection into the configuration of an adapter."""
