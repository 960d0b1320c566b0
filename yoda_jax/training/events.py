"""TensorBoard's events of a run, also where the run lies in a bucket."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator

from clu import metric_writers
from etils import epath

from yoda_jax.processes import is_first
from yoda_jax.runs import in_bucket


@contextlib.contextmanager
def event_board(
    folder: epath.Path,
) -> Iterator[tuple[metric_writers.MetricWriter, Callable[[], None]]]:
    """(a writer of events into a folder, a call that has all of them there); others write none.

    Into a bucket TensorFlow would upload the whole file at every flush, hence events are written to
    this machine's disk and copied by that call and at the end.
    """
    with contextlib.ExitStack() as stack:
        spool = folder
        if in_bucket(folder):
            spool = epath.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        writers = [metric_writers.SummaryWriter(str(spool))] if is_first() else []
        board = metric_writers.AsyncMultiWriter(writers)

        def publish() -> None:
            board.flush()
            for path in spool.iterdir() if spool != folder else ():
                path.copy(folder / path.name, overwrite=True)

        stack.callback(publish)
        yield board, publish
