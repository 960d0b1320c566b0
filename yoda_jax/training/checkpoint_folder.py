"""A folder of checkpoints as it lies on a disk: one writer at a time, and what in it is whole."""

import contextlib
import fcntl
import json
import os
import re
import tempfile
import zlib
from pathlib import Path

from absl import logging
from etils import epath

from yoda_jax.errors import UserError
from yoda_jax.runs import in_bucket, located, on_the_disk

# Item of a checkpoint -> the file that tells what is in it.
_ITEMS = {
    "config": "metadata",
    "weights": "_METADATA",
    "training": "_METADATA",
    "metrics": "metrics",
}
# In a checkpoint: path of each file of its items -> [length, checksum]; of arrays Orbax keeps none.
# Older checkpoints have no such file, nor have those in a bucket, whose store keeps its own.
_CHECKSUMS = "checksums.json"


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
                if self.damaged_item(found, within="config/") is None:
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

    def seal(self) -> None:
        """Notes the checksums of the checkpoint that is written, just before it gets its name.

        By then all of it lies on the disk itself: a machine that fails loses none of its files.
        """
        for part in [] if self._in_bucket else Path(self.plain).glob("*.orbax-checkpoint-tmp"):
            files = sorted(path for path in part.glob("*/**/*") if path.is_file())
            sums = {os.fspath(p.relative_to(part)): _length_and_crc(p) for p in files}
            (part / _CHECKSUMS).write_text(json.dumps(sums))
            for path in (*files, part / _CHECKSUMS):
                on_the_disk(path)

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

    def damaged_item(self, step: int, within: str = "", lengths_alone: bool = False) -> str | None:
        """The item of a checkpoint that is not as it was written; None where all of them are.

        Of the files below `within`; each is read, but where their lengths alone are compared.
        """
        folder = self.plain / str(step)
        for item, index in _ITEMS.items():
            if item == "metrics" and not (folder / item).exists():
                continue
            try:
                json.loads((folder / item / index).read_text())
            except (OSError, ValueError):
                return item
        item = _CHECKSUMS
        try:
            written = json.loads((folder / item).read_text()) if (folder / item).exists() else {}
            for name, expected in written.items():
                if name.startswith(within):
                    path, item = Path(folder / name), name.partition("/")[0]
                    same = path.stat().st_size == expected[0]
                    if not same or not lengths_alone and _length_and_crc(path) != expected:
                        return item
        except (AttributeError, IndexError, OSError, TypeError, ValueError):
            return item
        return None

    def _sort_out(self, move: bool) -> list[int]:
        damage: dict[int, str | None] = {}
        for step in reversed(self.steps()):  # a checkpoint may be large: one is read in full
            damage[step] = self.damaged_item(step, lengths_alone=None in damage.values())
        whole = [step for step in sorted(damage) if damage[step] is None]
        if damage and not whole:
            raise UserError(
                f"{self.path} must hold a whole checkpoint, found those of steps "
                f"{', '.join(map(str, sorted(damage)))} damaged; bring back a copy, or delete them "
                "to start anew."
            )
        for step, item in sorted(damage.items()):
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


def _length_and_crc(path: Path) -> list[int]:
    """The length of a file and its CRC-32, of which a little is held at a time."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
        return [file.tell(), crc]
