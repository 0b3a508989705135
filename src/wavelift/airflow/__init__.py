"""Parts of wavelift that extend Airflow: hooks, triggers, links, provider information."""
