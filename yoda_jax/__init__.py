"""YODA: area-masked diffusion super-resolution in JAX."""
