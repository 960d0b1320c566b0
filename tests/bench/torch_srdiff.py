"""The SRDiff UNet and its training step in PyTorch: a twin to measure ours against, no product.

Modules bear the names of the public implementation (github.com/LeiaLi/SRDiff), so that its entries
load as they are. Pictures are (B, C, H, W) and `level`, the step in 0..T-1, is (B,).
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.bench.side import LEARNING_RATE, Batch, Entries, Side
from tests.bench.torch_rrdb import TorchRRDB
from tests.golden.recipe import recipe

GOLDEN = Path(__file__).parents[1] / "golden"
SIZE = 160  # of HR pictures, height and width


class Waves(nn.Module):
    """cat(sin, cos) of the level times dim/2 frequencies, the exponents divided by dim/2 - 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.half = dim // 2

    def forward(self, level: Tensor) -> Tensor:
        exponents = torch.arange(self.half, dtype=torch.float32) / (self.half - 1)
        angles = level[:, None] * torch.exp(-math.log(1e4) * exponents)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Block(nn.Module):
    """3x3 convolution over mirrored borders, Mish."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(before, after, 3), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class ResnetBlock(nn.Module):
    def __init__(self, before: int, after: int, inner: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(inner, after))
        self.block1, self.block2 = Block(before, after), Block(after, after)
        self.res_conv = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.block1(x) + self.mlp(embedding)[:, :, None, None]
        return self.block2(h) + self.res_conv(x)


class Resample(nn.Module):
    """A convolution of stride 2, or a transposed one."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(
                [nn.ConvTranspose2d(channels, channels, 4, 2, 1)]
                if up
                else [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, stride=2)]
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class TorchUNet(nn.Module):
    """Without normalisation and attention, as the published networks."""

    def __init__(self, dim: int, multipliers: tuple[int, ...], condition: int, scale: int) -> None:
        super().__init__()
        widths = [dim * m for m in multipliers]
        pairs = list(zip([3, *widths[:-1]], widths, strict=True))
        self.cond_proj = nn.ConvTranspose2d(condition, dim, 2 * scale, scale, scale // 2)
        self.waves = Waves(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))

        def stage(before: int, after: int, change: nn.Module) -> nn.ModuleList:
            return nn.ModuleList(
                [ResnetBlock(before, after, dim), ResnetBlock(after, after, dim), change]
            )

        self.downs = nn.ModuleList(
            stage(a, b, Resample(b, up=False) if i < len(pairs) - 1 else nn.Identity())
            for i, (a, b) in enumerate(pairs)
        )
        self.ups = nn.ModuleList(
            stage(2 * b, a, Resample(a, up=True)) for a, b in reversed(pairs[1:])
        )
        self.mid_block1 = ResnetBlock(widths[-1], widths[-1], dim)
        self.mid_block2 = ResnetBlock(widths[-1], widths[-1], dim)
        self.final_conv = nn.Sequential(Block(dim, dim), nn.Conv2d(dim, 3, 1))

    def forward(self, z: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        embedding = self.mlp(self.waves(level))
        x, skips = z, []
        for i, (first, second, change) in enumerate(self.downs):
            x = second(first(x, embedding), embedding)
            if i == 0:
                x = x + condition
            skips.append(x)
            x = change(x)
        x = self.mid_block2(self.mid_block1(x, embedding), embedding)
        for first, second, change in self.ups:
            x = torch.cat([x, skips.pop()], 1)
            x = change(second(first(x, embedding), embedding))
        return self.final_conv(x)


class TorchSRDiff(nn.Module):
    """The hyper-parameters are those of `yoda_jax.models.srdiff.SRDiffUNet`, in its order."""

    def __init__(
        self,
        features: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 3, 4),
        encoder_features: int = 64,
        encoder_blocks: int = 17,
        scale: int = 4,
    ) -> None:
        super().__init__()
        maps = (encoder_blocks + 1) // 3
        self.denoise_fn = TorchUNet(features, multipliers, encoder_features * maps, scale)
        self.rrdb = TorchRRDB(encoder_features, encoder_blocks, scale)

    def features(self, lr: Tensor) -> Tensor:
        """Every third of the encoder's maps, at LR size; the encoder is not trained."""
        with torch.no_grad():
            return torch.cat(self.rrdb(lr)[2::3], 1)

    def forward(self, z: Tensor, level: Tensor, features: Tensor) -> Tensor:
        """The noise in z."""
        return self.denoise_fn(z, level, self.denoise_fn.cond_proj(features))


