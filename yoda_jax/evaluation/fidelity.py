"""How near a super-resolved picture `sr` comes to the true one `hr`, one pair of 8-bit pictures.

The protocol is part of a figure: RGB or luma, and how many border pixels are cut off each side.
"""

import numpy as np
from jaxtyping import Float64, UInt8
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from yoda_jax.data.degrade import downsample
from yoda_jax.errors import UserError
from yoda_jax.pictures import Resampling

WINDOW = 11  # SSIM's Gaussian window: sigma 1.5, cut at 3.5 sigma
GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def psnr(sr: np.ndarray, hr: np.ndarray, border: int = 0, luma: bool = False) -> float:
    """10 log10(255^2 / mean((sr - hr)^2)) in dB, over RGB or, with `luma`, over Y.

    `border` pixels are cut off each side before. Identical pictures give infinity, not a cap.
    Raises UserError unless both are 8-bit RGB pictures of one size that the border leaves some of.
    """
    a, b = _compared(sr, hr, border, luma)
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(b, a, data_range=255))


def ssim(sr: np.ndarray, hr: np.ndarray, border: int = 0, luma: bool = False) -> float:
    """Structural similarity in [-1,1], over RGB (mean over channels) or, with `luma`, over Y.

    (2 mu_a mu_b + C1)(2 cov_ab + C2) / ((mu_a^2 + mu_b^2 + C1)(var_a + var_b + C2)) under an
    11 x 11 Gaussian window of sigma 1.5, C1 = (.01 * 255)^2, C2 = (.03 * 255)^2, population
    covariance, averaged over the pixels whose window lies inside the border. Raises UserError as
    `psnr`, and if less than 11 x 11 pixels are left. Source: Wang et al. 2004, "Image quality
    assessment".
    """
    pair = _compared(sr, hr, border, luma, smallest=WINDOW)
    axis = None if luma else -1
    return float(structural_similarity(*pair, data_range=255, channel_axis=axis, **GAUSSIAN))


def lr_psnr(sr: np.ndarray, lr: np.ndarray, resampling: Resampling, border: int = 0) -> float:
    """Consistency with the input: PSNR in dB, in RGB, of `lr` and `sr` degraded as `lr` was.

    `resampling` is the rule that made `lr`; `border` LR pixels are cut off each side. Raises
    UserError unless sr's size is a multiple of lr's. Source: SRDiff (arXiv 2104.14951), LR-PSNR.
    """
    scale = sr.shape[0] // lr.shape[0]
    if scale < 1 or sr.shape[:2] != (lr.shape[0] * scale, lr.shape[1] * scale):
        raise UserError(
            f"LR-PSNR expects a picture whose size is a multiple of its low-resolution one, found "
            f"{_size(sr)} and {_size(lr)}: compare pictures of one pair."
        )
    return psnr(downsample(sr, scale, resampling), lr, border)


def colour_shift(sr: np.ndarray, hr: np.ndarray) -> Float64[np.ndarray, "3"]:
    """mean(sr - hr) of each channel, in units of the range [-1,1]; raises UserError as `psnr`."""
    a, b = _compared(sr, hr)
    return (a.mean((0, 1)) - b.mean((0, 1))) / 127.5


def luminance(picture: UInt8[np.ndarray, "H W 3"]) -> Float64[np.ndarray, "H W"]:
    """Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 in [16,235], unrounded.

    BT.601 in studio range: MATLAB's rgb2ycbcr, before it rounds to 8 bits.
    """
    return 16 + picture @ (np.array([65.481, 128.553, 24.966]) / 255)


def _compared(
    sr: np.ndarray, hr: np.ndarray, border: int = 0, luma: bool = False, smallest: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """What is compared of the two pictures: inside the border, RGB or Y, in float64."""
    if sr.dtype != np.uint8 or hr.dtype != np.uint8 or sr.shape != hr.shape or sr.shape[2:] != (3,):
        raise UserError(
            f"A metric expects two 8-bit RGB pictures of one size, found {sr.dtype} {sr.shape} and "
            f"{hr.dtype} {hr.shape}: compare pictures of one pair."
        )
    height, width = sr.shape[:2]
    if border < 0 or min(height, width) - 2 * border < smallest:
        raise UserError(
            f"A metric with a border of {border} expects pictures of at least "
            f"{smallest + 2 * max(border, 0)} pixels a side and a border of at least 0, found "
            f"{_size(sr)}: use larger pictures or another border."
        )
    inside = np.s_[border : height - border, border : width - border]
    convert = luminance if luma else np.float64
    return convert(sr[inside]), convert(hr[inside])


def _size(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    return f"{picture.shape[0]} x {picture.shape[1]}"
