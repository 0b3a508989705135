"""An AWS: moto's control plane with an S3, an EBS direct and a VM Import of our own that move real bytes."""

from __future__ import annotations

from wavelift.simulators.aws.launcher import AwsSimulator, Bootstrap, start

__all__ = ["AwsSimulator", "Bootstrap", "start"]
