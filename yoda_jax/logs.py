"""What the log shows: our lines and clu's figures with the time of day, and what time is left."""

import logging as std_logging
import os
import time
from pathlib import Path

from absl import logging

_OURS = str(Path(__file__).parent) + os.sep
_CLU, _ORBAX = f"{os.sep}clu{os.sep}", f"{os.sep}orbax{os.sep}"
# TFDS recommends it in every process; Orbax warns so after a checkpoint that it could not write, or
# that came without an evaluation.
_USELESS = ("OpenCV is not", "Skipping merge of OCDBT checkpoints", "Requested `tracked_metric`")
_SECONDS = 10  # between two lines of the same work


def set_up_log() -> None:
    """Shows information and warnings with the time, and of other packages warnings alone."""
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.addFilter(worth_reading)
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))


def worth_reading(record: std_logging.LogRecord) -> bool:
    """Whether a line is ours, clu's, or a warning that is not said by us or of no use here."""
    if record.pathname.startswith(_OURS) or _CLU in record.pathname:
        return True
    said = _ORBAX in record.pathname and record.exc_info  # what cannot be written is our sentence
    useless = any(words in record.getMessage() for words in _USELESS)
    return record.levelno >= std_logging.WARNING and not (said or useless)


class Eta:
    """Logs how many pictures of long work are done and how long it takes yet, now and then."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._started = self._last = time.monotonic()

    def reached(self, done: float) -> None:
        """Tells that so much of the total is done."""
        now = time.monotonic()
        if not done or now - self._last < _SECONDS:
            return
        self._last, rate = now, done / (now - self._started)
        logging.info(
            "%s: %.0f of %d pictures, %.2g pictures/s, about %.0f s left",
            *(self._what, done, self._total, rate, (self._total - done) / rate),
        )
