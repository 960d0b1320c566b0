"""LPIPS v0.1: the distance of two pictures in the features of a trained network.

Everything is float32 at full precision, also where the accelerator's default is a coarser product.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn
from jaxtyping import Float

from yoda_jax.arrays import Array
from yoda_jax.errors import UserError

MIN_SIZE = 32
# Per channel statistics of ImageNet, for pictures in [-1, 1].
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32).reshape(1, 1, 1, 3)
SCALE = np.array([0.458, 0.448, 0.450], np.float32).reshape(1, 1, 1, 3)
# Of each convolution: stride, padding, and whether a max pooling comes before it.
ALEX_CONVS = ((4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False))


def lpips(params: dict[str, list], image0: Array, image1: Array) -> Float[Array, "B"]:
    """LPIPS(x0, x1) = sum_l mean_hw w_l . (f_l(x0)/|f_l(x0)| - f_l(x1)/|f_l(x1)|)^2, AlexNet trunk.

    params come from `yoda_jax.weights.lpips`; the pictures are RGB in [-1, 1], at least 32 pixels
    high and wide. Returns one distance per pair: 0 for equal pictures, larger is less alike. Raises
    UserError where the pictures differ in shape, are no float RGB batches or are smaller. Source:
    Zhang et al. 2018, equation 1; lpips/lpips.py of richzhang/PerceptualSimilarity, version 0.1.
    """
    _check(image0, image1)
    # Two equal calls and not one of twice the batch: equal pictures then have equal features.
    features = [alex_features(params["convs"], image) for image in (image0, image1)]
    return sum(layer_distance(*layer) for layer in zip(*features, params["heads"], strict=True))


def lpips_map(params: dict[str, list], image0: Array, image1: Array) -> Float[Array, "B H W"]:
    """Where the distance of `lpips` lies: each layer's, before its mean, enlarged bilinearly.

    Source: `spatial=True` of the reference. Takes and raises what `lpips` does.
    """
    _check(image0, image1)
    features = [alex_features(params["convs"], image) for image in (image0, image1)]
    layers = [layer_map(*layer) for layer in zip(*features, params["heads"], strict=True)]
    return sum(jax.image.resize(layer, image0.shape[:3], "bilinear") for layer in layers)


def _check(image0: Array, image1: Array) -> None:
    shape = image0.shape
    if not (
        shape == image1.shape
        and len(shape) == 4
        and shape[-1] == 3
        and min(shape[1:3]) >= MIN_SIZE
        and all(jnp.issubdtype(image.dtype, jnp.floating) for image in (image0, image1))
    ):
        raise UserError(
            f"LPIPS expected two float batches of one shape (B, H, W, 3) with H and W at least "
            f"{MIN_SIZE}, found {image0.dtype} {shape} and {image1.dtype} {image1.shape}; "
            "convert the pictures to [-1, 1] or take larger ones"
        )


def layer_distance(
    f0: Float[Array, "B h w C"], f1: Float[Array, "B h w C"], head: Float[Array, "C"]
) -> Float[Array, "B"]:
    """mean_hw sum_c w_c (f0_c / |f0| - f1_c / |f1|)^2, the norms taken over channels."""
    return jnp.matmul(_squared(f0, f1).mean((1, 2)), head, precision=lax.Precision.HIGHEST)


def layer_map(
    f0: Float[Array, "B h w C"], f1: Float[Array, "B h w C"], head: Float[Array, "C"]
) -> Float[Array, "B h w"]:
    """What `layer_distance` is the mean of."""
    return jnp.matmul(_squared(f0, f1), head, precision=lax.Precision.HIGHEST)


def _squared(f0: Float[Array, "B h w C"], f1: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    difference = _unit(f0) - _unit(f1)
    # A compiler may fuse this to a multiply-add, whose rounding is not 0 for equal features.
    equal = (f0 == f1).all(-1, keepdims=True)
    return jnp.where(equal, 0.0, difference) ** 2


def _unit(f: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    """f / (|f| + 1e-10) over channels; zero features stay zero and have a finite gradient."""
    square = (f * f).sum(-1, keepdims=True)
    positive = square > 0
    # The inner where keeps the square root's infinite slope at 0 out of the gradient.
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    return f / (norm + 1e-10)


def scale_input(image: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """(x - shift) / scale: from [-1, 1] to what ImageNet trunks were trained on, as float32."""
    return (image.astype(jnp.float32) - SHIFT) / SCALE


def alex_features(convs: list[dict], image: Float[Array, "B H W 3"]) -> list[Array]:
    """AlexNet's five activations of pictures in [-1, 1]: 64, 192, 384, 256 and 256 channels.

    convs holds a kernel (h, w, I, O) and a bias (O,) per convolution. Source: `features` of
    torchvision's alexnet.
    """
    x, features = scale_input(image), []
    for conv, (stride, padding, pooled) in zip(convs, ALEX_CONVS, strict=True):
        x = max_pool(x) if pooled else x
        x = nn.relu(conv2d(x, conv["kernel"], conv["bias"], stride, padding))
        features.append(x)
    return features


def conv2d(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "h w I O"],
    bias: Float[Array, "O"],
    stride: int = 1,
    padding: int = 0,
) -> Float[Array, "B H2 W2 O"]:
    """Convolution with zeros around the picture, the same stride and padding both ways."""
    out = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return out + bias.reshape(1, 1, 1, -1)


def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
    """Maximum over windows of 3x3 with stride 2, whole windows only."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
