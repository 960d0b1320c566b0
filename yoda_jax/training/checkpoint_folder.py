"""A folder of checkpoints as it lies on a disk: one writer at a time, and what in it is whole."""

import contextlib
import fcntl
import json
import os
import re
import tempfile

import tensorstore
from absl import logging
from etils import epath

from yoda_jax.errors import UserError
from yoda_jax.runs import in_bucket, located

# Item of a checkpoint -> the file that tells what is in it.
_ITEMS = {
    "config": "metadata",
    "weights": "_METADATA",
    "training": "_METADATA",
    "metrics": "metrics",
}


class CheckpointFolder:
    """A folder in which each checkpoint is a sub-folder named by its step.

    `path` is as the user names it; `plain` is the same folder under a name without brackets, colons
    and the like, of which Orbax and TensorStore would make patterns, buckets and escapes.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.path = self.plain = located(folder)
        self._in_bucket = in_bucket(self.path)
        self._releases = contextlib.ExitStack()
        if not (self._in_bucket or re.fullmatch(r"[\w ./,=+@-]*", os.fspath(self.path))):
            free = self._releases.enter_context(tempfile.TemporaryDirectory())
            self.plain = epath.Path(free) / "checkpoints"
            os.symlink(self.path, self.plain)

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, whole or not; all else is left alone."""
        if not self.path.exists():
            return []
        numbered = [p for p in self.path.iterdir() if re.fullmatch("0|[1-9][0-9]*", p.name)]
        found = [path for path in numbered if path.is_dir()]
        if self._in_bucket:  # no folder appears whole there: an object written last tells it
            found = [path for path in found if (path / "commit_success.txt").exists()]
        return sorted(int(path.name) for path in found)

    def configuration(self, step: int | None = None) -> dict | None:
        """What the newest checkpoint, or that of a step, was saved with; None without one.

        The file alone is read, so it can be asked before any device or process is known.
        """
        for found in reversed(self.steps()) if step is None else (step,):
            path = self.path / str(found) / "config" / "metadata"
            with contextlib.suppress(OSError, ValueError):  # the damaged are warned of elsewhere
                return json.loads(path.read_text())
        return None

    def whole(self) -> list[int]:
        """The steps of whole checkpoints; warns of damaged ones.

        Raises UserError where there is no folder, and where every checkpoint is damaged.
        """
        if not self.path.exists():
            raise self.empty()
        return self._sort_out(move=False)

    def take(self) -> list[int]:
        """As `whole`, for the one job that writes; what a killed job left half written goes.

        Damaged checkpoints are moved aside. Raises UserError where another job writes.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._in_bucket:
            self._lock()
        for path in self.path.iterdir():
            if path.name.endswith(".orbax-checkpoint-tmp"):
                path.rmtree()
        return self._sort_out(move=True)

    def refuse_strangers(self, own: list[int]) -> None:
        """Raises UserError where there are checkpoints of steps that are not one's own."""
        if strange := set(self.steps()) - set(own):
            raise UserError(
                f"{self.path} must be written by one job, found the checkpoint of step "
                f"{max(strange)} of another one; end one of the two, or use another --workdir."
            )

    def empty(self) -> UserError:
        """What a reader is told who finds nothing."""
        return UserError(
            f"{self.path} holds no checkpoint; give the --workdir of a run that saved one."
        )

    def close(self) -> None:
        """Lets another job write."""
        self._releases.close()

    def _lock(self) -> None:
        """The system frees what a job that was killed had locked."""
        path = self.path / ".lock"
        file = self._releases.enter_context(path.open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.path} must be written by one job, found another one at it; wait for its "
                f"end, or use another --workdir (if its machine is lost, delete {path})."
            ) from None
        except OSError as error:  # a disk without locks: `refuse_strangers` is left
            logging.info("%s cannot be locked: %s", self.path, error)

    def _sort_out(self, move: bool) -> list[int]:
        damage = {step: self._damaged_item(step) for step in self.steps()}
        whole = [step for step, item in damage.items() if item is None]
        if damage and not whole:
            raise UserError(
                f"{self.path} must hold a whole checkpoint, found those of steps "
                f"{', '.join(map(str, damage))} damaged; bring back a copy, or delete them to "
                "start anew."
            )
        for step, item in damage.items():
            path = self.path / str(step)
            if item is None or not path.exists():  # the job that writes may just delete it
                continue
            done = f"step {max(whole)} is used" if step > max(whole) else "it is left out"
            if move:  # out of sight of Orbax, which would go on counting it
                aside = self.path / f"{step}.damaged"
                if aside.exists():
                    aside.rmtree()
                path.rename(aside)
                done += f", and it is kept as {aside.name}"
            logging.warning("The checkpoint %s is damaged (its %s): %s.", path, item, done)
        return whole

    def _damaged_item(self, step: int) -> str | None:
        for item, index in _ITEMS.items():
            folder = self.plain / str(step) / item
            if item == "metrics" and not folder.exists():
                continue
            try:
                json.loads((folder / index).read_text())
                # An object in a bucket is there whole or not at all.
                if index == "_METADATA" and not self._in_bucket and not _all_end(folder):
                    return item
            except (OSError, ValueError):
                return item
        return None


def _all_end(folder: epath.Path) -> bool:
    """Whether each array has its last byte, which a file that was cut short has lost."""
    base = {"driver": "file", "path": f"{folder}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    reads = [store.read(key, byte_range=slice(-1, None)) for key in store.list().result()]
    return bool(reads) and all(read.result().value for read in reads)
