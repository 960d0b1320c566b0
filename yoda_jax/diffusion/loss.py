"""The masked loss and the training objective."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from yoda_jax.diffusion.mask import area_mask, diffused_steps
from yoda_jax.diffusion.noising import add_noise, blend, predict_y0
from yoda_jax.diffusion.schedule import NoiseSchedule
from yoda_jax.diffusion.times import Times, draw_level

LossNorm = Literal["pixels", "area"]
Penalty = Literal["l1", "l2", "ssim"]

_BELL = [math.exp(-(i**2) / (2 * 1.5**2)) for i in range(-5, 6)]
_WINDOW = [w / sum(_BELL) for w in _BELL]  # SSIM's, of sigma 1.5, along each axis


def masked_loss(
    eps_hat: Float[Array, "*B H W C"],
    eps: Float[Array, "*B H W C"],
    mask: Bool[Array, "*B H W 1"],
    norm: LossNorm = "pixels",
    penalty: Penalty = "l1",
) -> Float[Array, "*B"]:
    """|| M (eps - eps_hat) || of each picture, as L1 or squared L2.

    norm "pixels" divides by all pixels, "area" by those of the mask (a picture whose mask is empty
    counts 0). penalty "ssim" is SRDiff's L1 + 1 - SSIM(eps, eps_hat), whose windows see no
    difference outside the mask. Source: YODA, arXiv 2308.07977, training loss, which leaves the
    divisor open; github.com/LeiaLi/SRDiff, models/diffusion.py.
    """
    eps = eps.astype(jnp.float32)
    # Here already, or what is not finite outside the mask would spoil the gradient.
    eps_hat = jnp.where(mask, eps_hat.astype(jnp.float32), eps)
    difference = eps_hat - eps
    cost = difference**2 if penalty == "l2" else jnp.abs(difference)
    if penalty == "ssim":
        cost = cost + 1.0 - _similarity(eps_hat, eps)
    masked = jnp.where(mask, cost, 0.0)
    if norm == "pixels":
        return masked.mean((-3, -2, -1))
    channels = eps.shape[-1]
    area = channels * mask.sum((-3, -2, -1)).astype(jnp.float32)
    return masked.sum((-3, -2, -1)) / jnp.maximum(area, 1.0)


def _similarity(
    a: Float[Array, "*B H W C"], b: Float[Array, "*B H W C"]
) -> Float[Array, "*B H W C"]:
    """SSIM of the window around each pixel, of values in [-1, 1] moved to [0, 1].

    (2 mu_a mu_b + C1)(2 cov_ab + C2) / ((mu_a^2 + mu_b^2 + C1)(var_a + var_b + C2)), C1 = 1e-4,
    C2 = 9e-4, zeros around the picture. Source: Wang et al. 2004, as SRDiff has it.
    """
    c1, c2 = 1e-4, 9e-4
    a, b = a * 0.5 + 0.5, b * 0.5 + 0.5
    mean_a, mean_b, squares, product = _blur(jnp.stack([a, b, a**2 + b**2, a * b]))
    means = mean_a**2 + mean_b**2
    covariance = product - mean_a * mean_b
    return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (means + c1) * (squares - means + c2)
    )


def _blur(x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
    """x under the window, axis by axis as shifted sums: exact in float32 on every accelerator."""
    for axis in (-3, -2):
        edges = [(0, 0)] * x.ndim
        edges[axis] = (len(_WINDOW) // 2,) * 2
        size, padded = x.shape[axis], jnp.pad(x, edges)
        x = sum(
            weight * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i, weight in enumerate(_WINDOW)
        )
    return x


class Diagnostics(NamedTuple):
    """What a training step tells besides its loss; means over the batch."""

    mask_fraction: Float[Array, ""]  # share of pixels within the mask at the times drawn
    # Predicted y0 minus base (lr_up) inside the mask, weighted as the loss is: colour drift.
    y0_offset: Float[Array, "C"]


def training_loss(
    predict: Callable[[Float[Array, "B H W C"], Float[Array, "B"]], Float[Array, "B H W C"]],
    key: Key[Array, ""],
    schedule: NoiseSchedule,
    y0: Float[Array, "B H W C"],
    base: Float[Array, "B H W C"],
    attention: Float[Array, "B H W 1"],
    *,
    lower_bound: float = 0.05,
    norm: LossNorm = "pixels",
    penalty: Penalty = "l1",
    times: Times = "uniform",
    context: Literal["hr", "lr"] = "hr",
    network_input: Literal["full", "masked"] = "full",
    continuous: bool = True,
) -> tuple[Float[Array, ""], Diagnostics]:
    """E_t || M(t) (eps - predict(z_t, level)) || over a batch, a pure function of its key.

    predict sees the state and the level: sqrt(g) if continuous, else the schedule's index of t.
    times "area" draws t of a picture in proportion to |M(t)| and divides its loss by the density:
    the same expectation, of less variance with norm "pixels" and of more with norm "area".
    context says what stands outside M(t) in the state: the noised target ("hr") or the noised base
    ("lr", what sampling shows); network_input "masked" puts zeros there. With attention 1
    everywhere this is the base method's loss. Source: YODA, arXiv 2308.07977; SR3, algorithm 1.
    """
    key_level, key_eps = jax.random.split(key)
    steps = None
    if times == "area":
        steps = diffused_steps(attention, lower_bound, schedule.num_steps)
    t, signal = draw_level(key_level, schedule, y0.shape[0], continuous, steps)
    noise = jnp.sqrt(jnp.maximum(1.0 - signal**2, 0.0)) if continuous else schedule.noise[t]
    eps = jax.random.normal(key_eps, y0.shape)
    mask = area_mask(attention, t / schedule.num_steps, lower_bound)
    z = add_noise(y0, eps, signal, noise)
    if context == "lr":
        z = blend(mask, z, add_noise(base, eps, signal, noise))
    seen = blend(mask, z, jnp.zeros_like(z)) if network_input == "masked" else z
    eps_hat = predict(seen, signal if continuous else schedule.index[t])
    costs = masked_loss(eps_hat, eps, mask, norm, penalty)
    weights = jnp.ones_like(costs)
    if steps is not None:
        share = mask.mean((-3, -2, -1))
        average = steps.mean((-3, -2, -1)) / schedule.num_steps
        weights = average / jnp.where(share > 0, share, 1.0)
    loss = (weights * costs).mean()

    y0_hat = predict_y0(z, jax.lax.stop_gradient(eps_hat), signal, noise)
    offsets = jnp.where(mask, y0_hat - base, 0.0).sum((1, 2))
    pixels = (weights * mask.sum((1, 2, 3))).sum()
    offset = (weights[:, None] * offsets).sum(0) / jnp.where(pixels > 0, pixels, 1.0)
    return loss, Diagnostics(mask_fraction=mask.mean(), y0_offset=offset)
