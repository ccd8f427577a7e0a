"""Frozen text encoders: strings become token states that the video transformer reads by cross-attention."""
