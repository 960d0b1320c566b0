"""The SR3 UNet and its training step in PyTorch: a twin to measure ours against, never a product.

Modules bear the names of the public implementation (github.com/Janspiry/
Image-Super-Resolution-via-Iterative-Refinement), so that its entries load as they are. Pictures
are (B, C, H, W) and `level` is (B,).
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.bench.side import LEARNING_RATE, Batch, Entries, Side
from tests.golden.recipe import recipe

GOLDEN = Path(__file__).parents[1] / "golden" / "sr3_tiny.npz"


class Waves(nn.Module):
    """cat(sin, cos) of the level times dim/2 frequencies, the exponents divided by dim/2."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.half = dim // 2

    def forward(self, level: Tensor) -> Tensor:
        exponents = torch.arange(self.half, dtype=torch.float32) / self.half
        angles = level[:, None] * torch.exp(-math.log(1e4) * exponents)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Block(nn.Module):
    """Group normalisation, swish, dropout (here none), 3x3 convolution."""

    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(groups, before),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(before, after, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class LevelShift(nn.Module):
    """Adds the level's embedding, one value a channel."""

    def __init__(self, inner: int, features: int) -> None:
        super().__init__()
        self.noise_func = nn.Sequential(nn.Linear(inner, features))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return x + self.noise_func(embedding)[:, :, None, None]


class ResnetBlock(nn.Module):
    def __init__(self, before: int, after: int, inner: int, groups: int) -> None:
        super().__init__()
        self.noise_func = LevelShift(inner, after)
        self.block1 = Block(before, after, groups)
        self.block2 = Block(after, after, groups)
        self.res_conv = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.block2(self.noise_func(self.block1(x), embedding)) + self.res_conv(x)


class SelfAttention(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)
        weights = (q.transpose(1, 2) @ k / math.sqrt(x.shape[1])).softmax(-1)
        return self.out((v @ weights.transpose(1, 2)).view_as(x)) + x


class Layer(nn.Module):
    """A residual block with or without attention."""

    def __init__(self, before: int, after: int, inner: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.res_block = ResnetBlock(before, after, inner, groups)
        self.attn = SelfAttention(after, groups) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attn(self.res_block(x, embedding))


class Resample(nn.Module):
    """A convolution of stride 2, or one after doubling to nearest neighbours."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.interpolate(x, scale_factor=2.0) if self.up else x)


class TorchSR3(nn.Module):
    """The hyper-parameters are those of `yoda_jax.models.sr3.SR3UNet`; dropout is none."""

    def __init__(
        self,
        features: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 4, 8, 8),
        blocks: int = 2,
        attention_resolutions: tuple[int, ...] = (16,),
        image_size: int = 128,
        groups: int = 32,
    ) -> None:
        super().__init__()
        widths = [features * m for m in multipliers]
        attends = [image_size >> i in attention_resolutions for i in range(len(widths))]
        self.noise_level_mlp = nn.Sequential(
            Waves(features),
            nn.Linear(features, 4 * features),
            nn.SiLU(),
            nn.Linear(4 * features, features),
        )
        downs: list[nn.Module] = [nn.Conv2d(6, features, 3, padding=1)]
        skips = [features]
        width = features
        for i, after in enumerate(widths):
            for _ in range(blocks):
                downs.append(Layer(width, after, features, groups, attends[i]))
                width = after
                skips.append(width)
            if i < len(widths) - 1:
                downs.append(Resample(width, up=False))
                skips.append(width)
        self.downs = nn.ModuleList(downs)
        self.mid = nn.ModuleList(
            Layer(width, width, features, groups, attention) for attention in (True, False)
        )
        ups: list[nn.Module] = []
        for i in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                ups.append(Layer(width + skips.pop(), widths[i], features, groups, attends[i]))
                width = widths[i]
            if i > 0:
                ups.append(Resample(width, up=True))
        self.ups = nn.ModuleList(ups)
        self.final_conv = Block(width, 3, groups)

    def forward(self, z: Tensor, level: Tensor, lr_up: Tensor) -> Tensor:
        """The noise in z."""
        embedding = self.noise_level_mlp(level)
        x = torch.cat([lr_up, z], dim=1)
        skips = []
        for layer in self.downs:
            skips.append(x := layer(x, embedding) if isinstance(layer, Layer) else layer(x))
        for layer in self.mid:
            x = layer(x, embedding)
        for layer in self.ups:
            is_layer = isinstance(layer, Layer)
            x = layer(torch.cat([x, skips.pop()], dim=1), embedding) if is_layer else layer(x)
        return self.final_conv(x)


def loss(net: TorchSR3, hr: Tensor, lr_up: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """Mean abs(noise - net(z)), z = level hr + sqrt(1 - level^2) noise, as the reference."""
    g = level[:, None, None, None]
    z = g * hr + (1 - g**2).sqrt() * noise
    return nn.functional.l1_loss(noise, net(z, level, lr_up), reduction="sum") / hr.numel()


def train_step(net: TorchSR3, adam: torch.optim.Adam, *batch: Tensor) -> Tensor:
    """Forward, backward and one step of Adam; returns the loss before it."""
    adam.zero_grad(set_to_none=True)
    value = loss(net, *batch)
    value.backward()
    adam.step()
    return value.detach()


def draw(rng: np.random.Generator, hyper: tuple[Any, ...], count: int) -> Batch:
    """A batch of noise of the network's size."""
    shape = (count, hyper[4], hyper[4], 3)
    batch = {name: rng.standard_normal(shape, np.float32) for name in ("hr", "lr_up", "noise")}
    return batch | {"level": rng.uniform(0.1, 0.9, count).astype(np.float32)}


def side(hyper: tuple[Any, ...], entries: Entries, batch: Batch) -> Side:
    """`forward` and `step`."""
    net = TorchSR3(*hyper)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in entries.items()})
    adam = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    level = torch.from_numpy(batch["level"])
    pictures = (batch[name].transpose(0, 3, 1, 2).copy() for name in ("hr", "lr_up", "noise"))
    hr, lr_up, noise = map(torch.from_numpy, pictures)

    def forward() -> np.ndarray:
        with torch.inference_mode():
            return net(noise, level, lr_up).numpy().transpose(0, 2, 3, 1)

    return {
        "forward": forward,
        "step": lambda: float(train_step(net, adam, hr, lr_up, level, noise)),
    }


