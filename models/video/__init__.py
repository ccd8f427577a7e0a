"""Latents, a prompt and a time in; a velocity out."""
