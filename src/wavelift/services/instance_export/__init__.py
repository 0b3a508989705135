"""The control plane of instance exports: admission, checks, slots, AWS's tasks, and what is removed (AMP-10)."""
