"""The only code that speaks to outside systems; the adapters know nothing of each other."""
