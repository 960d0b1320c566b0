"""Methods on the same held-out pictures, measured alike."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Int, UInt8
from PIL import Image

from yoda_jax.data.batches import Batch
from yoda_jax.data.held_out import HeldOut
from yoda_jax.evaluation.measure import Measure
from yoda_jax.evaluation.report import Row
from yoda_jax.evaluation.sheet import mask_columns, picture_sheet
from yoda_jax.logs import Eta
from yoda_jax.method import Method
from yoda_jax.sampling import bicubic, sample_rows
from yoda_jax.training.state import Params

# (ids, rows) of a process's part of a batch -> its pictures.
_Upscale = Callable[[Int[np.ndarray, " b"], Batch], UInt8[np.ndarray, "b H W 3"]]
_SHEET_SIZE = 128


class Comparison:
    """A row of figures for each method that is added, and the pictures of a sheet.

    Every method sees the same examples in the same batches, and noise drawn from the same ids.
    Every process of a run adds the same methods.
    """

    def __init__(
        self, held_out: HeldOut, measure: Measure, mesh: Mesh, sheet_pictures: int
    ) -> None:
        self.held_out, self.measure, self.mesh = held_out, measure, mesh
        self.rows: list[Row] = []
        # The first process draws the sheet, of pictures that it makes itself.
        size = held_out.batch_size
        own = [i for i in range(len(held_out.indices)) if i % size < size // jax.process_count()]
        count = min(sheet_pictures, len(own))
        self._on_sheet = [own[int((i + 0.5) * len(own) / count)] for i in range(count)]
        self._shown: dict[str, list[np.ndarray]] = {}

    def add_bicubic(self, method: Method) -> Row:
        """The up-sampled pictures that a method starts from."""
        zeros = np.zeros(self.held_out.batch_size // jax.process_count())
        return self._add("bicubic", lambda ids, rows: bicubic(method, rows["lr"]), lambda a: zeros)

    def add(
        self,
        label: str,
        method: Method,
        params: Params,
        seed: int,
        between: Callable[[], None] = lambda: None,
    ) -> Row:
        """A method's samples, from the noise of a seed; `between` is called now and then."""
        eta, done = Eta(label, len(self.held_out.indices)), 0

        def upscale(ids: Int[np.ndarray, " b"], rows: Batch) -> UInt8[np.ndarray, "b H W 3"]:
            nonlocal done
            size, before = self.held_out.batch_size, done
            done += size

            def progress(share: float) -> None:
                eta.reached(before + share * size)
                between()

            return sample_rows(method, self.mesh, params, ids, rows, seed, progress)

        return self._add(label, upscale, method.diffused)

    def _add(self, label: str, upscale: _Upscale, diffused: Callable[[np.ndarray], object]) -> Row:
        """Makes and measures every picture; `diffused` is the share of pixel-steps by attention."""
        positions: list[int] = []
        values: dict[str, list[float]] = {}
        shown: dict[int, np.ndarray] = {}
        for found, counted, rows in self.held_out.batches(jax.process_index(), jax.process_count()):
            ids = np.array([self.held_out.indices[i] for i in found])
            pictures = upscale(ids, rows)
            figures = self.measure(pictures, rows["hr"], rows["lr"])
            figures["diffused"] = np.asarray(diffused(rows["attention"])).tolist()
            for metric, of_batch in figures.items():
                values.setdefault(metric, []).extend(np.array(of_batch)[counted].tolist())
            positions += found[counted].tolist()
            drawn = zip(found.tolist(), pictures, strict=True)
            shown |= {i: picture for i, picture in drawn if i in self._on_sheet}
        row = Row(label, _gathered(positions, values, len(self.held_out.indices)))
        self.rows.append(row)
        self._shown[label] = [shown[i] for i in self._on_sheet if i in shown]
        return row

    def sheet(self, lower_bound: float | None) -> Image.Image:
        """LR, every method's pictures, attention and masks (with a lower bound), and HR.

        Of several processes the first alone can draw it.
        """
        rows = self.held_out.rows(self._on_sheet)
        first, *others = self._shown
        masks = {} if lower_bound is None else mask_columns(rows["attention"], lower_bound)
        columns = {
            "LR": rows["lr"],
            first: self._shown[first],
            "attention": rows["attention"],
            **masks,
            **{label: self._shown[label] for label in others},
            "HR": rows["hr"],
        }
        return picture_sheet(columns, _SHEET_SIZE)


def _gathered(
    positions: Sequence[int], values: dict[str, list[float]], count: int
) -> dict[str, list[float]]:
    """The values of all processes, in the order of the set."""
    if jax.process_count() == 1:
        return values
    gathered = {}
    for metric, mine in values.items():
        filled = np.zeros(count)
        filled[list(positions)] = mine
        # Every position is one process's and 0 bits in the others; JAX would round to float32.
        halves = multihost_utils.process_allgather(filled.view(np.uint32)).sum(0, np.uint32)
        gathered[metric] = halves.view(np.float64).tolist()
    return gathered
