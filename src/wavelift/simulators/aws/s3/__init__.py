"""S3 with every body in a file: what the product calls, as strict about it as the real one."""
