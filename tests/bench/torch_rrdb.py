"""The RRDB encoder in PyTorch: the part of the SRDiff twin that is not trained.

Modules bear the names of the public implementation (github.com/LeiaLi/SRDiff).
"""

import torch
from torch import Tensor, nn


class DenseBlock(nn.Module):
    """x + 0.2 times five convolutions, each of which sees x and all results before it."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for i in range(5):
            after = features if i == 4 else growth
            setattr(self, f"conv{i + 1}", nn.Conv2d(features + i * growth, after, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for i in range(1, 5):
            y = getattr(self, f"conv{i}")(torch.cat(seen, 1))
            seen.append(nn.functional.leaky_relu(y, 0.2))
        return self.conv5(torch.cat(seen, 1)) * 0.2 + x


class RRDB(nn.Module):
    """x + 0.2 times three dense blocks."""

    def __init__(self, features: int) -> None:
        super().__init__()
        for i in (1, 2, 3):
            setattr(self, f"RDB{i}", DenseBlock(features, features // 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.RDB3(self.RDB2(self.RDB1(x))) * 0.2 + x


class TorchRRDB(nn.Module):
    """The layers up to the features; those of the picture are there for their entries."""

    def __init__(self, features: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, features, 3, padding=1)
        self.RRDB_trunk = nn.ModuleList(RRDB(features) for _ in range(blocks))
        self.trunk_conv = nn.Conv2d(features, features, 3, padding=1)
        for i in range(1, 4 if scale == 8 else 3):
            setattr(self, f"upconv{i}", nn.Conv2d(features, features, 3, padding=1))
        self.HRconv = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, lr: Tensor) -> list[Tensor]:
        first = x = self.conv_first((lr + 1) / 2)
        maps = []
        for block in self.RRDB_trunk:
            x = block(x)
            maps.append(x)
        return [*maps, first + self.trunk_conv(x)]
