"""Where pictures come from: folders, a prepared TFDS data set or the sample photographs."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import numpy as np
from jaxtyping import UInt8

from yoda_jax.data.decode import BadPicture as BadPicture
from yoda_jax.data.decode import decode_picture
from yoda_jax.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

# name: (distribution, package, file in the package); the colour photographs in the wheels.
_SAMPLES = {
    "astronaut": ("scikit-image", "skimage", "data/astronaut.png"),
    "chelsea": ("scikit-image", "skimage", "data/chelsea.png"),
    "china": ("scikit-learn", "sklearn", "datasets/images/china.jpg"),
    "coffee": ("scikit-image", "skimage", "data/coffee.png"),
    "flower": ("scikit-learn", "sklearn", "datasets/images/flower.jpg"),
    "motorcycle_left": ("scikit-image", "skimage", "data/motorcycle_left.png"),
    "rocket": ("scikit-image", "skimage", "data/rocket.jpg"),
}
# Test pictures are those that may be shown anywhere: NASA public domain and CC0.
_SAMPLE_SETS = {
    "photos": list(_SAMPLES),
    "photos/train": ["chelsea", "china", "flower", "motorcycle_left", "rocket"],
    "photos/test": ["astronaut", "coffee"],
}

Load = Callable[[], UInt8[np.ndarray, "H W 3"]]


@dataclass(frozen=True)
class Files:
    """Picture files in their order, each as (name, path)."""

    spec: str
    files: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, start: int, stop: int) -> Iterator[tuple[str, Load]]:
        """Names and loaders of pictures start..stop-1; `load()` may raise `BadPicture`."""
        for name, path in self.files[start:stop]:
            yield name, partial(decode_picture, path, name)

    def part(self, count: int) -> tuple[Self, Self]:
        """(the rest, the `count` files whose names have the smallest CRC-32)."""
        # File systems may hold names that are no UTF-8.
        by_hash = sorted(self.files, key=lambda f: crc32(f[0].encode("utf-8", "surrogateescape")))
        held = set(by_hash[:count])
        rest = tuple(file for file in self.files if file not in held)
        return replace(self, files=rest), replace(self, files=tuple(sorted(held)))


@dataclass(frozen=True)
class TfdsSplit:
    """The pictures at `indices` of one split of a prepared TFDS data set (`builder`)."""

    spec: str
    builder: Any
    split: str
    feature: str
    indices: range

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, start: int, stop: int) -> Iterator[tuple[str, Load]]:
        """Names and loaders of pictures start..stop-1; `load()` may raise `BadPicture`."""
        import tensorflow_datasets as tfds

        indices = self.indices[start:stop]
        if not indices:
            return
        examples = self.builder.as_dataset(
            split=f"{self.split}[{indices.start}:{indices.stop}]",
            shuffle_files=False,
            # Pictures come encoded, to be decoded by `load` in the caller's threads.
            decoders=tfds.decode.PartialDecoding(
                {self.feature: True}, decoders={self.feature: tfds.decode.SkipDecoding()}
            ),
            # One file after the other: interleaved files would tie the order to the range.
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )
        for index, example in zip(indices, examples.as_numpy_iterator(), strict=True):
            name = f"{self.builder.name}-{self.split}-{index:08d}"
            yield name, partial(decode_picture, example[self.feature], name)

    def part(self, count: int) -> tuple[Self, Self]:
        """(the rest, the last `count` pictures)."""
        rest, held = self.indices[:-count], self.indices[-count:]
        return replace(self, indices=rest), replace(self, indices=held)


Source = Files | TfdsSplit


def open_source(spec: str, data_dir: str | None = None) -> Source:
    """Opens pictures named by one line.

    That is `folder:PATH[,PATH...]`, `tfds:NAME[/CONFIG][:SPLIT]` or `samples:photos[/train|/test]`.
    `data_dir` is where TFDS data sets were prepared (default: TFDS's own); nothing is downloaded.
    Raises `UserError` where the form is unknown, there are no such pictures, or folders overlap.
    """
    kind, _, rest = spec.partition(":")
    tfds = partial(_open_tfds, data_dir=data_dir)
    openers = {"folder": _open_folders, "tfds": tfds, "samples": _open_samples}
    if kind not in openers or not rest:
        raise UserError(
            "data source must be folder:PATH[,PATH...], tfds:NAME[/CONFIG][:SPLIT] or "
            f"samples:photos[/train|/test], found {spec!r}."
        )
    return openers[kind](spec, rest)


def hold_out(source: Source, count: int) -> tuple[Source, Source]:
    """(the rest, `count` pictures held out of it), each with a `spec` that says so.

    Files are chosen by their names alone, stable when others come or go; of a TFDS split the last
    are taken. Raises `UserError` unless 0 < count < len(source).
    """
    if not 0 < count < len(source):
        raise UserError(
            f"--config.data.holdout must be above 0 and below the {len(source)} pictures of "
            f"{source.spec!r}, found {count}; change it, or name others by --config.data.eval."
        )
    rest, held = source.part(count)
    return (
        replace(rest, spec=f"{source.spec} without {count} held out"),
        replace(held, spec=f"{source.spec} held out {count}"),
    )


def _open_folders(spec: str, rest: str) -> Files:
    """Pictures below folders by relative POSIX path, of several folders behind a prefix each."""
    # A folder's own name may hold commas.
    paths = [rest] if os.path.exists(os.path.expanduser(rest)) else rest.split(",")
    if not all(paths):
        raise UserError(f"{spec!r} must name a folder beside each comma, found an empty name.")
    roots = [Path(path).expanduser() for path in paths]
    pictures = [_pictures(spec, root) for root in roots]
    if len(roots) == 1:
        return Files(spec, tuple(sorted(pictures[0])))
    files = [
        (f"{prefix}/{name}", path)
        for prefix, found in zip(_prefixes(spec, roots), pictures, strict=True)
        for name, path in found
    ]
    return Files(spec, tuple(sorted(files)))


def _pictures(spec: str, root: Path) -> list[tuple[str, str]]:
    """(relative POSIX path, path) of the pictures below a folder; links to folders are left out."""
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise UserError(f"{spec!r} must name a folder of pictures, found {found} at {root}.")
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                file = Path(folder, name)
                files.append((file.relative_to(root).as_posix(), str(file)))
    if not files:
        kinds = " ".join(EXTENSIONS)
        raise UserError(f"folder {root} must hold pictures ({kinds}) at any depth, found none.")
    return files


def _prefixes(spec: str, roots: list[Path]) -> list[str]:
    """The shortest tail of each path (POSIX) that neither equals nor begins another's tail.

    Hence no two pictures share a name, whatever the folders hold. Raises `UserError` where a folder
    is named twice or lies inside another.
    """
    written = [Path(os.path.abspath(root)) for root in roots]  # links keep their names here
    pairs = list(permutations(range(len(roots)), 2))
    for form in ([root.resolve() for root in roots], written):
        for inner, outer in pairs:
            if form[inner].is_relative_to(form[outer]):
                how = "the same as" if form[inner] == form[outer] else "inside"
                raise UserError(
                    f"{spec!r} must name folders that share no picture, found {roots[inner]} {how} "
                    f"{roots[outer]}; leave one of them out."
                )
    lengths = [1] * len(roots)
    while True:
        tails = [path.parts[-length:] for path, length in zip(written, lengths, strict=True)]
        unclear = {i for i, j in pairs if tails[j][: len(tails[i])] == tails[i]}
        if not unclear:
            return [Path(*tail).as_posix() for tail in tails]
        for i in unclear:
            lengths[i] += 1


def _open_samples(spec: str, subset: str) -> Files:
    """Photographs that the scikit-image and scikit-learn wheels carry."""
    if subset not in _SAMPLE_SETS:
        raise UserError(f"samples: must be one of {', '.join(_SAMPLE_SETS)}, found {spec!r}.")
    files = []
    for name in _SAMPLE_SETS[subset]:
        distribution, package, file = _SAMPLES[name]
        found = find_spec(package)  # gives the package's folder without importing it
        path = Path(found.submodule_search_locations[0], file) if found else Path(package, file)
        if not path.is_file():
            raise UserError(f"sample {path} is missing, install {distribution} from its wheel.")
        files.append((name, str(path)))
    return Files(spec, tuple(files))


def _open_tfds(spec: str, rest: str, data_dir: str | None) -> TfdsSplit:
    import tensorflow as tf  # takes seconds, and only this kind of source needs it
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")
    name, split = (rest if ":" in rest else f"{rest}:train").split(":", 1)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        raise UserError(f"{spec!r} must name a TFDS data set and configuration: {why}") from error
    if not builder.is_prepared():
        # Not the program `tfds build`: it does not start without Apache Beam.
        raise UserError(
            f'TFDS data set {name} is not prepared in {builder.data_dir}, run `python -c "import '
            f"tensorflow_datasets as tfds; tfds.builder({name!r}, "
            f'data_dir={str(builder.data_dir_root)!r}).download_and_prepare()"` first.'
        )
    splits, features = builder.info.splits, builder.info.features
    if split not in list(splits):
        raise UserError(f"TFDS data set {name} has splits {', '.join(splits)}, found {spec!r}.")
    pictures = [key for key in ("image", "hr") if key in features]
    if not pictures or not isinstance(features[pictures[0]], tfds.features.Image):
        found = ", ".join(f"{key} ({type(features[key]).__name__})" for key in features)
        raise UserError(f"TFDS data set {name} must have a picture image or hr, found {found}.")
    return TfdsSplit(spec, builder, split, pictures[0], range(splits[split].num_examples))
