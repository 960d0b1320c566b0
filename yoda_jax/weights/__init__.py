"""Other people's checkpoints as parameters of our networks."""
