"""The video transformer over several devices: the same numbers as on one, and the command that proves it."""
