"""wavelift: waves of virtual machines from VMware vCenter into Amazon EC2, on Apache Airflow."""

from __future__ import annotations

__version__ = "0.1.0"
