"""Networks in Flax linen, one a file."""
