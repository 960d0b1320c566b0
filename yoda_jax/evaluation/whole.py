"""Figures of whole pictures of any size, a file a picture, so that what is done is not done twice.

Two protocols stand side by side: RGB of all pixels, as everywhere here, and the field's own, luma
(Y) without a border of `scale` pixels.
"""

import io
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple
from urllib.parse import quote
from zlib import crc32

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from yoda_jax.evaluation import fidelity
from yoda_jax.evaluation.perceptual import lpips, lpips_map
from yoda_jax.evaluation.sheet import encoded
from yoda_jax.pictures import Resampling, to_uint8, to_unit, upsample
from yoda_jax.runs import write_whole
from yoda_jax.tiled import Tiled
from yoda_jax.training.state import Params
from yoda_jax.weights.lpips import load_lpips_alex

HIGH = 0.75  # A above this quantile of the picture's counts as high

Rows = dict[str, dict[str, dict[str, float]]]  # row -> picture -> figures


class _Compilation:
    """The seconds that this process has spent on compiling."""

    _EVENTS = (
        "/jax/core/compile/jaxpr_to_mlir_module_duration",
        "/jax/core/compile/backend_compile_duration",
    )

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, seconds: float, **_: Any) -> None:
        if event in self._EVENTS:
            self.seconds += seconds


_COMPILATION = _Compilation()


class Made(NamedTuple):
    """A result, and what it took: evaluations of the network a tile, and seconds."""

    picture: UInt8[np.ndarray, "H W 3"]
    evaluations: float
    seconds: float


class WholeMeasure:
    """The figures of one picture of any size."""

    def __init__(self, scale: int, resampling: Resampling) -> None:
        self._scale, self._resampling = scale, resampling
        weights = load_lpips_alex()
        self._lpips = partial(jax.jit(lpips), weights)
        self._map = partial(jax.jit(lpips_map), weights)

    def __call__(
        self,
        made: Made,
        hr: UInt8[np.ndarray, "H W 3"],
        lr: UInt8[np.ndarray, "h w 3"],
        attention: UInt8[np.ndarray, "H W 1"],
    ) -> dict[str, float]:
        """The figures by name; inside and outside are of the attention given."""
        pair, border = (made.picture, hr), self._scale
        units = to_unit(made.picture)[None], to_unit(hr)[None]
        where = np.asarray(self._map(*units))[0]
        high = attention[..., 0] > np.quantile(attention, HIGH)
        figures = {
            "psnr": fidelity.psnr(*pair),
            "ssim": fidelity.ssim(*pair),
            "psnr_y": fidelity.psnr(*pair, border, luma=True),
            "ssim_y": fidelity.ssim(*pair, border, luma=True),
            "lpips": float(self._lpips(*units)[0]),
            "lr_psnr": fidelity.lr_psnr(made.picture, lr, self._resampling),
            "colour_shift": float(np.abs(fidelity.colour_shift(*pair)).mean()),
            "evaluations": made.evaluations,
            "seconds": made.seconds,
        }
        for name, part in (("inside", high), ("outside", ~high)):
            figures[f"lpips_{name}"] = float(where[part].mean()) if part.any() else float("nan")
        return figures


