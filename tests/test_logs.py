"""Other packages do not drown the log, wherever the project lies."""

import logging
from pathlib import Path

import pytest

from yoda_jax import logs

PACKAGE = Path(logs.__file__).parent


# In a checkout that is named like the package.
ORBAX = PACKAGE.parent / ".venv/lib/orbax/checkpoint/handler.py"
RAISED = (OSError, OSError(28, "No space left on device"), None)


@pytest.mark.parametrize(
    ("path", "level", "message", "raised", "shown"),
    [
        (PACKAGE / "jobs/train.py", logging.INFO, "starting", None, True),
        (PACKAGE / "jobs/train.py", logging.ERROR, "a fault", RAISED, True),
        (Path("/v/clu/metric_writers/logging_writer.py"), logging.INFO, "[5]", None, True),
        (ORBAX, logging.INFO, "saving", None, False),
        (ORBAX, logging.WARNING, "slow", None, True),
        # A full disk is told in a sentence of ours.
        (ORBAX, logging.ERROR, "Failed to run 2 Handler Commit operations", RAISED, False),
        (ORBAX, logging.WARNING, "Skipping merge of OCDBT checkpoints: No", None, False),
        (ORBAX, logging.WARNING, "Requested `tracked_metric`; did not", None, False),
        (Path("/v/other/file.py"), logging.ERROR, "a fault", RAISED, True),
        (Path("/v/tfds/image.py"), logging.WARNING, "OpenCV is not installed", None, False),
    ],
)
def test_what_is_shown(path, level, message, raised, shown):
    record = logging.LogRecord("absl", level, str(path), 1, message, None, raised)
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
