"""A simulated AWS account: moto's control plane, with our own S3, EBS direct and VM Import, which move real bytes."""

from __future__ import annotations

from wavelift.simulators.aws.launcher import AwsSimulator, Bootstrap, start

__all__ = ["AwsSimulator", "Bootstrap", "start"]
