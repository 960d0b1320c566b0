"""What colours a picture's samples mean, converted to sRGB."""

import io
import struct
from contextlib import suppress

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageCms

from yoda_jax.data.levels import Transfer

_PROFILE_MODE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# White, red, green and blue of sRGB, as x and y.
_SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """An L, RGB or CMYK picture to sRGB; a broken profile or one of another mode is ignored."""
    if icc:
        with suppress(OSError, ImageCms.PyCMSError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            mode = _PROFILE_MODE.get(profile.profile.xcolor_space.strip())
            if mode == image.mode or (mode, image.mode) == ("RGB", "L"):
                return ImageCms.profileToProfile(
                    image.convert(mode), profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
                )
    return image.convert("RGB")


def png_transfer(chunks: dict[bytes, bytes]) -> Transfer | None:
    """From the curve and primaries of a PNG's chunks gAMA and cHRM to those of sRGB.

    None where they are sRGB's within what a viewer tells apart, or sRGB is said to hold.
    """
    if b"sRGB" in chunks:
        return None
    gamma = struct.unpack_from(">I", chunks.get(b"gAMA", bytes(4)))[0] / 100_000
    curved = gamma == 0 or abs(gamma * 2.2 - 1) < 0.05
    matrix = _to_srgb_primaries(chunks[b"cHRM"]) if b"cHRM" in chunks else None
    if curved and matrix is None:
        return None

    def transfer(unit: Float[np.ndarray, "H W C"]) -> Float[np.ndarray, "H W C"]:
        linear = _decoded(unit) if curved else unit ** np.float32(1 / gamma)
        if matrix is not None and unit.shape[2] == 3:
            linear = np.clip(linear @ matrix.T, 0, 1)
        return _encoded(linear)

    return transfer


def _decoded(unit: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """sRGB's curve to linear light (IEC 61966-2-1)."""
    return np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4).astype("f4")


def _encoded(linear: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Linear light to sRGB's curve."""
    curved = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, curved).astype("f4")


def _to_srgb_primaries(chunk: bytes) -> Float[np.ndarray, "3 3"] | None:
    """Linear RGB of the primaries in a chunk cHRM to linear sRGB; None for sRGB's or no colours."""
    xy = np.array(struct.unpack_from(">8I", chunk)) / 100_000
    if np.allclose(xy, _SRGB, atol=0.002) or not xy[1::2].all():
        return None
    (theirs, their_white), (ours, our_white) = (_to_xyz(v) for v in (xy, np.array(_SRGB)))
    scale = (_BRADFORD @ our_white) / (_BRADFORD @ their_white)
    adapted = np.linalg.solve(_BRADFORD, scale[:, None] * _BRADFORD)
    with suppress(np.linalg.LinAlgError):
        return np.linalg.solve(ours, adapted @ theirs).astype(np.float32)
    return None


def _to_xyz(xy: Float[np.ndarray, "8"]) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """(XYZ of linear red, green and blue in columns, of white) from their x and y."""
    x, y = xy[::2], xy[1::2]
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    white, primaries = xyz[:, 0], xyz[:, 1:]
    return primaries * np.linalg.solve(primaries, white), white
