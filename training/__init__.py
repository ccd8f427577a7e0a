"""Manifests into weights: the plan of every step, the loop, Ray Train, generation and evaluation."""
