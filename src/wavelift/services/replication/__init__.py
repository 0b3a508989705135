"""Replication: standing jobs, and one run of them after another (SMS-03 to SMS-10). A module per step.

Every function of a step may be called again after a crash, a retry or a clear, and then finds what it made before
(invariant 5).
"""
