"""Copy this file to ``$AIRFLOW_HOME/config``: tasks then start sooner (docs/operations.md).

Airflow loads it in every command.
"""

import logging

try:
    from wavelift.airflow.preload import preload

    preload()
except Exception:
    logging.getLogger(__name__).warning("wavelift could not be preloaded: tasks start more slowly", exc_info=True)
