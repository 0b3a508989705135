"""An AWS: moto with VM Import/Export and an honest EBS direct."""
