"""Wave and environment specs: YAML to models, errors with file and line."""
