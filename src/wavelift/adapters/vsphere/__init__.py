"""VMware vCenter and ESXi, by pyvmomi and HTTPS."""
