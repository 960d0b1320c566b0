"""What a job's log shows: our own lines and clu's figures, each with the time of day."""

import logging as std_logging
import os
from pathlib import Path

from absl import logging

_OURS = str(Path(__file__).parents[1]) + os.sep
_CLU = f"{os.sep}clu{os.sep}"


def set_up_log() -> None:
    """Shows information and warnings with the time, and of other packages warnings alone."""
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.addFilter(worth_reading)
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))


def worth_reading(record: std_logging.LogRecord) -> bool:
    """Whether a line is ours, clu's or a warning; TFDS recommends OpenCV in every process."""
    ours = record.pathname.startswith(_OURS) or _CLU in record.pathname
    warning = record.levelno >= std_logging.WARNING and "OpenCV is not" not in record.getMessage()
    return ours or warning
