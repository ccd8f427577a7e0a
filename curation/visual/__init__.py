"""Filters on what a clip looks like."""
