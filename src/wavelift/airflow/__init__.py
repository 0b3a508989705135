"""What wavelift adds to Airflow: hooks, triggers, links, provider information."""
