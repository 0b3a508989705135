"""What every simulator needs: server, faults, counters, evidence, clock, reset, process. Knows none of the simulators."""
