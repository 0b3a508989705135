"""The REST API (and later the page) that Airflow's api-server mounts."""
