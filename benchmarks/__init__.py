"""Benchmarks against other tools. ``make bench NAME=vmdk_read`` runs ``python -m benchmarks.vmdk_read``."""
