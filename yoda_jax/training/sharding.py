"""Devices as a mesh, and where state and batches lie on it; shardings come from shapes alone."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from yoda_jax.errors import UserError

# Smaller tensors are copied to every device: gathering them would cost more than it saves.
_FSDP_MIN_SIZE = 2**18


def use_all_cpu_cores(batch_size: int) -> None:
    """Makes JAX see the CPU as several devices: the most that cores and batch size allow.

    XLA uses one device's cores poorly for convolutions; data-parallel over virtual devices the
    same step takes about half the time. Must run before JAX is first used; no effect on other
    platforms, nor where the user has chosen a number by JAX_NUM_CPU_DEVICES.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = max(n for n in range(1, (cores or 1) + 1) if batch_size % n == 0)
    jax.config.update("jax_num_cpu_devices", count)


def join_processes(distributed: str) -> None:
    """Joins the processes of a run; must come before JAX is first used.

    "none" runs alone, "auto" takes what a TPU pod or a cluster's scheduler tells, and
    "HOST:PORT,COUNT,INDEX" names the first process's address, the number of processes and this
    one's index. Raises UserError for anything else.
    """
    if distributed == "none":
        return
    if distributed == "auto":
        jax.distributed.initialize()
        return
    match distributed.split(","):
        case [address, count, index] if ":" in address and count.isdigit() and index.isdigit():
            jax.distributed.initialize(address, int(count), int(index))
        case _:
            raise UserError(
                f"--distributed must be none, auto or HOST:PORT,COUNT,INDEX, found {distributed!r}."
            )


def make_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


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


def state_shardings(mesh: Mesh, shapes: Any, strategy: str) -> Any:
    """A sharding for each array of a state, given its shapes.

    "replicate" copies everything to every device; "fsdp" cuts every large array along its largest
    axis that the devices divide (parameters, moments and average alike).
    """

    def sharding(shape: jax.ShapeDtypeStruct) -> NamedSharding:
        size = int(np.prod(shape.shape))
        axes = [i for i, n in enumerate(shape.shape) if n % mesh.size == 0]
        if strategy == "replicate" or size < _FSDP_MIN_SIZE or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda i: shape.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "data"))

    return jax.tree.map(sharding, shapes)


def place(mesh: Mesh, rows: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The global batch from this process's rows of it."""
    sharding = by_rows(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in rows.items()}
