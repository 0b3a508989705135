"""Triggers for deferred tasks. They only read. The task that resumes writes the results."""
