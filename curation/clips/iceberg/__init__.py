"""Iceberg, as a lake uses it: its files by the lake's door, commits that happen once, and upkeep."""
