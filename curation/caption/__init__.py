"""Captions: sentences about clips."""
