"""Bottleneck ResNets, DINO's convolutional backbones, for inference.

Layer by layer torchvision's models/resnet.py: He et al. 2016, in the form called v1.5, where a
block strides in its 3x3 convolution.
"""

import flax.linen as nn
import jax
from jaxtyping import Float

from yoda_jax.arrays import Array

_EXPANSION = 4  # output channels of a block per plane


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias with stored statistics.

    One multiply-add per value. The statistics are parameters: a checkpoint is one tree.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        zeros, ones, shape = nn.initializers.zeros, nn.initializers.ones, (x.shape[-1],)
        gain, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        mean, variance = self.param("mean", zeros, shape), self.param("variance", ones, shape)
        scale = gain * jax.lax.rsqrt(variance + self.epsilon)
        shift = bias - mean * scale
        return x * scale[None, None, None] + shift[None, None, None]


class Bottleneck(nn.Module):
    """1x1 to few planes, 3x3 with the stride, 1x1 to four times the planes, added to the input.

    The input goes through a strided 1x1 convolution of its own where its shape is another.
    """

    planes: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        width = _EXPANSION * self.planes
        h = nn.relu(BatchNorm(name="bn1")(_conv(self.planes, 1, 1, "conv1")(x)))
        h = nn.relu(BatchNorm(name="bn2")(_conv(self.planes, 3, self.stride, "conv2")(h)))
        h = BatchNorm(name="bn3")(_conv(width, 1, 1, "conv3")(h))
        if self.stride > 1 or x.shape[-1] != width:
            x = _conv(width, 1, self.stride, "downsample_conv")(x)
            x = BatchNorm(name="downsample_bn")(x)
        return nn.relu(h + x)


class ResNet(nn.Module):
    """A bottleneck ResNet without its classifier; the defaults are ResNet-50.

    stem: channels of the first convolution. planes, blocks: of each stage; a stage has four times
    its planes as output channels, and each but the first halves the picture's sides.
    """

    stem: int = 64
    planes: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (3, 4, 6, 3)

    @nn.compact
    def __call__(self, pictures: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        """The last stage's features: with four stages h = ceil(H / 32), w = ceil(W / 32).

        Pictures have the mean 0 and deviation 1 of ImageNet, and any size. Features are >= 0.
        """
        x = nn.relu(BatchNorm(name="bn1")(_conv(self.stem, 7, 2, "conv1")(pictures)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pads with -inf
        for i, (planes, blocks) in enumerate(zip(self.planes, self.blocks, strict=True)):
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                x = Bottleneck(planes, stride, name=f"layer{i + 1}_block{j}")(x)
        return x


def _conv(features: int, kernel: int, stride: int, name: str) -> nn.Conv:
    # "SAME" would pad a strided convolution unevenly; PyTorch pads every side alike.
    return nn.Conv(
        features, (kernel, kernel), stride, padding=kernel // 2, use_bias=False, name=name
    )
