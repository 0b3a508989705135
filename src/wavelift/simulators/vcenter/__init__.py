"""A vCenter: govmomi's simulator with snapshots that freeze, leases with bodies, change tracking and faults."""
