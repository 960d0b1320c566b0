"""From a configuration to what trains and evaluates; see `inference` for what samples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.stages import Compiled
from ml_collections import ConfigDict

from yoda_jax.configuration import inference
from yoda_jax.data.batches import Batches
from yoda_jax.data.examples import Preparation
from yoda_jax.data.held_out import HeldOut
from yoda_jax.data.records import Records
from yoda_jax.evaluation.comparison import Comparison
from yoda_jax.evaluation.measure import Measure
from yoda_jax.method import Method
from yoda_jax.runs import Run
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.progress import Plan
from yoda_jax.training.state import TrainState, create, learning_rate, make_optimizer
from yoda_jax.training.step import make_train_step


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    c = config.train
    decay_steps = c.steps if c.decay == "cosine" else 0
    schedule = learning_rate(c.learning_rate, c.warmup_steps, c.halve_every, decay_steps)
    parts = tuple(inference.network(config).parts)
    return make_optimizer(schedule, c.weight_decay, c.clip_norm, parts)


def plan(config: ConfigDict) -> Plan:
    c = config.train
    return Plan(
        steps=c.steps,
        log_every=c.log_every,
        checkpoint_every=c.checkpoint_every,
        eval_every=c.eval_every,
        profile_at=c.profile_at,
        warn_from=c.warmup_steps,
        offset_warning=c.offset_warning,
    )


def records(config: ConfigDict, run: Run, split: str) -> Records:
    """The records of a split ("train" or "eval"); raises UserError unless they are complete."""
    return Records(run.records(split, config.data.records))


def batches(config: ConfigDict, examples: Records, index: int, count: int) -> Batches:
    """The batches of training, of process `index` of `count`."""
    return Batches(
        examples,
        batch_size=config.train.batch_size,
        seed=config.seed,
        reading=inference.reading(config),
        patch=config.data.patch,
        flip=config.data.flip,
        process_index=index,
        process_count=count,
        threads=config.data.threads,
    )


def held_out(config: ConfigDict, run: Run, count: int, batch_size: int) -> HeldOut:
    """At most `count` held-out examples, in batches of at least that size that devices share."""
    devices = sharding.make_mesh().size
    size = -(-batch_size // devices) * devices
    return HeldOut(records(config, run, "eval"), count, size, inference.reading(config))


def measure(config: ConfigDict) -> Measure:
    return Measure(config.eval.border, config.data.resampling, config.data.crop == "tiles")


def comparison(config: ConfigDict, run: Run) -> Comparison:
    """An empty comparison on the held-out records of a run."""
    c = config.eval
    examples = held_out(config, run, c.pictures, c.batch_size)
    return Comparison(examples, measure(config), sharding.make_mesh(), c.sheet_pictures)


def setting(config: ConfigDict) -> str:
    """How pictures are sampled, in words."""
    chain = "no diffusion"
    if inference.network(config).diffuses:
        c, m = config.diffusion, config.mask
        solver = {"ddpm": "DDPM", "ddim": f"DDIM (eta {c.eta:g})"}.get(c.sampler, c.sampler)
        spacing = "" if c.spacing == "uniform" else f"{c.spacing} "
        chain = f"{c.sampling_steps} {spacing}{solver} steps, lower bound {m.lower_bound}"
        if m.truncate:
            chain += f", the first {m.truncate:g} of the pixels start with the next"
    size = config.data.hr_size
    return f"{config.data.scale}x to {size}x{size}, {chain}"


def checkpoints(config: ConfigDict, run: Run) -> Checkpoints:
    """The checkpoints of a run, open for writing."""
    return Checkpoints(run.checkpoints, config.train.keep_checkpoints, config.train.best or None)


def state(
    config: ConfigDict, method: Method, mesh: Mesh
) -> tuple[Callable[[], TrainState], TrainState]:
    """(a function that makes the first state on the mesh, its shapes with their shardings)."""

    def init() -> TrainState:
        params = method.init(jax.random.key(config.seed), inference.lr_size(config))
        return create(params, optimizer(config), ema=config.train.ema_decay > 0)

    shapes = jax.eval_shape(init)
    where = sharding.state_shardings(mesh, shapes, config.train.sharding)
    return jax.jit(init, out_shardings=where), sharding.placed(shapes, where)


def compiled_step(
    config: ConfigDict, method: Method, mesh: Mesh, abstract: TrainState
) -> tuple[dict[str, jax.ShapeDtypeStruct], Compiled]:
    """(shapes of a batch, training step compiled for it), also for devices that are not there.

    The step gives its state away and leaves the new one where that lay.
    """
    size, rows = config.data.patch or config.data.hr_size, sharding.by_rows(mesh)
    sides = {"hr": (size, 3), "lr": (size // config.data.scale, 3), "attention": (size, 1)}
    batch = {
        name: jax.ShapeDtypeStruct(
            (config.train.batch_size, n, n, channels), jnp.uint8, sharding=rows
        )
        for name, (n, channels) in sides.items()
    }
    c, everywhere = config.train, sharding.replicated(mesh)
    where = jax.tree.map(lambda s: s.sharding, abstract)
    step = jax.jit(
        make_train_step(method.loss, optimizer(config), c.ema_decay, c.accumulate),
        in_shardings=(where, rows, everywhere),
        out_shardings=(where, everywhere),
        donate_argnums=0,
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    return batch, step.lower(abstract, batch, key).compile()


def preparation(config: ConfigDict, attention_stride: int) -> Preparation:
    """How pictures become examples, for a source of attention of a stride."""
    c = config.data
    return Preparation(
        crop=c.crop,
        hr_size=c.hr_size,
        stride=c.stride,
        scale=c.scale,
        resampling=c.resampling,
        attention_input=inference.input_size(config),
        attention_stride=attention_stride,
    )
