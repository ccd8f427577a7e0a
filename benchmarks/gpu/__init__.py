"""One command for a GPU: ceilings, blocks, autoencoders, real steps, planner, recovery and correctness, in ten minutes."""
