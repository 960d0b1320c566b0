"""A folder of checkpoints as it lies on a disk: one writer at a time, and what in it is whole."""

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator

import tensorstore
from absl import logging
from etils import epath

from yoda_jax.errors import UserError

_ITEMS = ("config", "weights", "training", "metrics")


class CheckpointFolder:
    """A folder in which each checkpoint is a sub-folder named by its step.

    `path` is as the user names it, made absolute on a disk and untouched in a bucket; `plain` is
    the same folder under a name without brackets, colons and the like, of which Orbax and
    TensorStore would make patterns, buckets and escapes.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        path = os.path.expanduser(os.fspath(folder))
        self._in_bucket = "://" in path
        self.path = epath.Path(path if self._in_bucket else os.path.abspath(path))
        self._releases = contextlib.ExitStack()
        usual = self._in_bucket or re.fullmatch(r"[\w ./,=+@-]*", str(self.path))
        self.plain = self.path if usual else self._releases.enter_context(_link(self.path))

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, whole or not; all else is left alone."""
        if not self.path.exists():
            return []
        found = [path for path in self.path.iterdir() if path.is_dir() and _is_step(path.name)]
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

    def damage(self, step: int) -> str | None:
        """The item of a checkpoint that cannot be read, None where it is whole.

        Of each array the last byte is read, which a file that was cut short has lost.
        """
        for item in _ITEMS:
            folder = self.plain / str(step) / item
            try:
                if item == "metrics" and not folder.exists():
                    continue
                names = {"config": "metadata", "metrics": "metrics"}
                json.loads((folder / names.get(item, "_METADATA")).read_text())
                # An object in a bucket is there whole or not at all.
                if item in ("weights", "training") and not self._in_bucket:
                    base = {"driver": "file", "path": f"{folder}/"}
                    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
                    keys, last = store.list().result(), slice(-1, None)
                    reads = [store.read(key, byte_range=last) for key in keys]
                    if not reads or not all(read.result().value for read in reads):
                        return item
            except (OSError, ValueError):
                return item
        return None

    def empty(self) -> UserError:
        """What a reader is told who finds nothing."""
        return UserError(
            f"{self.path} holds no checkpoint; give the --workdir of a run that saved one."
        )

    def close(self) -> None:
        """Lets another job write."""
        self._releases.close()

    def _sort_out(self, move: bool) -> list[int]:
        damage = {step: self.damage(step) for step in self.steps()}
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

    def _lock(self) -> None:
        """The system frees what a job that was killed had locked."""
        if self._in_bucket:
            return
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


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal() and str(int(name)) == name


@contextlib.contextmanager
def _link(folder: epath.Path) -> Iterator[epath.Path]:
    with tempfile.TemporaryDirectory() as free:
        link = epath.Path(free) / "checkpoints"
        os.symlink(folder, link)
        yield link
