"""Schema revisions, run by Alembic through :mod:`wavelift.ledger.revisions`."""
