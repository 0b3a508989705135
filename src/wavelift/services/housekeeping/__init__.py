"""The server catalogue and the health of connectors: no flow of a wave."""
