"""Amazon S3, EC2, VM Import, EBS direct, IAM, KMS: boto3 for control calls, an own SigV4 client for bulk data."""
