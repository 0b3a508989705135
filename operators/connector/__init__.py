"""Operators of the data plane: they run on a connector's or an environment's queue and never reach the ledger."""
