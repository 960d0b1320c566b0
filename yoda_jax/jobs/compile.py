"""compile: will it fit, and what bounds it: the steps compiled for TPUs that are not there."""

import jax
import jax.numpy as jnp
from absl import logging
from jax.experimental import topologies
from jax.sharding import Mesh
from jax.stages import Compiled
from ml_collections import ConfigDict

from yoda_jax import compiled
from yoda_jax.configuration import build, fields, inference
from yoda_jax.errors import UserError
from yoda_jax.training import machine, sharding
from yoda_jax.training.machine import CHIPS, GIB, Chip


def run(config: ConfigDict, workdir: str, topology: str, max_batch: bool) -> None:
    """Prints memory, FLOPs, traffic and collectives of the training step and of a sampling step.

    `topology` is a slice as "v5e:4x4". With `max_batch` the largest batch that fits is looked for,
    to an eighth. Nothing is computed and no picture is read. Raises UserError where the slice is
    unknown, libtpu is missing, or the devices cannot share the batch out.
    """
    del workdir
    jax.config.update("jax_enable_compilation_cache", False)  # it needs the devices to read it
    devices, train = _devices(topology), config.train
    mesh, kind = sharding.make_mesh(devices), devices[0].device_kind
    chip = CHIPS.get(kind)
    if max_batch and chip is None:
        known = ", ".join(CHIPS)
        raise UserError(f"--max_batch knows the memory of {known}, found {kind}; leave it out.")
    step = _training_step(config, mesh)
    print(f"\n{topology}: {mesh.size} of {kind}; figures a device")
    share = f"{train.batch_size // mesh.size} a device"
    text = f"training step, batch {train.batch_size} ({share}), {config.model.dtype}"
    print(_report(text, step, chip, train.accumulate))
    if inference.network(config).diffuses:
        size = mesh.size * -(-config.eval.batch_size // mesh.size)
        print(_report(f"sampling step, batch {size}", _sampling_step(config, mesh, size), chip))
    if max_batch:
        print(f"largest batch that fits: {_largest(config, mesh, chip)}")


def _devices(topology: str) -> list:
    if topology.startswith(("v2", "v3", "v4")):
        raise UserError(
            f"--topology must be a slice whose chips are one device each, found {topology}, which "
            "JAX describes by cores; name one of v5e, v5p or v6e."
        )
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # of jaxlib, of several kinds
        raise UserError(
            f"--topology must be a slice as v5e:4x4, and libtpu installed ([tpu]); found "
            f"{topology!r} ({' '.join(str(error).split())[:200]})."
        ) from error


def _training_step(config: ConfigDict, mesh: Mesh) -> Compiled:
    logging.info("compiling the training step of batch %d", config.train.batch_size)
    fields.check_batches(config, mesh)
    method = inference.method(config)
    _, abstract = build.state(config, method, mesh)
    return build.compiled_step(config, method, mesh, abstract)[1]


def _sampling_step(config: ConfigDict, mesh: Mesh, size: int) -> Compiled:
    """The network's estimate of the noise from what is computed once a picture."""
    logging.info("compiling the sampling step of batch %d", size)
    method, rows = inference.method(config), sharding.by_rows(mesh)
    _, state = build.state(config, method, mesh)
    lr = jax.ShapeDtypeStruct((size, *(inference.lr_size(config),) * 2, 3), jnp.uint8)
    z = jax.ShapeDtypeStruct((size, *(config.data.hr_size,) * 2, 3), jnp.float32)
    level = jax.ShapeDtypeStruct((size,), jnp.float32)
    inputs = z, level, jax.eval_shape(method.condition, state.eval_params, lr)
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), inputs)
    step = jax.jit(lambda params, *given: method.network.apply({"params": params}, *given))
    return step.lower(state.eval_params, *placed).compile()


def _report(title: str, step: Compiled, chip: Chip | None, parts: int = 1) -> str:
    """Of a step that goes `parts` times through a loop, as `machine.flops`."""
    memory = step.memory_analysis()
    held, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    text = step.as_text()
    flops, traffic = machine.flops(step, parts), compiled.traffic(text) * parts
    room, least = "", ""
    if chip is not None:
        room = f" of {chip.memory} GiB"
        seconds = flops / chip.flops, traffic / chip.bandwidth
        bound = "memory" if seconds[1] > seconds[0] else "arithmetic"
        least = (
            f"\n  at least        {1e3 * seconds[0]:.2f} ms at the chip's peak, "
            f"{1e3 * seconds[1]:.2f} ms at its memory's speed: {bound} bounds it"
        )
    found = compiled.collectives(text)
    listed = ", ".join(f"{n} {kind} of {size / 1e6:.1f} MB" for kind, (n, size) in found.items())
    return (
        f"\n{title}\n"
        f"  memory          {held / GIB:.2f} GiB state and inputs, {temporary / GIB:.2f} GiB "
        f"temporaries{room}\n"
        f"  FLOPs           {flops / 1e12:.3f} TFLOP\n"
        f"  traffic         {traffic / 1e9:.2f} GB to and from the device's memory\n"
        f"  collectives     {listed or 'none'}{least}"
    )


def _largest(config: ConfigDict, mesh: Mesh, chip: Chip) -> int:
    """The largest batch whose step fits into a device's memory, 0 where none does."""

    def fits(parts: int) -> bool:
        tried = config.copy_and_resolve_references()
        tried.train.batch_size = parts * unit
        try:
            memory = _training_step(tried, mesh).memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return False
        needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        return needed < chip.memory * GIB

    unit, least, most = mesh.size * config.train.accumulate, 0, 1
    while fits(most):
        least, most = most, 2 * most
    while most - least > max(1, least // 8):
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least * unit
