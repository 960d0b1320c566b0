"""What can happen to a job, each for real: how it ends, and as what when it is begun again."""

import dataclasses
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from command_line import wait_until
from laboratory import STEPS, FailingDisk, Laboratory, remount, small_disk

# Of the process that finds it on its path: the clock is put on and back by an hour every second.
JUMPING_CLOCK = """
import time
begun, true, true_ns = time.monotonic(), time.time, time.time_ns
def ahead():
    return 3600 * (-1, 0, 1, 0)[int(time.monotonic() - begun) % 4]
time.time = lambda: true() + ahead()
time.time_ns = lambda: true_ns() + ahead() * 10**9
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The exit status and what was said of the fault; whether the end is the undisturbed one's."""

    status: int
    said: str
    equal: bool


def _again(laboratory: Laboratory, workdir: object, status: int, about: str = "") -> Outcome:
    """Of a job that ended by a fault which is gone: begun again, it ends as it should."""
    said = laboratory.said(about)
    again = laboratory.run(str(workdir))
    return Outcome(status, said, again == 0 and laboratory.as_expected(str(workdir)))


def told_to_stop(laboratory: Laboratory) -> Outcome:
    """SIGTERM in training."""
    workdir = f"{laboratory.root}/stopped"
    job = laboratory.start(workdir)
    wait_until(lambda: laboratory.said("[20]") or job[0].poll() is not None, laboratory.said)
    job[-1].send_signal(signal.SIGTERM)
    return _again(laboratory, workdir, max(process.wait() for process in job))


