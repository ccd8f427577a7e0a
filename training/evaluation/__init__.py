"""Measurements of a trained model against a snapshot: reconstruction and flow loss."""
