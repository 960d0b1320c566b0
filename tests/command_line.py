"""Running the command line as a user does, in a process of its own, on a tiny network."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The demonstration, shrunk until it takes seconds.
TINY = [
    "--config.data.hr_size=32",
    "--config.data.stride=64",
    "--config.data.patch=16",
    "--config.attention.source=edges",
    "--config.attention.input_size=64",
    "--config.attention.cell=4",
    "--config.diffusion.sampling_steps=4",
    "--config.model.features=8",
    "--config.model.multipliers=(1, 2)",
    "--config.model.groups=4",
    "--config.train.batch_size=4",
    "--config.train.steps=8",
    "--config.train.checkpoint_every=4",
    "--config.train.log_every=2",
    "--config.eval.pictures=3",
    "--config.eval.batch_size=2",
    "--config.eval.sheet_pictures=2",
]


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(
    holds: Callable[[], object], said: Callable[[], object], seconds: float = 200
) -> None:
    """Waits until a condition holds; fails with what `said` gives where it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, said()
        time.sleep(0.02)


def command(*arguments: str) -> list[str]:
    """The command line of a job on the tiny demonstration."""
    return [sys.executable, "-m", "yoda_jax.main", *arguments]


def run(*arguments: str, timeout: int = 300) -> subprocess.CompletedProcess:
    """Runs a job to its end, with its output as text."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )


def run_and_kill(arguments: list[str], when: Callable[[], object], log: Path) -> None:
    """Kills a job by SIGKILL as soon as `when` holds; fails with its log where it ends before."""
    with log.open("w") as output:
        process = subprocess.Popen(command(*arguments), cwd=ROOT, stderr=output, stdout=output)
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None and not when():
                time.sleep(0.01)
        finally:
            process.kill()
    assert process.wait() == -signal.SIGKILL, log.read_text()
