"""The cutover of a network: its gateway moves from the source's router to the destination's, and back."""
