"""VMware HCX: inventory, migrations, network extensions. Written from public documents, never met the real one."""
