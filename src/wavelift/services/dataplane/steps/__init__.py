"""Undoable steps of a cutover: one class for each kind of change. They never open the ledger."""
