"""Pictures of data sets that TensorFlow Datasets has prepared."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
from jaxtyping import UInt8

from yoda_jax.data.decode import decode_picture
from yoda_jax.errors import UserError

Load = Callable[..., UInt8[np.ndarray, "H W 3"]]
_NUMBER = r"(?:\d+|\*)"
# NAME[/CONFIG][:VERSION or /VERSION][:SPLIT], of which the split may hold colons.
_FORM = re.compile(
    rf"(?P<name>[^:]+?)(?:[:/](?P<version>{_NUMBER}\.{_NUMBER}\.{_NUMBER}))?(?::(?P<split>.+))?"
)


@dataclass(frozen=True)
class TfdsSplit:
    """The pictures at `ranges` (split, indices) of a prepared TFDS data set (`builder`)."""

    spec: str
    builder: Any
    feature: str
    ranges: tuple[tuple[str, range], ...]

    def __len__(self) -> int:
        return sum(len(indices) for _, indices in self.ranges)

    def _between(self, start: int, stop: int) -> tuple[tuple[str, range], ...]:
        found, before = [], 0
        for split, indices in self.ranges:
            part = indices[max(start - before, 0) : max(stop - before, 0)]
            before += len(indices)
            if part:
                found.append((split, part))
        return tuple(found)

    def _name(self, split: str, index: int) -> str:
        return f"{self.builder.name}-{split}-{index:08d}"

    @property
    def names(self) -> list[str]:
        """Of the pictures in their order."""
        return [self._name(split, i) for split, indices in self.ranges for i in indices]

    def prints(self, start: int = 0, stop: int | None = None) -> dict[str, str]:
        """The names of pictures start..stop-1, with their data set's configuration and version."""
        return dict.fromkeys(self.names[start:stop], f"tfds {self.builder.info.full_name}")

    def read(self, start: int, stop: int) -> Iterator[tuple[str, Load]]:
        """Names and loaders of pictures start..stop-1; `load()` may raise `BadPicture`."""
        import tensorflow_datasets as tfds

        for split, indices in self._between(start, stop):
            examples = self.builder.as_dataset(
                split=f"{split}[{indices.start}:{indices.stop}]",
                shuffle_files=False,
                # Pictures come encoded, to be decoded by `load` in the caller's threads.
                decoders=tfds.decode.PartialDecoding(
                    {self.feature: True}, decoders={self.feature: tfds.decode.SkipDecoding()}
                ),
                # One file after the other: interleaved files would tie the order to the range.
                read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            )
            for index, example in zip(indices, examples.as_numpy_iterator(), strict=True):
                name = self._name(split, index)
                yield name, partial(decode_picture, example[self.feature], name)

    def part(self, count: int) -> tuple[Self, Self]:
        """(the rest, the last `count` pictures)."""
        rest = len(self) - count
        return (
            replace(self, ranges=self._between(0, rest)),
            replace(self, ranges=self._between(rest, len(self))),
        )


def open_tfds(spec: str, rest: str, data_dir: str | None) -> TfdsSplit:
    """Opens `rest`, NAME[/CONFIG][:VERSION][:SPLIT] with a split as TFDS spells it.

    Raises `UserError` where it is not prepared, has no such split or no picture to take.
    """
    import tensorflow as tf  # takes seconds, and only this kind of source needs it
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")
    form = _FORM.fullmatch(rest)
    name, version, split = form.group("name", "version", "split") if form else (rest, None, None)
    name = f"{name}:{version}" if version else name
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        why = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{spec!r} must name a TFDS data set, configuration and version: {why}"
        ) from error
    if not builder.is_prepared():
        # Not the program `tfds build`: it does not start without Apache Beam.
        raise UserError(
            f'TFDS data set {name} is not prepared in {builder.data_dir}, run `python -c "import '
            f"tensorflow_datasets as tfds; tfds.builder({name!r}, "
            f'data_dir={str(builder.data_dir_root)!r}).download_and_prepare()"` first.'
        )
    splits, features = builder.info.splits, builder.info.features
    pictures = [key for key in ("image", "hr") if key in features]
    if not pictures or not isinstance(features[pictures[0]], tfds.features.Image):
        found = ", ".join(f"{key} ({type(features[key]).__name__})" for key in features)
        raise UserError(f"TFDS data set {name} must have a picture image or hr, found {found}.")
    try:
        read = tfds.core.ReadInstruction.from_spec(split or "train").to_absolute(dict(splits))
    except (ValueError, NotImplementedError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise UserError(
            f"TFDS data set {name} has splits {', '.join(splits)}, found {spec!r} ({why})."
        ) from error
    ranges = [(r.splitname, range(splits[r.splitname].num_examples)[r.from_ : r.to]) for r in read]
    source = TfdsSplit(spec, builder, pictures[0], tuple(r for r in ranges if r[1]))
    if not source.names or len(set(source.names)) < len(source):
        wrong = "some twice" if source.names else "none"
        raise UserError(f"{spec!r} must name pictures, each of them once, found {wrong}.")
    return source
