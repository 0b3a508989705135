"""Stand-ins for vCenter and AWS, for tests and the demo. Imports nothing of wavelift outside this folder."""
