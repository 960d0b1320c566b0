"""Other packages do not drown the log, wherever the project lies."""

import logging
from pathlib import Path

import pytest

from yoda_jax import logs

PACKAGE = Path(logs.__file__).parent


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
    assert logs.worth_reading(record) == shown


def test_long_work_tells_what_is_left(monkeypatch, caplog):
    clock = iter([0.0, 5.0, 20.0, 25.0, 40.0])
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(clock))
    eta = logs.Eta("train", 100)
    with caplog.at_level(logging.INFO, "absl"):
        for done in (10, 40, 50, 80):
            eta.reached(done)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "train: 40 of 100 pictures, 2 pictures/s, about 30 s left",
        "train: 80 of 100 pictures, 2 pictures/s, about 10 s left",
    ]
