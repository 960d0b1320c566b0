"""What a run computes on: the peaks of known chips, the memory in use, versions and devices."""

import subprocess
from pathlib import Path
from typing import NamedTuple

import jax
import jaxlib
from jax.stages import Compiled

GIB = 2**30


class Chip(NamedTuple):
    """Of one device: the peak of bfloat16 products a second, bytes a second, GiB of memory."""

    flops: float
    bandwidth: float
    memory: float


# By the kind that JAX names; from Google's pages on each TPU version and NVIDIA's data sheets.
CHIPS = {
    "TPU v4": Chip(275e12, 1228e9, 32),
    "TPU v5 lite": Chip(197e12, 819e9, 16),
    "TPU v5": Chip(459e12, 2765e9, 95),
    "TPU v6 lite": Chip(918e12, 1640e9, 32),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 2039e9, 80),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3350e9, 80),
}


def flops(step: Compiled, parts: int = 1) -> float:
    """FLOPs a device of a step that goes `parts` times through a loop, whose body XLA counts once.

    0 where the compiler does not tell.
    """
    return (step.cost_analysis() or {}).get("flops", 0.0) * parts


def memory_gib() -> float | None:
    """The most memory that one of this process's devices has held so far; None where none tells."""
    told = [device.memory_stats() or {} for device in jax.local_devices()]
    found = [stats["peak_bytes_in_use"] for stats in told if "peak_bytes_in_use" in stats]
    return max(found) / GIB if found else None


def description() -> dict[str, str | int | None]:
    """Versions, commit and devices, as a run's configuration is kept with them."""
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "commit": commit(Path(__file__).parents[1]),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def commit(folder: Path) -> str | None:
    """The commit that last changed a folder, "... with changes" where its files differ from it.

    None where the folder is no part of a git repository, or git is not there.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments, "--", "."]
        options = {"capture_output": True, "text": True, "errors": "replace", "timeout": 10}
        return subprocess.run(command, check=True, **options).stdout.strip()

    try:
        found = git("log", "-1", "--format=%H")
        changed = found and git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return (f"{found} with changes" if changed else found) or None
