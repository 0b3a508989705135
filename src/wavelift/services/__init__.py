"""The use cases, free of Airflow."""