def full_disk_in_precomputation(laboratory: Laboratory) -> Outcome:
    """A disk that is full after half of the records."""
    return _full_disk(laboratory, _kilobytes(Path(laboratory.undisturbed) / "records") // 2)


def full_disk_in_training(laboratory: Laboratory) -> Outcome:
    """A disk that is full in the middle of the second checkpoint."""
    whole = Path(laboratory.undisturbed)
    checkpoint = _kilobytes(whole / f"checkpoints/{STEPS}")
    return _full_disk(laboratory, _kilobytes(whole / "records") + 3 * checkpoint // 2 + 100)


def _full_disk(laboratory: Laboratory, kilobytes: int) -> Outcome:
    with small_disk(laboratory.folder, kilobytes) as disk:
        status = laboratory.run(f"{disk}/run")
        remount(disk, "size=100m")
        # Orbax's own threads may tell of their end behind the sentence.
        return _again(laboratory, f"{disk}/run", status, "yoda_jax: ")


def _kilobytes(path: Path) -> int:
    return sum(4 * -(-p.stat().st_size // 4096) for p in path.rglob("*") if p.is_file())


def read_only_at_the_start(laboratory: Laboratory) -> Outcome:
    """A disk that cannot be written to."""
    with small_disk(laboratory.folder, 100_000) as disk:
        remount(disk, "ro")
        status = laboratory.run(f"{disk}/run")
        remount(disk, "rw")
        return _again(laboratory, f"{disk}/run", status)


def read_only_at_the_resumption(laboratory: Laboratory) -> Outcome:
    """A disk that cannot be written to when half of the training lies on it."""
    with small_disk(laboratory.folder, 100_000) as disk:
        shutil.copytree(laboratory.copy(), disk / "run")
        remount(disk, "ro")
        status = laboratory.run(f"{disk}/run")
        remount(disk, "rw")
        return _again(laboratory, f"{disk}/run", status)


def _damaged(of: str, damage: Callable[[Path], None]) -> Callable[[Laboratory], Outcome]:
    """Of a damaged file of the last checkpoint of a run, which is begun again."""

    def disturbance(laboratory: Laboratory) -> Outcome:
        workdir = laboratory.copy(whole=True)
        found = [p for p in workdir.glob(f"checkpoints/{STEPS}/{of}") if p.is_file()]
        damage(max(found, key=lambda path: path.stat().st_size))
        status = laboratory.run(str(workdir))
        return Outcome(status, laboratory.said("damaged"), laboratory.as_expected(str(workdir)))

    disturbance.__doc__ = f"{damage.__doc__} of the last checkpoint, {of}."
    return disturbance


def _flip(path: Path) -> None:
    """A flipped bit in a file"""
    data = bytearray(path.read_bytes())
    data[random.Random(0).randrange(len(data))] ^= 16
    path.write_bytes(bytes(data))


def _remove(path: Path) -> None:
    """A missing file"""
    path.unlink()


def damaged_shard(laboratory: Laboratory) -> Outcome:
    """A flipped bit in each shard of records; these are deleted and made anew, as advised."""
    workdir = laboratory.copy()
    shards = list(workdir.glob("records/train/*.tfrecord-*[0-9]"))
    for path in shards:
        _flip(path)
    status, said = laboratory.run(str(workdir)), laboratory.said()
    for path in shards:
        path.unlink()
        path.with_name(f"{path.name}.json").unlink()
    assert laboratory.run(str(workdir), "--mode=precompute") == 0, laboratory.said()
    again = _again(laboratory, workdir, status)
    return dataclasses.replace(again, said=said)


def failing_disk(laboratory: Laboratory) -> Outcome:
    """A disk that fails in the middle of training, and can be read alone from then on."""
    disk = FailingDisk(laboratory.folder)
    try:
        job = laboratory.start(f"{disk.place}/run")
        wait_until(lambda: laboratory.said("[20]") or job[0].poll() is not None, laboratory.said)
        disk.fail()
        status = job[0].wait()
        said = laboratory.said("could not be written")  # behind it Orbax may tell of its own end
        disk.mend()
        again = _again(laboratory, f"{disk.place}/run", status)
        return dataclasses.replace(again, said=said)
    finally:
        disk.leave()


def _changed(field: str) -> Callable[[Laboratory], Outcome]:
    def disturbance(laboratory: Laboratory) -> Outcome:
        workdir = laboratory.copy()
        status = laboratory.run(str(workdir), f"--config.{field}")
        return _again(laboratory, workdir, status)

    disturbance.__doc__ = f"Another configuration in the middle of a run, {field}."
    return disturbance


def jumping_clock(laboratory: Laboratory) -> Outcome:
    """A clock that is put an hour on and back every second."""
    folder = laboratory.folder / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(JUMPING_CLOCK)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    workdir = f"{laboratory.root}/jumping"
    status = laboratory.run(workdir, PYTHONPATH=path)
    return Outcome(status, "", status == 0 and laboratory.as_expected(workdir))


def store_that_is_down(laboratory: Laboratory, store: object) -> Outcome:
    """A store that answers 503 for four seconds while a checkpoint is written."""
    workdir = f"{laboratory.root}/patient"

    def outage() -> None:
        begun = f"patient%2Fcheckpoints%2F{STEPS // 2}"
        wait_until(lambda: any(begun in r for r in store.requests[:]), lambda: "no checkpoint")
        store.down = True
        time.sleep(4)
        store.down = False

    thread = threading.Thread(target=outage, daemon=True)
    thread.start()
    status = laboratory.run(workdir)
    went_through = not thread.is_alive()
    return Outcome(status, "", status == 0 and went_through and laboratory.as_expected(workdir))


DISTURBANCES: dict[str, Callable[[Laboratory], Outcome]] = {
    "stop": told_to_stop,
    "full disk in pre-computation": full_disk_in_precomputation,
    "full disk in training": full_disk_in_training,
    "read-only at the start": read_only_at_the_start,
    "read-only at the resumption": read_only_at_the_resumption,
    "failing disk": failing_disk,
    "configuration flipped": _damaged("config/metadata", _flip),
    "weights flipped": _damaged("weights/**/d/*", _flip),
    "structure flipped": _damaged("weights/_METADATA", _flip),
    "state flipped": _damaged("training/**/d/*", _flip),
    "index missing": _damaged("training/manifest.ocdbt", _remove),
    "weights missing": _damaged("weights/**/d/*", _remove),
    "shard flipped": damaged_shard,
    "network changed": _changed("model.features=12"),
    "records changed": _changed("data.hr_size=48"),
    "clock": jumping_clock,
}
