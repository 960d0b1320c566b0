"""What records hold: counts, diffused fraction, and a sheet of pictures with heads and masks."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import UInt8

from yoda_jax.attention.maps import Reading, attention_map
from yoda_jax.data.batches import maps, spread
from yoda_jax.data.records import Records
from yoda_jax.diffusion.mask import diffused_fraction
from yoda_jax.evaluation.sheet import encoded, mask_columns, picture_sheet
from yoda_jax.runs import write_whole

_SUMMARISED = 256  # examples whose diffused fraction is looked at
_LISTED = 10  # skipped pictures in the log
_SHEET_PICTURES = 8
_SHEET_SIZE = 128


class Masking(NamedTuple):
    """How heads become a mask: how A is read from them, and the lower bound l."""

    reading: Reading
    lower_bound: float


def report(masking: Masking, split: str, folder: epath.Path, how: str) -> None:
    """Logs the number of examples, skipped pictures and the distribution of diffused fractions."""
    records = Records(folder)
    manifest, fractions = records.manifest, diffused_fractions(masking, records)
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
        masking.lower_bound,
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


def diffused_fractions(masking: Masking, records: Records) -> np.ndarray:
    """E[min(1, A + l)] of at most 256 examples spread over the records."""
    indices = spread(_SUMMARISED, len(records))
    attention = maps(records, indices, masking.reading)
    return np.asarray(diffused_fraction(jnp.asarray(attention / 255), masking.lower_bound))


def write_sheet(masking: Masking, folder: epath.Path) -> None:
    """Writes sheet.png beside the records: eight whole pictures with heads, A and masks."""
    records = Records(folder)
    columns: dict[str, list[np.ndarray]] = {}
    seen = set()
    for index in spread(_SHEET_PICTURES, len(records)):
        photo, example = _whole_picture(records, index)
        if example["name"] in seen:
            continue
        seen.add(example["name"])
        for label, picture in _maps(masking, photo, example).items():
            columns.setdefault(label, []).append(picture)
    write_whole(folder / "sheet.png", encoded(picture_sheet(columns, _SHEET_SIZE)))
    logging.info("pictures with their heads and masks: %s", folder / "sheet.png")


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
    masking: Masking, photo: UInt8[np.ndarray, "H W 3"], example: dict
) -> dict[str, UInt8[np.ndarray, "_ _ _"]]:
    """The columns of a picture: photograph, each head on its own range, A, and masks."""
    heads, scale, size = example["attention"], example["attention_scale"], photo.shape[:2]
    columns = {"photo": photo}
    for i in range(len(heads)):
        columns[f"head {i}"] = attention_map(heads, scale, size, Reading(i))
    a = attention_map(heads, scale, size, masking.reading)
    columns["A"] = a
    return columns | {
        label: mask[0] for label, mask in mask_columns(a[None], masking.lower_bound).items()
    }
