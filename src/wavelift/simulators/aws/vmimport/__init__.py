"""VM Import: tasks that take disk images from S3, convert them, and leave an AMI."""
