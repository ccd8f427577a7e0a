"""Footage into clips into manifests: shots, visual, motion and content filters, captions, and the ledger of every fate."""
