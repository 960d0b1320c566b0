"""The masked loss and the training objective."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from yoda_jax.arrays import Array, Levels, Maps, Masks, Pictures, Steps
from yoda_jax.diffusion.formulation import Formulation
from yoda_jax.diffusion.mask import LossNorm, Mask, area_mask, diffused_steps
from yoda_jax.diffusion.noising import add_noise, blend, predict_y0
from yoda_jax.diffusion.schedule import NoiseSchedule
from yoda_jax.diffusion.times import draw_level

Penalty = Literal["l1", "l2", "ssim"]

_BELL = [math.exp(-(i**2) / (2 * 1.5**2)) for i in range(-5, 6)]
_WINDOW = [w / sum(_BELL) for w in _BELL]  # SSIM's, of sigma 1.5, along each axis


def masked_loss(
    eps_hat: Pictures,
    eps: Pictures,
    mask: Masks,
    norm: LossNorm = "pixels",
    penalty: Penalty = "l1",
) -> Levels:
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
    area = eps.shape[-1] * mask.sum((-3, -2, -1)).astype(jnp.float32)
    return masked.sum((-3, -2, -1)) / jnp.maximum(area, 1.0)


def _similarity(a: Pictures, b: Pictures) -> Pictures:
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


def _blur(x: Pictures) -> Pictures:
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
    # Predicted picture minus lr_up inside the mask, on [-1, 1], weighted as the loss: colour drift.
    y0_offset: Float[Array, "C"]


def training_loss(
    predict: Callable[[Pictures, Levels], Pictures],
    key: Key[Array, ""],
    schedule: NoiseSchedule,
    formulation: Formulation,
    hr: Pictures,
    lr_up: Pictures,
    attention: Maps | None = None,
    mask: Mask | None = None,
    *,
    penalty: Penalty = "l1",
    continuous: bool = True,
) -> tuple[Float[Array, ""], Diagnostics]:
    """E_t || M(t) (eps - predict(z_t, level)) || over a batch, a pure function of its key.

    predict sees the state and the level: sqrt(g) if continuous, else the schedule's index of t.
    Without a mask, or with attention 1 everywhere, this is the base method's loss. Source: YODA,
    arXiv 2308.07977; SR3, arXiv 2104.07636, algorithm 1.
    """
    y0, base = formulation.encode(hr, lr_up), formulation.base(lr_up)
    if mask is None:
        attention, mask = jnp.ones_like(y0[..., :1]), Mask(times="uniform")
    key_level, key_eps = jax.random.split(key)
    steps = diffused_steps(attention, mask.lower_bound, schedule.num_steps)
    by_area = mask.times == "area"
    t, signal = draw_level(key_level, schedule, len(y0), continuous, steps if by_area else None)
    noise = jnp.sqrt(jnp.maximum(1.0 - signal**2, 0.0)) if continuous else schedule.noise[t]
    eps = jax.random.normal(key_eps, y0.shape, jnp.float32)
    inside = area_mask(steps, t)

    z = add_noise(y0, eps, signal, noise)
    if mask.context == "lr":
        z = blend(inside, z, add_noise(base, eps, signal, noise))
    seen = blend(inside, z, jnp.zeros_like(z)) if mask.network_input == "masked" else z
    eps_hat = predict(seen, signal if continuous else schedule.index[t])
    costs = masked_loss(eps_hat, eps, inside, mask.loss_norm, penalty)
    weights = _weigh(steps, inside, schedule.num_steps) if by_area else jnp.ones_like(signal)

    y0_hat = predict_y0(z, jax.lax.stop_gradient(eps_hat), signal, noise)
    offsets = jnp.where(inside, formulation.decode(y0_hat, lr_up) - lr_up, 0.0).sum((1, 2))
    pixels = (weights * inside.sum((1, 2, 3))).sum()
    offset = (weights[:, None] * offsets).sum(0) / jnp.where(pixels > 0, pixels, 1.0)
    return (weights * costs).mean(), Diagnostics(inside.mean(dtype=jnp.float32), offset)


def _weigh(steps: Steps, inside: Masks, num_steps: int) -> Levels:
    """E_t |M(t)| / |M(t)|, which gives times drawn by area the expectation of uniform ones.

    The loss then has less variance with norm "pixels", and more with norm "area".
    """
    area = (-3, -2, -1)
    share = inside.mean(area, jnp.float32)
    return steps.mean(area, jnp.float32) / num_steps / jnp.where(share > 0, share, 1.0)
