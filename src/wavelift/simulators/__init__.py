"""Simulators of vCenter and AWS, for tests and the demo. They import nothing of wavelift outside of this folder."""
