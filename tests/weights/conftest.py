"""Room on the disk."""

import pytest


@pytest.fixture
def clean(tmp_path):
    """Weights of the published sizes do not stay there."""
    yield
    for file in tmp_path.iterdir():
        file.unlink()
