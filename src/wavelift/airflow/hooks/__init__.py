"""Hooks: an Airflow connection in, an adapter's configuration out."""
