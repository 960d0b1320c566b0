"""What sets of pictures hold: whether one is still the same, and whether two share any.

A set is known by its prints: each picture's name with what tells its contents from others'.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from yoda_jax.compatibility import renamed
from yoda_jax.data.photos import normalised

# What names pictures on a disk, by paths that may change while the pictures stay the same.
_SPELLED = ("data.train", "data.eval", "data.holdout")


def fingerprint(prints: Mapping[str, str]) -> str:
    """One value for a set of pictures, wherever it lies."""
    return blake2b(json.dumps(sorted(prints.items())).encode(), digest_size=8).hexdigest()


def is_made_of(made_of: int | Mapping[str, str], prints: Mapping[str, str]) -> bool:
    """Whether what a shard says it was made of are these pictures.

    Older shards hold a checksum of the pictures' names alone (of TFDS, of their range).
    """
    if not isinstance(made_of, int):
        return dict(made_of) == dict(prints)
    names: Sequence[str] | range = list(prints)
    if next(iter(prints.values())).startswith("tfds "):
        first, last = (int(name[-8:]) for name in (names[0], names[-1]))
        names = range(first, last + 1)
    return made_of == zlib.crc32(repr(names).encode("utf-8", "surrogateescape"))


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """How many pictures were added, removed and changed."""
    changed = sum(now[name] != before[name] for name in now.keys() & before.keys())
    return (
        f"{len(now.keys() - before.keys())} added, {len(before.keys() - now.keys())} removed, "
        f"{changed} changed"
    )


def shared(held: Mapping[str, str], train: Mapping[str, str]) -> list[tuple[str, str]]:
    """(name held out, name in training) of the same pictures, whatever they are called."""

    def identity(name: str, contents: str) -> str:
        # The pictures of a TFDS data set bear its name, in any of its configurations.
        return name if contents.startswith("tfds ") else contents

    names = {identity(*picture): picture[0] for picture in train.items() if picture[1]}
    pairs = [(picture[0], names.get(identity(*picture))) for picture in held.items() if picture[1]]
    return [(name, other) for name, other in pairs if other is not None]


def difference(found: Mapping[str, object], expected: Mapping[str, object]) -> str | None:
    """The first setting in which two sets of records differ; one expected as None is not known.

    Sets of pictures are the same if their fingerprints are ("pictures"), whatever they are called;
    else, and where older records have none, their normalised spellings are compared.
    """
    found, expected = renamed(found), renamed(expected)
    prints = [settings.get("pictures") for settings in (found, expected)]
    names = (found.keys() | expected.keys()) - {"pictures"}
    if None not in prints and prints[0] == prints[1]:
        names -= set(_SPELLED)
    for name in sorted(names):
        values = [settings.get(name) for settings in (found, expected)]
        if name in ("data.train", "data.eval"):
            values = [normalised(value) if isinstance(value, str) else value for value in values]
        if values[0] != values[1] and expected.get(name, ...) is not None:
            return name
    return "pictures" if None not in prints and prints[0] != prints[1] else None
