"""One training step: a pure function of state, batch and key."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Key

from yoda_jax.arrays import Array
from yoda_jax.diffusion.loss import Diagnostics
from yoda_jax.training.state import Params, TrainState, update_ema

Batch = Mapping[str, Array]
Loss = Callable[[Params, Key[Array, ""], Batch], tuple[Float[Array, ""], Diagnostics]]
Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, Batch, Key[Array, ""]], tuple[TrainState, Metrics]]


def make_train_step(
    loss: Loss, optimizer: optax.GradientTransformation, ema_decay: float, accumulate: int = 1
) -> TrainStep:
    """The step of a loss: gradients (summed over `accumulate` parts of the batch), update, average.

    The key of a step is fold_in(key, state.step), so a run is a function of its seed. Metrics are
    `loss`, `grad_norm`, `mask_fraction` and `y0_offset` (one value a channel).
    """
    gradient = jax.value_and_grad(loss, has_aux=True)

    def accumulated(params: Params, key: Key[Array, ""], batch: Batch):
        if accumulate == 1:
            return gradient(params, key, batch)

        # Part i takes every accumulate-th row, so each device keeps its own rows.
        def split(x: Array) -> Array:
            return x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)

        def part(total, inputs):
            index, rows = inputs
            result = gradient(params, jax.random.fold_in(key, index), rows)
            return jax.tree.map(jnp.add, total, result), None

        shapes = jax.eval_shape(gradient, params, key, jax.tree.map(lambda x: split(x)[0], batch))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(part, zeros, (jnp.arange(accumulate), jax.tree.map(split, batch)))
        return jax.tree.map(lambda x: x / accumulate, total)

    def train_step(
        state: TrainState, batch: Batch, key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        (loss_value, diagnostics), grads = accumulated(state.params, step_key, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(
            step=state.step + 1,
            params=params,
            ema=update_ema(state.ema, params, state.step, ema_decay),
            opt_state=opt_state,
        )
        metrics = {"loss": loss_value, "grad_norm": optax.tree.norm(grads), **diagnostics._asdict()}
        return state, metrics

    return train_step
