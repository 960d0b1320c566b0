"""Devices as a mesh, and where state and batches lie on it; shardings come from shapes alone."""

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from yoda_jax.errors import UserError

# Smaller tensors are copied to every device: gathering them would cost more than it saves.
_FSDP_MIN_SIZE = 2**18
_MAX_CPU_DEVICES = 8

Strategy = Literal["replicate", "fsdp"]


def use_all_cpu_cores(batch_sizes: Sequence[int]) -> None:
    """Makes JAX see the CPU as several devices: as many as cores and every batch size allow.

    XLA uses one device's cores poorly for convolutions: data-parallel over virtual devices a step
    takes about half the time. At most 8, since each may hold a copy of the state. Must run before
    JAX is first used; a number that the user chose by JAX_NUM_CPU_DEVICES stays.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    common, most = math.gcd(*batch_sizes), min(allowed_cores(), _MAX_CPU_DEVICES)
    count = max(n for n in range(1, most + 1) if common % n == 0)
    jax.config.update("jax_num_cpu_devices", count)


def allowed_cores(cgroup: str = "/sys/fs/cgroup") -> int:
    """The CPU cores that this process may use: of its affinity and of its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError):  # no such file; "max": no quota
            text = " ".join(Path(cgroup, file).read_text() for file in files)
            quota, period = map(int, text.split())
            if quota > 0:  # -1: no quota
                cores = min(cores, max(quota // period, 1))
    return cores


def start_devices() -> None:
    """Starts JAX on this machine's devices, in float32 whatever JAX_ENABLE_X64 says.

    Raises UserError where JAX_PLATFORMS names a platform that is not there.
    """
    if jax.config.jax_enable_x64:
        logging.warning("JAX_ENABLE_X64 is set; all is computed in float32 all the same")
        jax.config.update("jax_enable_x64", False)
    platforms = jax.config.jax_platforms
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # depends on what is installed
        if not platforms:
            raise
        reason = str(error).partition("\n")[0] or "no such device"
        raise UserError(
            f"JAX_PLATFORMS={platforms} must name devices of this machine that the installed jax "
            f"knows, found none ({reason}); unset it, or install jax for them."
        ) from error


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices given, else all of all processes, along one axis, `data`."""
    devices = jax.devices() if devices is None else devices
    shape, types = (len(devices),), (AxisType.Auto,)
    return jax.make_mesh(shape, ("data",), axis_types=types, devices=devices)


def check_batch(mesh: Mesh, field: str, batch_size: int, accumulate: int = 1) -> None:
    """Raises UserError where the batch of a field cannot be shared out evenly."""
    if batch_size % (mesh.size * accumulate):
        parts = f" times train.accumulate={accumulate}" if accumulate > 1 else ""
        raise UserError(
            f"--config.{field}={batch_size} must be divisible by {mesh.size * accumulate}, the "
            f"{mesh.size} devices{parts}; choose a multiple."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The first axis shared out over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def state_shardings(mesh: Mesh, shapes: Any, strategy: Strategy) -> Any:
    """A sharding for each array of a state, given its shapes.

    "replicate" copies everything to every device; "fsdp" cuts every large array along its largest
    axis that the devices divide (parameters, moments and average alike).
    """
    megabytes = {"cut": 0.0, "copied": 0.0}

    def sharding(shape: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [i for i, n in enumerate(shape.shape) if n % mesh.size == 0]
        cut = strategy == "fsdp" and shape.size >= _FSDP_MIN_SIZE and bool(axes)
        megabytes["cut" if cut else "copied"] += shape.size * shape.dtype.itemsize / 2**20
        if not cut:
            return replicated(mesh)
        largest = max(axes, key=lambda i: shape.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "data"))

    shardings = jax.tree.map(sharding, shapes)
    if strategy == "fsdp":
        told = "fsdp: %.1f MiB of the state cut over %d devices, %.1f MiB copied to each"
        logging.log_first_n(logging.INFO, told, 1, megabytes["cut"], mesh.size, megabytes["copied"])
    return shardings


def placed(shapes: Any, shardings: Any) -> Any:
    """Shapes with where they are to lie, as restoring and compiling want them."""
    return jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings
    )


def share_out(mesh: Mesh, rows: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The global batch from this process's rows of it."""
    sharding = by_rows(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in rows.items()}
