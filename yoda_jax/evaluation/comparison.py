"""Methods on the same held-out pictures, measured alike."""

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Float64, Int, UInt8
from PIL import Image

from yoda_jax.data.batches import Batch, spread
from yoda_jax.data.held_out import HeldOut
from yoda_jax.errors import UserError
from yoda_jax.evaluation.measure import Measure
from yoda_jax.evaluation.report import Row, table, write
from yoda_jax.evaluation.sheet import mask_columns, picture_sheet
from yoda_jax.logs import Eta
from yoda_jax.method import Method
from yoda_jax.pictures import to_uint8, upsample
from yoda_jax.processes import decided, is_first
from yoda_jax.sampling import sample_rows
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
        self._on_sheet = [own[i] for i in spread(sheet_pictures, len(own))]
        self._shown: dict[str, list[np.ndarray]] = {}

    def add_bicubic(self, method: Method) -> Row:
        """The pictures enlarged by a method's rule of bicubic interpolation."""
        zeros = np.zeros(self.held_out.batch_size // jax.process_count())

        def upscale(ids: Int[np.ndarray, " b"], rows: Batch) -> UInt8[np.ndarray, "b H W 3"]:
            lr = jnp.asarray(rows["lr"])
            return np.asarray(to_uint8(upsample(lr, method.scale, method.resampling)))

        return self._add("bicubic", upscale, lambda attention: zeros)

    def add(
        self,
        label: str,
        method: Method,
        params: Params,
        seed: int,
        between: Callable[[], None] = lambda: None,
    ) -> Row:
        """A method's samples, from the noise of a seed; `between` is called now and then."""
        eta, size = Eta(label, len(self.held_out.indices)), self.held_out.batch_size
        starts = itertools.count(0, size)

        def upscale(ids: Int[np.ndarray, " b"], rows: Batch) -> UInt8[np.ndarray, "b H W 3"]:
            start = next(starts)

            def progress(share: float) -> None:
                eta.reached(min(start + share * size, len(self.held_out.indices)))
                between()

            return sample_rows(method, self.mesh, params, ids, rows, seed, progress)

        return self._add(label, upscale, method.diffused)

    def _add(self, label: str, upscale: _Upscale, diffused: Callable[[np.ndarray], object]) -> Row:
        """Makes and measures every picture; `diffused` is the share of pixel-steps by attention."""
        values: dict[str, np.ndarray] = {}
        shown: dict[int, np.ndarray] = {}
        for found, counted, rows in self.held_out.batches(jax.process_index(), jax.process_count()):
            pictures = upscale(np.array([self.held_out.indices[i] for i in found]), rows)
            figures = self.measure(pictures, rows["hr"], rows["lr"])
            figures["diffused"] = np.asarray(diffused(rows["attention"])).tolist()
            for metric, of_batch in figures.items():
                of_set = values.setdefault(metric, np.zeros(len(self.held_out.indices)))
                of_set[found[counted]] = np.array(of_batch)[counted]
            drawn = zip(found.tolist(), pictures, strict=True)
            shown |= {i: picture for i, picture in drawn if i in self._on_sheet}
        row = Row(label, {metric: _of_all(mine).tolist() for metric, mine in values.items()})
        self.rows.append(row)
        self._shown[label] = [shown[i] for i in self._on_sheet if i in shown]
        return row

    def check_own(self, folder: epath.Path) -> None:
        """Raises UserError where the figures of other pictures would be written over."""
        path = folder / "metrics.json"

        def found() -> dict | None:
            return json.loads(path.read_text()).get("records") if path.exists() else None

        here = json.loads(json.dumps(self.held_out.records.manifest["settings"]))
        if (there := decided(found)) not in (None, here):
            name = next(k for k in sorted(here | there) if here.get(k) != there.get(k))
            raise UserError(
                f"{path} holds figures of other pictures ({name}={there.get(name)!r} there, "
                f"{here.get(name)!r} here); name this evaluation by --config.eval.name=NAME."
            )

    def report(
        self,
        folder: epath.Path,
        setting: str,
        lower_bound: float,
        facts: Mapping[str, Any],
        reference: int = 0,
    ) -> None:
        """Writes and prints the table with its protocol; differences are taken to a row.

        setting says what was sampled, lower_bound is of the masks on the sheet.
        """
        if not is_first():
            return
        held_out = self.held_out
        protocol = (
            f"{len(held_out.indices)} held-out examples of {len(set(held_out.names))} pictures, "
            f"{setting}; {self.measure.protocol}; mean ± standard error over pictures; differences "
            "paired by picture, with 95 % intervals"
        )
        facts = {
            "protocol": protocol,
            "records": held_out.records.manifest["settings"],
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            **facts,
        }
        examples = [f"{i} {name}" for i, name in zip(held_out.indices, held_out.names, strict=True)]
        sheet = self.sheet(lower_bound)
        write(folder, self.rows, held_out.names, examples, facts, sheet, reference)
        print(f"\n{protocol}\n\n{table(self.rows, held_out.names, reference)}\n")
        print(f"sheet   {folder / 'sheet.png'}")
        print(f"report  {folder / 'report.html'}\nfigures {folder / 'metrics.json'}\n")

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


def _of_all(mine: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """The values of all processes; each is one process's, and 0 in the others."""
    if jax.process_count() == 1:
        return mine
    # As whole numbers, since JAX would round to float32.
    halves = multihost_utils.process_allgather(mine.view(np.uint32)).sum(0, np.uint32)
    return halves.view(np.float64)
