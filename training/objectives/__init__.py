"""One file per mathematics: what a model is asked to minimise, sample by sample."""