def train_step(
    net: TorchSRDiff,
    adam: torch.optim.Adam,
    features: Tensor,
    residual: Tensor,
    level: Tensor,
    signal: Tensor,
    noise: Tensor,
) -> Tensor:
    """One step of Adam on mean abs(noise - net(z)), z = s residual + sqrt(1 - s^2) noise.

    s is the signal (B,); returns the loss before the step.
    """
    s = signal[:, None, None, None]
    z = s * residual + (1 - s**2).sqrt() * noise
    adam.zero_grad(set_to_none=True)
    value = nn.functional.l1_loss(noise, net(z, level, features))
    value.backward()
    adam.step()
    return value.detach()


def draw(rng: np.random.Generator, hyper: tuple[Any, ...], count: int) -> Batch:
    """A batch of noise, and of LR pictures in [-1, 1]."""
    small, shape = SIZE // hyper[4], (count, SIZE, SIZE, 3)
    return {
        "lr": rng.uniform(-1, 1, (count, small, small, 3)).astype(np.float32),
        "residual": rng.standard_normal(shape, np.float32),
        "noise": rng.standard_normal(shape, np.float32),
        "level": rng.integers(0, 100, count).astype(np.float32),
        "signal": rng.uniform(0.1, 0.9, count).astype(np.float32),
    }


def side(hyper: tuple[Any, ...], entries: Entries, batch: Batch) -> Side:
    """What is done once a picture, the denoising step given that, and training.

    `condition` is the encoder and the projection of its features to HR size. `step` is a training
    step given the features (the projection is trained), `whole` one that makes them.
    """
    net = TorchSRDiff(*hyper)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in entries.items()})
    adam = torch.optim.Adam(net.denoise_fn.parameters(), LEARNING_RATE)
    pictures = (batch[name].transpose(0, 3, 1, 2).copy() for name in ("lr", "residual", "noise"))
    lr, residual, noise = map(torch.from_numpy, pictures)
    level, signal = (torch.from_numpy(batch[name]) for name in ("level", "signal"))
    rest = residual, level, signal, noise

    def condition() -> Tensor:
        with torch.inference_mode():
            return net.denoise_fn.cond_proj(net.features(lr))

    def forward() -> Tensor:
        with torch.inference_mode():
            return net.denoise_fn(noise, level, made)

    made, features = condition(), net.features(lr)
    return {
        "condition": lambda: condition().numpy().transpose(0, 2, 3, 1),
        "forward": lambda: forward().numpy().transpose(0, 2, 3, 1),
        "step": lambda: float(train_step(net, adam, features, *rest)),
        "whole": lambda: float(train_step(net, adam, net.features(lr), *rest)),
    }


def golden_error() -> float:
    """Largest error of condition, output, loss and gradients against the reference's own run.

    Raises AssertionError where it exceeds 2e-5: then the twin is not the reference.
    """
    with np.load(GOLDEN / "srdiff_tiny.npz") as arrays:
        golden = {k: torch.from_numpy(a) for k, a in arrays.items() if a.dtype.kind in "fi"}
    shapes = json.loads((GOLDEN / "srdiff_keys.json").read_text())["tiny"]["entries"]
    entries = recipe([(name, tuple(shape)) for name, shape in shapes.items()], 2345, gain=1.0)
    net = TorchSRDiff(16, (1, 2, 2), 16, 2, 4)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in entries.items()})
    level, features = golden["t"].float(), net.features(golden["img_lr"])
    with torch.no_grad():
        pairs = [
            (net.denoise_fn.cond_proj(features)[:1], golden["cond_proj_out"]),
            (net(golden["x_t"], level, features), golden["eps"]),
        ]
    angle = ((level.double() + 1) / 100 + 0.008) / 1.008 * math.pi / 2
    signal = (angle.cos() / math.cos(0.008 / 1.008 * math.pi / 2)).float()
    adam = torch.optim.Adam(net.denoise_fn.parameters())
    batch = features, golden["res_of_hr"], level, signal, golden["loss/noise"]
    pairs.append((train_step(net, adam, *batch), golden["loss/l1"]))
    for name, parameter in net.denoise_fn.named_parameters(prefix="denoise_fn"):
        pairs.append((parameter.grad.norm(), golden[f"gradnorm/{name}"]))
        if f"grad/{name}" in golden:
            pairs.append((parameter.grad, golden[f"grad/{name}"]))
    error = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    assert error < 2e-5, f"the twin is {error:.1e} away from the reference"
    return error
