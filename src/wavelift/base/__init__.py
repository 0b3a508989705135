"""Ground floor: errors, domain types, run context, settings, TLS and proxy policy. Imports nothing of wavelift."""
