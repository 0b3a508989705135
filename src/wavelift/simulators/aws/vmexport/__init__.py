"""VM Export: tasks that write instances and images as disk images into S3."""
