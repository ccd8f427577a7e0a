"""What a step trains on: the plan that names it, the shapes it comes in, and the workers and caches that fetch it."""