def golden_error() -> float:
    """Largest error of output, loss, gradients and one Adam step against the reference's own run.

    Raises AssertionError where it exceeds 1e-5: then the twin is not the reference.
    """
    arrays = np.load(GOLDEN).items()
    golden = {name: torch.from_numpy(a) for name, a in arrays if a.dtype == np.float32}
    net = TorchSR3(16, (1, 2, 2), 1, (8,), 32, 8)
    shapes = [(name, tuple(value.shape)) for name, value in net.state_dict().items()]
    entries = recipe(shapes, seed=1234)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in entries.items()})
    with torch.no_grad():
        out = net(golden["x_noisy"], golden["noise_level"][:, 0], golden["cond"])
    pairs = [(out, golden["out"])]
    batch = (golden[name] for name in ("loss/HR", "cond", "loss/sqrt_gamma", "loss/noise"))
    value = train_step(net, torch.optim.Adam(net.parameters(), lr=1e-4), *batch)
    pairs.append((value, golden["loss/l_pix"]))
    for name, parameter in net.named_parameters():
        for key, ours in ((f"grad/{name}", parameter.grad), (f"adam1/{name}", parameter.detach())):
            pairs += [(ours, golden[key])] if key in golden else []
    error = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    assert error < 1e-5, f"the twin is {error:.1e} away from the reference"
    return error
