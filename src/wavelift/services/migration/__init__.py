"""One server's way to an image and an instance, as the control plane sees it.

Every function is one step of the migrate DAG: it may be called again after a crash, a retry or a clear, and then
finds what it made before (invariant 5). A module per step: a task imports only its own.
"""
