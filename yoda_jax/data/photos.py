"""Where pictures come from: folders, a prepared TFDS data set or the sample photographs."""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path
from typing import Self
from zlib import crc32

from yoda_jax.data.catalogue import Load, TfdsSplit, open_tfds
from yoda_jax.data.decode import BadPicture as BadPicture
from yoda_jax.data.decode import decode_picture
from yoda_jax.data.folders import pictures
from yoda_jax.errors import UserError
from yoda_jax.runs import on_a_disk

_PRINT_BYTES = 4096
_READERS = 16

# A comma belongs to a source unless NAME:KIND: comes after it.
_NEXT_SET = re.compile(r",(?=[^,:/]+:(?:folder|tfds|samples):)")

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

    @property
    def names(self) -> list[str]:
        """Of the pictures in their order."""
        return [name for name, _ in self.files]

    def prints(self, start: int = 0, stop: int | None = None) -> dict[str, str]:
        """The names of pictures start..stop-1, each with its `_print`."""
        files = self.files[start:stop]
        with ThreadPoolExecutor(_READERS) as pool:
            prints = pool.map(_print, (path for _, path in files))
            return dict(zip((name for name, _ in files), prints, strict=True))

    def part(self, count: int) -> tuple[Self, Self]:
        """(the rest, the `count` files whose names have the smallest CRC-32)."""
        # File systems may hold names that are no UTF-8.
        by_hash = sorted(self.files, key=lambda f: crc32(f[0].encode("utf-8", "surrogateescape")))
        held = set(by_hash[:count])
        rest = tuple(file for file in self.files if file not in held)
        return replace(self, files=rest), replace(self, files=tuple(sorted(held)))


Source = Files | TfdsSplit


def _print(path: str) -> str:
    """What tells a file from others, and from itself once it is changed: its size, and a digest of
    its beginning, middle and end. Empty where nothing can be read.
    """
    with suppress(OSError):
        size = os.stat(path).st_size
        if size and os.path.isfile(path):  # no pipe, which one would wait for
            with open(path, "rb") as file:
                digest = blake2b(digest_size=8)
                for start in (0, size // 2, max(size - _PRINT_BYTES, 0)):
                    file.seek(start)
                    digest.update(file.read(_PRINT_BYTES))
            return f"{size} {digest.hexdigest()}"
    return ""


def open_source(spec: str, data_dir: str | None = None) -> Source:
    """Opens pictures named by one line.

    That is `folder:PATH[,PATH...]`, `tfds:NAME[/CONFIG][:VERSION][:SPLIT]`, with a SPLIT as TFDS
    spells it, slices too (`train[:80%]`), or `samples:photos[/train|/test]`. `data_dir` is where
    TFDS data sets were prepared (default: TFDS's own); nothing is downloaded.
    Raises `UserError` where the form is unknown, there are no such pictures, or folders overlap.
    """
    kind, _, rest = spec.partition(":")
    tfds = partial(open_tfds, data_dir=data_dir)
    openers = {"folder": _open_folders, "tfds": tfds, "samples": _open_samples}
    if kind not in openers or not rest:
        raise UserError(
            "data source must be folder:PATH[,PATH...], tfds:NAME[/CONFIG][:VERSION][:SPLIT] or "
            f"samples:photos[/train|/test], found {spec!r}."
        )
    return openers[kind](spec, rest)


def open_sets(named: str, data_dir: str | None = None) -> dict[str, Source]:
    """Name -> pictures of "NAME:SOURCE[,NAME:SOURCE...]", each a source as `open_source` takes.

    Raises `UserError` for another form, a name given twice, or a source that cannot be had.
    """
    found: dict[str, Source] = {}
    for part in _NEXT_SET.split(named):
        name, _, spec = part.partition(":")
        if not re.fullmatch(r"[\w .+-]*\w[\w .+-]*", name) or not spec or name in found:
            raise UserError(
                "--config.eval.sets must be NAME:SOURCE[,NAME:SOURCE...] with a name of its own "
                "for each, for example Set5:folder:/data/Set5,Set14:folder:/data/Set14, found "
                f"{named!r}."
            )
        found[name] = open_source(spec, data_dir)
    return found


def open_splits(
    train: str, held: str, count: int, data_dir: str | None = None
) -> dict[str, Source | UserError]:
    """The pictures "train" and "eval", or why they cannot be had: records may be there without.

    Where `held` names no source, `count` pictures of `train` are held out.
    """
    opened: dict[str, Source | UserError] = {}
    for split, spec in {"train": train, "eval": held}.items():
        try:
            opened[split] = open_source(spec, data_dir) if spec else opened["train"]
        except UserError as error:
            opened[split] = error
    if not held and not isinstance(opened["train"], UserError):
        opened["train"], opened["eval"] = hold_out(opened["train"], count)
    return opened


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


def _roots(rest: str) -> list[str]:
    # A folder's own name may hold commas.
    whole = os.path.expanduser(rest)
    return [whole] if os.path.exists(whole) else [os.path.expanduser(p) for p in rest.split(",")]


def normalised(spec: str) -> str:
    """A source in one spelling: absolute folders in their order, and TFDS's default split."""
    kind, _, rest = spec.partition(":")
    if kind == "folder":
        return "folder:" + ",".join(sorted(os.path.abspath(root) for root in _roots(rest)))
    return spec.removesuffix(":train") if kind == "tfds" else spec


def _open_folders(spec: str, rest: str) -> Files:
    """Pictures below folders by relative POSIX path, of several folders behind a prefix each."""
    roots = _roots(on_a_disk("A folder of pictures", rest))
    if not all(roots):
        raise UserError(f"{spec!r} must name a folder beside each comma, found an empty name.")
    roots = [Path(root) for root in roots]
    found = pictures(spec, roots)
    if len(roots) == 1:
        return Files(spec, tuple(sorted(found[0])))
    files = [
        (f"{prefix}/{name}", path)
        for prefix, below in zip(_prefixes(spec, roots), found, strict=True)
        for name, path in below
    ]
    return Files(spec, tuple(sorted(files)))


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
