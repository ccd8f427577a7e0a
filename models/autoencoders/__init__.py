"""Pixels to latents and back: the temporal autoencoder, the image autoencoder it grows from, the linear baseline."""
