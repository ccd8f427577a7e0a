"""Where footage comes from."""
