"""wavelift's operators; import them as wavelift.operators."""
