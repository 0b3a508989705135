"""Cutovers: test launch, plan, switch, revert, finalize. A module per step; may use replication and migration."""
