"""Per-head maps of self-supervised backbones, computed in batches on the devices at hand.

DINO: Caron et al. 2021; DINOv2: Oquab et al. 2023. For a ViT a head's map is the class token's row
of the last block's attention. A ResNet has no heads: groups of the last stage's channels serve.
"""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Float, Float32, UInt8

from yoda_jax.arrays import Array
from yoda_jax.models.resnet import ResNet
from yoda_jax.models.vit import VisionTransformer

# Of ImageNet's channels, on [0,1]; what every DINO release normalises by.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[None, None, None]
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[None, None, None]
_BATCHES_AHEAD = 3  # one being given out, one computed, one filled
RESNET_STRIDE = 32
RESNET_GROUPS = 8  # 256 of ResNet-50's 2048 channels each


def group_attention(features: Float[Array, "B h w C"], groups: int) -> Float[Array, "B groups h w"]:
    """softmax over places of <mean of v over places, v>, with v a group of the channels.

    The pooled vector plays the class token's part, and a group that of a head.
    """
    _, h, w, _ = features.shape
    v = rearrange(features, "b h w (n d) -> b n (h w) d", n=groups)
    logits = jnp.einsum("bnd,bnkd->bnk", v.mean(axis=2), v)
    return rearrange(jax.nn.softmax(logits, axis=-1), "b n (h w) -> b n h w", h=h, w=w)


def attention_heads(
    network: VisionTransformer | ResNet, params: dict, pictures: UInt8[Array, "B H W 3"]
) -> Float[Array, "B N h w"]:
    """The attention heads of pictures whose sides are multiples of the network's stride."""
    normalised = (pictures.astype(jnp.float32) / 255 - _MEAN) / _DEVIATION
    # Else shards made on different platforms would hold different maps.
    with jax.default_matmul_precision("highest"):
        if isinstance(network, ResNet):
            return group_attention(network.apply({"params": params}, normalised), RESNET_GROUPS)
        return network.apply({"params": params}, normalised, method="class_attention")


def stride(network: VisionTransformer | ResNet) -> int:
    """Pixels per cell of the network's maps."""
    return RESNET_STRIDE if isinstance(network, ResNet) else network.patch


def head_count(network: VisionTransformer | ResNet | None) -> int:
    """How many maps the network gives a picture; one without a network."""
    if network is None:
        return 1
    return RESNET_GROUPS if isinstance(network, ResNet) else network.heads


class BackboneAttention:
    """Maps an iterable of pictures to their heads, in order, a few batches ahead.

    A batch has batch_size pictures of one shape; what is left of a shape is filled up to a power of
    two, so that there are few compilations a shape. Rows are shared out over this process's
    devices. Which pictures share a batch depends on their order alone, never on timing.
    """

    def __init__(self, network: VisionTransformer | ResNet, params: dict, batch_size: int) -> None:
        self.stride, self._batch_size = stride(network), batch_size
        devices = jax.local_devices()
        # One CPU device has all cores, and cutting this network's batch over several loses time.
        count = 1 if devices[0].platform == "cpu" else np.gcd(batch_size, len(devices))
        mesh = jax.make_mesh(
            (count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count]
        )
        self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        self._rows = NamedSharding(mesh, PartitionSpec("data"))
        self._heads = jax.jit(lambda params, rows: attention_heads(network, params, rows))

    def __call__(
        self, pictures: Iterable[UInt8[np.ndarray, "H W 3"]]
    ) -> Iterator[Float32[np.ndarray, "N h w"]]:
        """The heads of each picture in turn; a picture's sides are multiples of `stride`."""
        groups: dict[tuple[int, ...], list[_Row]] = {}  # of one shape, not yet computed
        queue: deque[_Row] = deque()  # read, not yet given out

        def heads_of(row: _Row) -> Float32[np.ndarray, "N h w"]:
            if row.heads is None:
                self._compute(groups.pop(row.picture.shape))
            return np.asarray(row.heads)[row.index]

        for picture in pictures:
            row = _Row(picture)
            queue.append(row)
            group = groups.setdefault(picture.shape, [])
            group.append(row)
            if len(group) == self._batch_size:
                self._compute(groups.pop(picture.shape))
            if len(queue) == _BATCHES_AHEAD * self._batch_size:
                yield heads_of(queue.popleft())
        while queue:
            yield heads_of(queue.popleft())

    def _compute(self, rows: list["_Row"]) -> None:
        """Starts the computation of a batch; whoever reads its heads waits for it."""
        pictures = [row.picture for row in rows]
        size = self._rows.mesh.size
        while size < len(rows):
            size *= 2
        pictures += pictures[-1:] * (min(size, self._batch_size) - len(rows))
        heads = self._heads(self._params, jax.device_put(np.stack(pictures), self._rows))
        for i, row in enumerate(rows):
            row.heads, row.index = heads, i


@dataclasses.dataclass
class _Row:
    """A picture, and where its heads are once their computation has begun."""

    picture: UInt8[np.ndarray, "H W 3"]
    heads: Float[Array, "B N h w"] | None = None
    index: int = 0
