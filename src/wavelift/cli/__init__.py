"""The wavelift command line."""
