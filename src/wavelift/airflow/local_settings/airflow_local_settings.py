"""For ``$AIRFLOW_HOME/config``: tasks start sooner (docs/operations.md). Airflow loads this file in every command."""

import logging

__all__: list[str] = []  # Airflow would make every name its own setting

try:
    from wavelift.airflow.preload import preload

    preload()
except Exception:
    logging.getLogger(__name__).warning("wavelift is not preloaded: tasks start more slowly", exc_info=True)
