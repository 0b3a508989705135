"""Deferred waits. They only read; what they found is written by the task that they wake."""
