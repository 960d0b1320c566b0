"""Other packages do not drown the log, wherever the project lies."""

import logging
from pathlib import Path

import pytest

from yoda_jax.jobs import console

PACKAGE = Path(console.__file__).parents[1]


@pytest.mark.parametrize(
    ("path", "level", "message", "shown"),
    [
        (PACKAGE / "jobs/train.py", logging.INFO, "starting", True),
        (Path("/v/site-packages/clu/metric_writers/logging_writer.py"), logging.INFO, "[5]", True),
        # A checkout named like the package, with its environment within.
        (PACKAGE.parent / ".venv/lib/orbax/handler.py", logging.INFO, "saving", False),
        (PACKAGE.parent / ".venv/lib/orbax/handler.py", logging.WARNING, "slow", True),
        (
            Path("/v/tensorflow_datasets/image.py"),
            logging.WARNING,
            "OpenCV is not installed",
            False,
        ),
    ],
)
def test_what_is_shown(path, level, message, shown):
    record = logging.LogRecord("absl", level, str(path), 1, message, None, None)
    assert console.worth_reading(record) == shown
