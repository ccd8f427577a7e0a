"""Filters on how a clip moves."""
