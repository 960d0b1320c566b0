"""show: what a configuration means, before it is run: parameters, FLOPs and memory of a step."""

import jax
import jax.numpy as jnp
from clu import parameter_overview
from ml_collections import ConfigDict

from yoda_jax.configuration import build
from yoda_jax.diffusion.schedule import gammas
from yoda_jax.training import sharding


def run(config: ConfigDict, workdir: str) -> None:
    """Prints configuration, parameter table, batch, schedule, FLOPs and memory, and stops.

    The step is compiled for the devices at hand, with the batch and sharding of the configuration,
    but nothing is computed and no picture is read.
    """
    del workdir
    mesh, method = sharding.make_mesh(), build.method(config)
    sharding.check_batch(mesh, "train.batch_size", config.train.batch_size, config.train.accumulate)
    print(config)
    _, abstract = build.state(config, method, mesh)
    print(parameter_overview.get_parameter_overview(abstract.params, include_stats=False))
    size, scale = config.data.patch or config.data.hr_size, config.data.scale
    shapes = {
        "hr": (size, size, 3),
        "lr": (size // scale, size // scale, 3),
        "attention": (size, size, 1),
    }
    batch = {
        name: jax.ShapeDtypeStruct(
            (config.train.batch_size, *shape), jnp.uint8, sharding=sharding.by_rows(mesh)
        )
        for name, shape in shapes.items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = build.train_step(config, method, mesh, abstract)
    compiled = step.lower(abstract, batch, key).compile()
    memory = compiled.memory_analysis()
    gib = 2**30
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))
    print(f"batch           {', '.join(f'{k} {v.shape} {v.dtype}' for k, v in batch.items())}")
    print(f"devices         {mesh.size} {jax.default_backend()}, state {config.train.sharding}")
    print(f"parameters      {count:,}")
    print(
        f"schedule        {config.diffusion.schedule}, T={config.diffusion.steps}, gamma_T="
        f"{gammas(build.betas(config))[-1]:.2e}, {config.diffusion.sampling_steps} sampling steps"
    )
    # XLA counts the body of a loop, here one part of the batch, once.
    flops = compiled.cost_analysis()["flops"] * mesh.size * config.train.accumulate
    print(f"FLOPs a step    {flops / 1e9:,.1f} GFLOP on all devices")
    print(
        f"memory a device {memory.argument_size_in_bytes / gib:.2f} GiB state and batch, "
        f"{memory.temp_size_in_bytes / gib:.2f} GiB activations and buffers"
    )
