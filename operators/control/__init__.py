"""Operators of the control plane: they may open the ledger. They run on Airflow's default queue."""
