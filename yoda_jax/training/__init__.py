"""State, step, sharding and checkpoints."""
