"""What records hold: counts, diffused fraction, and a sheet of pictures with heads and masks."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import UInt8
from ml_collections import ConfigDict

from yoda_jax.attention.maps import attention_map
from yoda_jax.data.batches import cut
from yoda_jax.data.records import Records
from yoda_jax.diffusion.mask import area_mask, diffused_fraction
from yoda_jax.evaluation.report import picture_sheet

_MASK_TIMES = (0.9, 0.5, 0.2, 0.05)  # t/T at which masks are shown
_SUMMARISED = 256  # examples whose diffused fraction is looked at
_LISTED = 10  # skipped pictures in the log
_SHEET_PICTURES = 8
_SHEET_SIZE = 128


def report(config: ConfigDict, split: str, folder: Path, how: str) -> None:
    """Logs the number of examples, skipped pictures and the distribution of diffused fractions."""
    records = Records(folder)
    manifest, fractions = records.manifest, diffused_fractions(config, records)
    p10, p50, p90 = np.percentile(fractions, [10, 50, 90])
    logging.info(
        "%s records %s in %s: %d examples of %d pictures, %d skipped; diffused fraction at l=%g "
        "(%d examples): mean %.3f, p10 %.3f, p50 %.3f, p90 %.3f",
        split,
        how,
        folder,
        manifest["examples"],
        manifest["pictures"],
        len(manifest["skipped"]),
        config.mask.lower_bound,
        len(fractions),
        fractions.mean(),
        p10,
        p50,
        p90,
    )
    for skipped in manifest["skipped"][:_LISTED]:
        logging.warning("skipped: %s", skipped)
    if len(manifest["skipped"]) > _LISTED:
        logging.warning("all that were skipped: %s", folder / "manifest.json")


def diffused_fractions(config: ConfigDict, records: Records) -> np.ndarray:
    """E[min(1, A + l)] of at most 256 examples spread over the records, with today's settings."""
    attention = maps(config, records, spread(_SUMMARISED, len(records)))
    return np.asarray(diffused_fraction(jnp.asarray(attention / 255), config.mask.lower_bound))


def maps(
    config: ConfigDict, records: Records, indices: Sequence[int]
) -> UInt8[np.ndarray, "B H W 1"]:
    """A of examples, in 8 bits, with today's settings."""
    how = config.attention.aggregate, config.attention.normalise_heads
    return np.stack([cut(records[i], *how)["attention"] for i in indices])


def spread(count: int, length: int) -> list[int]:
    """At most `count` of range(length): the centres of equal stretches."""
    count = min(count, length)
    return [int((i + 0.5) * length / count) for i in range(count)]


def write_sheet(config: ConfigDict, folder: Path) -> None:
    """Writes sheet.png beside the records: eight whole pictures with heads, A and masks."""
    records = Records(folder)
    columns: dict[str, list[np.ndarray]] = {}
    seen = set()
    for index in spread(_SHEET_PICTURES, len(records)):
        photo, example = _whole_picture(records, index)
        if example["name"] in seen:
            continue
        seen.add(example["name"])
        for label, picture in _maps(config, photo, example).items():
            columns.setdefault(label, []).append(picture)
    path = folder / "sheet.png"
    part = path.with_name("sheet.png.part")
    picture_sheet(columns, _SHEET_SIZE).save(part, "PNG")
    part.replace(path)
    logging.info("pictures with their heads and masks: %s", path)


def _whole_picture(records: Records, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], dict]:
    """The picture that an example was cut from, put together from its tiles, and the example.

    What no tile holds stays grey.
    """
    example = records[index]
    photo = np.full((*example["place"][2:], 3), 128, np.uint8)
    first = index
    while first > 0 and records[first - 1]["name"] == example["name"]:
        first -= 1
    for i in range(first, len(records)):
        tile = records[i]
        if tile["name"] != example["name"]:
            break
        (top, left), (height, width) = tile["place"][:2], tile["hr"].shape[:2]
        photo[top : top + height, left : left + width] = tile["hr"]
    return photo, example


def _maps(
    config: ConfigDict, photo: UInt8[np.ndarray, "H W 3"], example: dict
) -> dict[str, UInt8[np.ndarray, "H W c"]]:
    """The columns of a picture: photograph, each head on its own range, A, and masks."""
    c, size = config.attention, photo.shape[:2]
    heads, scale = example["attention"], example["attention_scale"]
    columns = {"photo": photo}
    for i in range(len(heads)):
        columns[f"head {i}"] = attention_map(heads, scale, size, i)
    a = attention_map(heads, scale, size, c.aggregate, c.normalise_heads)
    columns["A"] = a
    return columns | {
        label: mask[0] for label, mask in mask_columns(a[None], config.mask.lower_bound).items()
    }


def mask_columns(
    attention: UInt8[np.ndarray, "B H W 1"], lower_bound: float
) -> dict[str, UInt8[np.ndarray, "B H W 1"]]:
    """M(t) of each map at four times, white where it is diffused, under the columns' labels."""
    a = jnp.asarray(attention, jnp.float32) / 255
    return {
        f"M({t:g}T)": np.asarray(area_mask(a, jnp.full(len(a), t), lower_bound)).astype(np.uint8)
        * 255
        for t in _MASK_TIMES
    }
