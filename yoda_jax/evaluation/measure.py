"""Pictures beside the true ones -> figures, by one protocol."""

from functools import partial

import jax
import numpy as np
from jaxtyping import UInt8

from yoda_jax.evaluation import fidelity
from yoda_jax.evaluation.perceptual import lpips
from yoda_jax.pictures import Resampling, to_unit
from yoda_jax.weights.lpips import load_lpips_alex

# LR pixels at the rim of a tile that its neighbours took part in: those whose kernel reaches out.
TILE_RIM = 2


class Measure:
    """The figures of super-resolved pictures; a batch at a time.

    border: pixels cut off each side before PSNR and SSIM. tiles: pictures are cut out of larger
    ones, whose LR was reduced as a whole, so LR-PSNR leaves the tile's rim out.
    """

    def __init__(self, border: int, resampling: Resampling, tiles: bool) -> None:
        self.border, self.resampling, self.tiles = border, resampling, tiles
        self._lpips = partial(jax.jit(lpips), load_lpips_alex())

    @property
    def protocol(self) -> str:
        """How the figures are made."""
        rim = f", without {TILE_RIM} LR pixels at the rim of a tile" if self.tiles else ""
        return (
            f"PSNR and SSIM in RGB (and Y) of 8 bits, border {self.border}; LPIPS AlexNet v0.1; "
            "colour shift: mean over channels of |mean(SR - HR)| on [-1, 1]; LR-PSNR by the "
            f"reduction that made LR ({self.resampling}{rim})"
        )

    def __call__(
        self,
        pictures: UInt8[np.ndarray, "b H W 3"],
        hr: UInt8[np.ndarray, "b H W 3"],
        lr: UInt8[np.ndarray, "b h w 3"],
    ) -> dict[str, list[float]]:
        """Each metric's values, one a picture."""
        pairs = list(zip(pictures, hr, strict=True))
        shifts = np.array([fidelity.colour_shift(*pair) for pair in pairs])
        rim = TILE_RIM if self.tiles else 0
        figures = {
            "psnr": [fidelity.psnr(*pair, self.border) for pair in pairs],
            "ssim": [fidelity.ssim(*pair, self.border) for pair in pairs],
            "lpips": np.asarray(self._lpips(to_unit(pictures), to_unit(hr))).tolist(),
            "colour_shift": np.abs(shifts).mean(-1).tolist(),
            "lr_psnr": [
                fidelity.lr_psnr(sr, low, self.resampling, rim)
                for sr, low in zip(pictures, lr, strict=True)
            ],
            "psnr_y": [fidelity.psnr(*pair, self.border, luma=True) for pair in pairs],
            "ssim_y": [fidelity.ssim(*pair, self.border, luma=True) for pair in pairs],
        }
        return figures | {f"colour_shift_{c}": shifts[:, i].tolist() for i, c in enumerate("rgb")}
