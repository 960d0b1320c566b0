"""Up-scaling one's own pictures with a trained network: no records, no HR picture."""

import dataclasses
import math
import os
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Self

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image

from yoda_jax.attention.maps import attention_map, quantise
from yoda_jax.configuration import fields, inference
from yoda_jax.data.examples import attention_input
from yoda_jax.data.planes import Planes
from yoda_jax.errors import UserError
from yoda_jax.method import Progress
from yoda_jax.runs import Run, located
from yoda_jax.tiled import Tiled, Watch
from yoda_jax.training.sharding import make_mesh, replicated
from yoda_jax.training.state import Params
from yoda_jax.weights import foreign

Picture = Image.Image | np.ndarray | str | os.PathLike
_HALO = 8  # pixels of the result around a tile's core: see tests/bench/README.md
_STEPS = 20  # at most, unless told: see configs/README.md, "Does it pay?"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How pictures are sampled; None is as the checkpoint's configuration says.

    steps (where not given, 20 at most), sampler, spacing and eta are of the chain; mask False is
    the base method, True a mask also on weights that were trained without; lower_bound and truncate
    are the mask's. late_start replaces the map: the whole picture is diffused for this share of the
    steps. tile is in pixels of the result (default: the size of training), batch the tiles that are
    seen at once.
    """

    seed: int = 0
    steps: int | None = None
    sampler: str | None = None
    spacing: str | None = None
    eta: float | None = None
    mask: bool | None = None
    lower_bound: float | None = None
    truncate: float | None = None
    late_start: float | None = None
    tile: int | None = None
    batch: int = 8
    sparse: bool = True


_FIELDS = {
    "steps": "diffusion.sampling_steps",
    "sampler": "diffusion.sampler",
    "spacing": "diffusion.spacing",
    "eta": "diffusion.eta",
    "mask": "mask.enabled",
    "lower_bound": "mask.lower_bound",
    "truncate": "mask.truncate",
}


class Upscaler:
    """Up-scales pictures: `Upscaler.load("photos_x4")("photo.jpg").save("large.png")`.

    A picture's result depends on itself, the weights, the seed and the options alone: neither on
    pictures beside it, nor on the order of tiles or the number of devices. Several threads may call
    one.
    """

    def __init__(self, config: ConfigDict, params: Params) -> None:
        self.config = config
        # A run's are on the devices of all processes; here each process works for itself.
        params = jax.tree.map(np.asarray, params)
        self.params = jax.device_put(params, replicated(make_mesh(jax.local_devices())))
        self._lock = threading.Lock()

    @classmethod
    def load(cls, source: str | os.PathLike, step: int | None = None) -> Self:
        """From the workdir of a run (its newest checkpoint, or that of a step), a .safetensors file
        that `--mode=export` wrote, or the name of a model that comes with the package, "photos_x4".
        Raises UserError for anything else.
        """
        config = configuration_of(source, step)
        return cls(config, parameters_of(config, source, step))

    @property
    def scale(self) -> int:
        return self.config.data.scale

    def __call__(
        self,
        pictures: Picture | Sequence[Picture],
        *,
        attention: UInt8[np.ndarray, "H W 1"] | None = None,
        progress: Progress = lambda share: None,
        watch: Watch | None = None,
        **options: Any,
    ) -> Any:
        """A picture at `scale` times its size, or a list of them.

        Taken are a PIL picture (which gives one, of its mode), an array of 8 bits (H W), (H W 3) or
        (H W 4) (an array), and a path (a PIL picture). options: those of `Sampling`. attention: of
        one picture, at the result's size, 255 for 1; without it, it is computed by the backbone
        that the network was trained with. Raises UserError for options that cannot work.
        """
        if isinstance(pictures, list | tuple):
            given = {"attention": attention, "progress": progress, "watch": watch, **options}
            return [self(picture, **given) for picture in pictures]
        planes, finish = _opened(pictures)
        sampling = Sampling(**options)
        tiled = self.tiled(sampling)
        if attention is None or sampling.late_start is not None:
            attention = self.attention(planes.colours, sampling)
        given = (planes.colours, attention, sampling.seed, progress, watch)
        return finish(planes.enlarged(self.sampled(tiled, *given)))

    def tiled(self, sampling: Sampling) -> Tiled:
        """The sampler of these options."""
        config = self.config.copy_and_resolve_references()
        chain = config.diffusion
        chain.sampling_steps = min(chain.sampling_steps, _STEPS)
        for name, field in _FIELDS.items():
            if (value := getattr(sampling, name)) is not None:
                group, key = field.split(".")
                config[group][key] = value
        if sampling.late_start is not None:
            config.mask.update(enabled=True, lower_bound=sampling.late_start, truncate=0.0)
        config.seed = sampling.seed
        fields.validate(config, "upscale")
        if sampling.batch < 1:
            raise UserError(f"A batch must be of at least one tile, found {sampling.batch}.")
        mesh = make_mesh(jax.local_devices())
        network, scale = inference.network(config), config.data.scale
        unit = math.lcm(scale, network.reduction)
        tile = config.data.hr_size if sampling.tile is None else sampling.tile
        if tile % unit or tile <= 4 * scale:
            raise UserError(
                f"A tile must be a multiple of {unit} and above {4 * scale} pixels, found {tile}; "
                "leave it out to take that of training."
            )
        batch = -(-sampling.batch // mesh.size) * mesh.size
        halo = min(_HALO, tile // 4)
        return Tiled(inference.method(config), mesh, tile, halo, batch, sampling.sparse)

    def attention(
        self, lr: UInt8[np.ndarray, "h w 3"], sampling: Sampling | None = None
    ) -> UInt8[np.ndarray, "H W 1"]:
        """A of a picture at the result's size, by the source that the network was trained with.

        Zeros where it is for sampling that has no use for it.
        """
        height, width = (self.scale * side for side in lr.shape[:2])
        if sampling is not None:
            masked = self.config.mask.enabled if sampling.mask is None else sampling.mask
            if not masked or sampling.late_start is not None:
                return np.zeros((height, width, 1), np.uint8)
        with self._lock:
            source = self._source
        seen = attention_input(lr, inference.input_size(self.config), source.stride)
        heads, scale = quantise(next(iter(source([seen]))))
        return attention_map(heads, scale, (height, width), inference.reading(self.config))

    @cached_property
    def _source(self) -> inference.Attention:
        return inference.attention(self.config, self.params.get("encoder"))

    def sampled(
        self,
        tiled: Tiled,
        lr: UInt8[np.ndarray, "h w 3"],
        attention: UInt8[np.ndarray, "H W 1"],
        seed: int,
        progress: Progress = lambda share: None,
        watch: Watch | None = None,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of an LR picture; raises UserError where it is not finite."""
        expected = (self.scale * lr.shape[0], self.scale * lr.shape[1], 1)
        if attention.shape != expected:
            raise UserError(
                f"attention must have the result's shape {expected}, found {attention.shape}."
            )
        keys = jax.random.key(seed)[None]
        pictures, finite = tiled.sample(
            self.params, keys, lr[None], attention[None], progress, watch
        )
        if not finite:
            raise UserError(
                "The picture holds NaN or infinity, expected finite values: the weights have "
                "diverged; use an earlier checkpoint."
            )
        return np.asarray(pictures[0])


