"""The S3 calls that the product uses, as strict as AWS. Every body is a file."""
