"""VM Import: tasks that convert disk images from S3 into an AMI."""
