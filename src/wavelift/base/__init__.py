"""Ground floor: errors, domain types, run context, table of settings, TLS policy. Imports nothing of wavelift."""
