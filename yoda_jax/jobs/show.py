"""show: what a configuration means, before it is run: parameters, FLOPs and memory of a step."""

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from yoda_jax.configuration import build, fields, inference
from yoda_jax.diffusion.schedule import gammas
from yoda_jax.training import sharding

_GIB = 2**30


def run(config: ConfigDict, workdir: str) -> None:
    """Prints configuration, parameter table, batch, schedule, FLOPs and memory, and stops.

    The step is compiled for the devices at hand, with the batch and sharding of the configuration,
    but nothing is computed and no picture is read.
    """
    del workdir
    fields.check_batches(config)
    mesh, method = sharding.make_mesh(), inference.method(config)
    train, chain = config.train, config.diffusion
    print(config)
    _, abstract = build.state(config, method, mesh)
    print(parameter_overview.get_parameter_overview(abstract.params, include_stats=False))
    batch, compiled = build.compiled_step(config, method, mesh, abstract)
    memory, last = compiled.memory_analysis(), gammas(inference.betas(config))[-1]
    # XLA counts the body of a loop, here one part of the batch, once.
    flops = compiled.cost_analysis()["flops"] * mesh.size * train.accumulate
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))
    print(
        f"batch           {', '.join(f'{k} {v.shape} {v.dtype}' for k, v in batch.items())}\n"
        f"devices         {mesh.size} {jax.default_backend()}, state {train.sharding}\n"
        f"parameters      {count:,}\n"
        f"schedule        {chain.schedule}, T={chain.steps}, gamma_T={last:.2e}, "
        f"{chain.sampling_steps} sampling steps\n"
        f"FLOPs a step    {flops / 1e9:,.1f} GFLOP on all devices\n"
        f"memory a device {memory.argument_size_in_bytes / _GIB:.2f} GiB state and batch, "
        f"{memory.temp_size_in_bytes / _GIB:.2f} GiB activations and buffers"
    )
