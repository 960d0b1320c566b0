"""A small job to disturb: pre-computation, training of 60 steps, evaluation."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import ROOT, TINY, command, free_port

from yoda_jax.configuration import restore
from yoda_jax.runs import Run

STEPS = 60
JOB = ["--config=configs/demo.py", *TINY, "--mode=train", "--config.data.pictures_per_shard=1"]
JOB += [f"--config.train.steps={STEPS}", "--config.train.checkpoint_every=5"]


class Laboratory:
    """Runs the job in folders of its own, and tells whether one ended as the undisturbed one."""

    def __init__(
        self, folder: Path, root: str = "", processes: int = 1, **environment: str
    ) -> None:
        """root: a bucket, in place of the folder; environment: what it needs besides."""
        self.folder, self.root, self.processes = folder, root or str(folder), processes
        self.log = folder / "log"
        self.environment = os.environ | environment
        self.environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
        self.environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        self.undisturbed = f"{self.root}/undisturbed"
        self.expected: list[bytes] = []

    def disturb_nothing(self) -> None:
        """The run that all others have to end as."""
        assert self.run(self.undisturbed) == 0, self.said()
        self.expected = self.weights(self.undisturbed)

    def start(self, workdir: str, *arguments: str, **environment: str) -> list[subprocess.Popen]:
        """The processes of a job, whose output goes to a log each."""
        address = f"127.0.0.1:{free_port()},{self.processes}"
        settings = {"JAX_NUM_CPU_DEVICES": str(2 // self.processes)} | environment
        started = []
        for index in range(self.processes):
            several = [f"--distributed={address},{index}"] if self.processes > 1 else []
            with self.log.with_suffix(f".{index}").open("w") as file:
                started.append(
                    subprocess.Popen(
                        command(*JOB, f"--workdir={workdir}", *several, *arguments),
                        cwd=ROOT,
                        env=self.environment | settings,
                        stdout=file,
                        stderr=file,
                    )
                )
        return started

    def run(self, workdir: str, *arguments: str, **environment: str) -> int:
        """The greatest exit status of a job's processes."""
        processes = self.start(workdir, *arguments, **environment)
        return max(process.wait() for process in processes)

    def said(self, about: str = "") -> str:
        """The last line of the first process's log, or the last that has this in it."""
        lines = self.log.with_suffix(".0").read_text().splitlines()
        found = [line for line in lines if about in line] or [""]
        return re.sub(r"^(yoda_jax: |[0-9:]{8} [A-Z]+ )", "", found[-1])

    def weights(self, workdir: str) -> list[bytes]:
        """The averaged parameters of a run's newest checkpoint."""
        found = restore.weights(restore.configuration(Run(workdir)), Run(workdir))
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found.params)]

    def as_expected(self, workdir: str) -> bool:
        """Whether a run has the weights of the undisturbed one, bit for bit."""
        return self.weights(workdir) == self.expected

    def copy(self, whole: bool = False) -> Path:
        """The undisturbed run as it was before its last checkpoint, or whole."""
        made = Path(tempfile.mkdtemp(dir=self.folder)) / "run"
        shutil.copytree(self.undisturbed, made)
        if not whole:
            shutil.rmtree(made / f"checkpoints/{STEPS}")
            shutil.rmtree(made / "eval")
        return made


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system in memory of a size; skips where mounting is not allowed."""
    place = Path(tempfile.mkdtemp(dir=folder))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def remount(place: Path, options: str) -> None:
    """Changes a mounted disk: its size, or whether it can be written to."""
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


class FailingDisk:
    """A file of 100 MB as a disk of its own, which fails as disks do: the kernel closes it.

    Skips where that is not allowed.
    """

    def __init__(self, folder: Path) -> None:
        self._image, self.place = folder / "image", folder / "failing"
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(100_000_000)
        made = shutil.which("mkfs.ext4") and self._do("mkfs.ext4", "-q", self._image)
        if not made or not self._mount():
            pytest.skip("mounting a file as a disk is not allowed")

    def fail(self) -> None:
        """From now on nothing can be written, also to files that are open."""
        listed = Path("/proc/self/mounts").read_text().splitlines()
        device = next(line.split()[0] for line in listed if str(self.place) in line)
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")

    def mend(self) -> None:
        """As an administrator does after the job has ended."""
        self.leave()
        self._do("e2fsck", "-fy", self._image)
        assert self._mount()

    def leave(self) -> None:
        """Unmounts it."""
        self._do("umount", self.place)

    def _mount(self) -> bool:
        return self._do("mount", "-o", "loop,errors=remount-ro", self._image, self.place)

    def _do(self, *command: str | Path) -> bool:
        return not subprocess.run(command, capture_output=True).returncode