class Results:
    """Figures of rows of pictures in a folder, row/picture.json, and with them what was made."""

    def __init__(self, folder: epath.Path) -> None:
        self.folder = folder

    def get(self, row: str, picture: str, asked: Mapping[str, Any]) -> dict[str, float] | None:
        """The figures that were made as asked for, or None."""
        found = self._kept(row, picture)
        return found["figures"] if found.get("asked") == json.loads(json.dumps(asked)) else None

    def put(
        self,
        row: str,
        picture: str,
        asked: Mapping[str, Any],
        figures: Mapping[str, float],
        made: UInt8[np.ndarray, "H W C"] | None = None,
    ) -> None:
        """Keeps figures with what was asked for, after the picture itself if it is given."""
        path = self._path(row, picture)
        if made is not None:
            write_whole(path.with_name(f"{path.name}.png"), encoded(to_image(made)))
        text = json.dumps({"row": row, "picture": picture, "asked": asked, "figures": figures})
        write_whole(path.with_name(f"{path.name}.json"), text.encode())

    def picture(self, row: str, picture: str) -> UInt8[np.ndarray, "H W C"]:
        """What was kept beside a picture's figures."""
        path = self._path(row, picture)
        with Image.open(io.BytesIO(path.with_name(f"{path.name}.png").read_bytes())) as image:
            found = np.asarray(image)
        return found if found.ndim == 3 else found[..., None]

    def asked(self, row: str) -> dict[str, dict[str, Any]]:
        """Picture -> what was asked for, of all in a row."""
        return {one["picture"]: one["asked"] for one in self._all(self.folder / _safe(row))}

    def rows(self, pictures: Collection[str], asked: Mapping[str, Any]) -> Rows:
        """Row -> picture -> figures, of these pictures, that were made as asked for.

        A picture's figures may have been asked for with more, of that picture alone.
        """
        wanted = json.loads(json.dumps(asked))
        found: Rows = {}
        for folder in self.folder.iterdir() if self.folder.exists() else ():
            for one in self._all(folder):
                if one["picture"] in pictures and {**one["asked"], **wanted} == one["asked"]:
                    found.setdefault(one["row"], {})[one["picture"]] = one["figures"]
        return found

    def _all(self, folder: epath.Path) -> Iterator[dict[str, Any]]:
        if folder.is_dir():
            for path in sorted(p for p in folder.iterdir() if p.suffix == ".json"):
                yield json.loads(path.read_text())

    def _kept(self, row: str, picture: str) -> dict[str, Any]:
        path = self._path(row, picture)
        file = path.with_name(f"{path.name}.json")
        return json.loads(file.read_text()) if file.exists() else {}

    def _path(self, row: str, picture: str) -> epath.Path:
        return self.folder / _safe(row) / _safe(picture)


def to_image(pixels: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """A picture of three channels or one."""
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])


def made_by(config: Mapping[str, Any], params: Params, seed: int) -> dict[str, Any]:
    """What a sampled picture depends on but for itself, to be asked for: see `Results`."""
    leaves = (np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
    attention = {k: v for k, v in config["attention"].items() if k != "batch_size"}
    return {
        "weights": f"{reduce(lambda sum, leaf: crc32(leaf, sum), leaves, 0):08x}",
        "seed": seed,
        "attention": attention,
        **{group: config[group] for group in ("diffusion", "mask")},
        **{field: config["data"][field] for field in ("hr_size", "resampling")},
    }


def pixels_print(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    """What tells a picture from others, whatever its name."""
    return f"{picture.shape[1]}x{picture.shape[0]} {crc32(np.ascontiguousarray(picture)):08x}"


def sampled(
    tiled: Tiled, attention: UInt8[np.ndarray, "H W 1"], sample: Callable[[], np.ndarray]
) -> Made:
    """What `sample` makes by `tiled`, and what it takes, without compilation."""
    evaluations = 1.0
    if tiled.diffuses:
        work = tiled.plan(attention[None])
        evaluations = work.evaluations / len(work.tiles)
    begun = time.monotonic() - _COMPILATION.seconds
    made = sample()
    return Made(made, evaluations, time.monotonic() - _COMPILATION.seconds - begun)


def enlarged(lr: UInt8[np.ndarray, "h w 3"], scale: int, resampling: Resampling) -> Made:
    """What bicubic interpolation makes of a picture."""
    return Made(np.asarray(to_uint8(upsample(lr[None], scale, resampling)))[0], 0.0, 0.0)


def _safe(name: str) -> str:
    """A file's name for any name, another one for each, of at most 200 characters."""
    safe = quote(name, safe=" ,=+", errors="surrogateescape").replace(".", "%2E")
    if len(safe) <= 200:
        return safe
    return f"{safe[:180]} {crc32(safe.encode()):08x}"