def configuration_of(source: str | os.PathLike, step: int | None = None) -> ConfigDict:
    """What a run or an exported file was trained with; raises UserError where there is none."""
    path = _located(source)
    if path.is_file():
        return inference.loaded(foreign.trained_with(path))
    from yoda_jax.configuration import restore  # reads checkpoints, which loads much

    config = restore.configuration(Run(source), step)
    if config is None:
        raise UserError(
            f"{os.fspath(source)} must be the workdir of a run that saved a checkpoint, a "
            f".safetensors file of --mode=export, or {' or '.join(foreign.MODELS)}, found none of "
            "these; correct the path."
        )
    return config


def parameters_of(config: ConfigDict, source: str | os.PathLike, step: int | None = None) -> Params:
    """The averaged parameters of a run or an exported file."""
    path = _located(source)
    if not path.is_file():
        from yoda_jax.configuration import restore

        return restore.weights(config, Run(source), step).params
    method, found = inference.method(config), foreign.read(path, config.data.hr_size)
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), inference.lr_size(config)))
    return found.parameters(method.network, shapes)


def _located(source: str | os.PathLike) -> epath.Path:
    return epath.Path(foreign.model_file(source)) if source in foreign.MODELS else located(source)


def _opened(picture: Picture) -> tuple[Planes, Callable[[Image.Image], Any]]:
    """A picture's planes, and what makes the result the kind of thing that was given."""
    if isinstance(picture, Image.Image):
        return Planes.of_image(picture), lambda image: image
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or not (
            picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))
        ):
            raise UserError(
                "An array must be of 8 bits (uint8) and of shape (H, W), (H, W, 3) or (H, W, 4), "
                f"found {picture.dtype} {picture.shape}."
            )
        return Planes.of_image(Image.fromarray(picture)), np.asarray
    return Planes.of_file(picture), lambda image: image
