"""Fidelity, perceptual distance and reports."""
