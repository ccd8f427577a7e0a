"""`cinemill demo`."""
def demo_command() -> None:
    """demo"""
