"""wavelift's sensors; import them as wavelift.sensors."""
