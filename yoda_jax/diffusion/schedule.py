"""Noise schedules: betas in float64 on the host, tables in float32 on the device.

Steps count from 1 to T; index 0 is the clean picture (gamma_0 = 1). What the literature calls
alpha-bar is `gamma` here, as in the SR3 paper.
"""

import dataclasses
import itertools
import math
from bisect import bisect
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from yoda_jax.arrays import Array

Betas = tuple[float, ...]
Spacing = Literal["uniform", "quadratic"]


def _linspace(start: float, end: float, num: int) -> list[float]:
    return [start + (end - start) * i / max(num - 1, 1) for i in range(num)]


def linear(num_steps: int, start: float, end: float) -> Betas:
    """Betas that grow linearly from start to end (SR3 faces: 2000 steps, 1e-6 to 1e-2)."""
    return tuple(_linspace(start, end, num_steps))


def quadratic(num_steps: int, start: float, end: float) -> Betas:
    """Betas whose square roots grow linearly (SR3 reference, `quad`)."""
    return tuple(b * b for b in _linspace(math.sqrt(start), math.sqrt(end), num_steps))


def warmup(num_steps: int, start: float, end: float, fraction: float) -> Betas:
    """Betas linear over the first fraction of the steps, then constant (SR3 reference)."""
    rising = _linspace(start, end, int(num_steps * fraction))
    return tuple(rising + [end] * (num_steps - len(rising)))


def constant(num_steps: int, start: float, end: float) -> Betas:
    """Betas that all equal end; start is unused (SR3 reference, `const`)."""
    del start
    return (end,) * num_steps


def cosine(num_steps: int) -> Betas:
    """Betas of a squared-cosine gamma, at most .999 (Nichol and Dhariwal 2021)."""
    offset = 8e-3
    angle = [(i / num_steps + offset) / (1 + offset) * math.pi / 2 for i in range(num_steps + 1)]
    gamma = [math.cos(a) ** 2 for a in angle]
    return tuple(
        min(max(1 - after / before, 0.0), 0.999) for before, after in itertools.pairwise(gamma)
    )


SCHEDULES: dict[str, Callable[[int, float, float], Betas]] = {
    "linear": linear,
    "quad": quadratic,
    "warmup10": lambda num_steps, start, end: warmup(num_steps, start, end, 0.1),
    "warmup50": lambda num_steps, start, end: warmup(num_steps, start, end, 0.5),
    "const": constant,
    "cosine": lambda num_steps, start, end: cosine(num_steps),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
    """Tables over t = 0..T, each of length T1 = T + 1 and float32, made by `noise_schedule`.

    A state at t is z_t = signal[t] y0 + noise[t] eps. The posterior of t-1 given z_t and y0 has the
    mean posterior_y0[t] y0 + posterior_z[t] z_t and the deviation posterior_std[t] (DDPM, equations
    6 and 7); beta_std[t] is sqrt(beta_t). Both are 0 at t = 1: the last step adds no noise.
    """

    signal: Float[Array, " T1"]
    noise: Float[Array, " T1"]
    posterior_y0: Float[Array, " T1"]
    posterior_z: Float[Array, " T1"]
    posterior_std: Float[Array, " T1"]
    beta_std: Float[Array, " T1"]
    # h_t / (2 h_{t+1}), with h_t the step to t-1 in log(signal / noise); 0 at 1 and T
    extrapolation: Float[Array, " T1"]
    index: Float[Array, " T1"]  # t - 1 of the schedule that training used, also after re-spacing
    # of each time of training 0..N, how many of the times 1..T lie at or before it
    reached: Int[Array, " N1"]

    @property
    def num_steps(self) -> int:
        """T, the number of steps."""
        return self.signal.shape[-1] - 1


def gammas(betas: Betas) -> tuple[float, ...]:
    """Cumulative signal power (1, g_1, ..., g_T) of the betas, in float64."""
    return tuple(itertools.accumulate((1 - b for b in betas), lambda a, b: a * b, initial=1.0))


def noise_schedule(
    betas: Betas, num_steps: int | None = None, spacing: Spacing = "uniform"
) -> NoiseSchedule:
    """Tables of a schedule, re-spaced to num_steps of its steps if given.

    Re-spacing keeps the gammas at equal distances, or with spacing "quadratic" at distances that
    grow with t, the last one included, so a chain of few steps still ends in noise; the betas
    follow from the kept gammas. Everything is computed in float64 and rounded once. Raises
    ValueError where num_steps is not within 1..T.
    """
    total = len(betas)
    steps = total if num_steps is None else num_steps
    if not 1 <= steps <= total:
        raise ValueError(f"num_steps must be within 1..{total} of the schedule, found {steps}")
    power = {"uniform": 1, "quadratic": 2}[spacing]
    kept = [0]
    for i in range(1, steps + 1):
        kept.append(max(round(total * i**power / steps**power), kept[-1] + 1))
    all_gammas = gammas(betas)
    g = [all_gammas[i] for i in kept]
    beta = list(betas) if steps == total else [1 - b / a for a, b in itertools.pairwise(g)]

    posterior_y0, posterior_z, posterior_std = [1.0], [0.0], [0.0]
    for g_before, g_after, b in zip(g, g[1:], beta, strict=False):
        posterior_y0.append(b * math.sqrt(g_before) / (1 - g_after))
        posterior_z.append((1 - g_before) * math.sqrt(1 - b) / (1 - g_after))
        posterior_std.append(math.sqrt(b * (1 - g_before) / (1 - g_after)))
    log_ratio = [math.log(x / (1 - x)) / 2 for x in g[1:]]
    h = [a - b for a, b in itertools.pairwise(log_ratio)]  # of the steps from 2 to T
    extrapolation = [0.0, 0.0, *(now / (2 * before) for now, before in itertools.pairwise(h)), 0.0]
    table = partial(jnp.asarray, dtype=jnp.float32)
    return NoiseSchedule(
        signal=table([math.sqrt(x) for x in g]),
        noise=table([math.sqrt(1 - x) for x in g]),
        posterior_y0=table(posterior_y0),
        posterior_z=table(posterior_z),
        posterior_std=table(posterior_std),
        beta_std=table([0.0, 0.0, *map(math.sqrt, beta[1:])]),
        extrapolation=table(extrapolation[: steps + 1]),
        index=table([k - 1 for k in kept]),
        reached=jnp.asarray([bisect(kept, n) - 1 for n in range(total + 1)], jnp.int32),
    )
