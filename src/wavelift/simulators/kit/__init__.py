"""What every simulator needs: server, faults, counters, evidence, clock, reset, process. It imports no simulator."""
