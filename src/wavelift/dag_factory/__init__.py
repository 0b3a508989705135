"""The DAG shapes, built from specs."""
