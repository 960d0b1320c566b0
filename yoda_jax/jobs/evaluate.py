"""eval: a checkpoint on the held-out pictures -> table, figures a picture, sheet."""

import json
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from yoda_jax.configuration import build, restore
from yoda_jax.errors import UserError
from yoda_jax.evaluation import report
from yoda_jax.evaluation.comparison import Comparison
from yoda_jax.jobs import precompute
from yoda_jax.processes import decided, is_first
from yoda_jax.runs import Run
from yoda_jax.training.sharding import make_mesh


def run(config: ConfigDict, workdir: str, step: int | None = None) -> None:
    """Samples the held-out pictures from the newest checkpoint, or that of a step, and reports."""
    where = Run(workdir)
    weights = restore.weights(config, where, step)
    precompute.run(config, workdir, splits=("eval",))
    compared, method = comparison(config, where), build.method(config)
    masked = config.mask.enabled
    label = yoda_label(weights.mask) if weights.mask["enabled"] else ""
    if weights.mask["enabled"] != masked:
        label += " + mask" if masked else " without mask"
    check_own_figures(config, where, compared)
    compared.add_bicubic(method)
    name = f"{config.model.name}{' + ' if label[:1].isalpha() else ''}{label}"
    compared.add(f"{name}, step {weights.step}", method, weights.params, config.seed)
    write(config, where, compared, {"step": weights.step})


def yoda_label(mask: Mapping) -> str:
    """How tables name a training with the mask; the paper draws t uniformly."""
    return "YODA, t by area" if mask["times"] == "area" else "YODA"


def comparison(config: ConfigDict, where: Run) -> Comparison:
    """An empty comparison on the held-out records of a run."""
    mesh, size = make_mesh(), config.eval.batch_size
    size = -(-size // mesh.size) * mesh.size  # what the devices share out; filled up anyway
    examples = build.records(config, where, "eval")
    held_out = build.held_out(config, examples, config.eval.pictures, size)
    return Comparison(held_out, build.measure(config), mesh, config.eval.sheet_pictures)


def check_own_figures(config: ConfigDict, where: Run, compared: Comparison) -> None:
    """Raises UserError where the figures of other pictures would be written over."""
    path = where.evaluation(config.eval.name) / "metrics.json"

    def found() -> dict | None:
        return json.loads(path.read_text()).get("records") if path.exists() else None

    settings = json.loads(json.dumps(compared.held_out.records.manifest["settings"]))
    if (other := decided(found)) not in (None, settings):
        name = next(k for k in sorted(settings | other) if settings.get(k) != other.get(k))
        raise UserError(
            f"{path} holds figures of other pictures ({name}={other.get(name)!r} there, "
            f"{settings.get(name)!r} here); name this evaluation by --config.eval.name=NAME."
        )


def write(
    config: ConfigDict, where: Run, compared: Comparison, facts: Mapping, reference: int = 0
) -> None:
    """Writes and prints the table with its protocol; differences are taken to a row."""
    if not is_first():
        return
    held_out, c = compared.held_out, config
    chain = "no diffusion"
    if build.network(config).diffuses:
        chain = f"{c.diffusion.sampling_steps} DDPM steps, lower bound {c.mask.lower_bound}"
    protocol = (
        f"{len(held_out.indices)} held-out examples of {len(set(held_out.names))} pictures, "
        f"{c.data.scale}x to {c.data.hr_size}x{c.data.hr_size}, {chain}; "
        f"{compared.measure.protocol}; mean ± standard error over pictures; differences paired by "
        "picture, with 95 % intervals"
    )
    facts = {
        "protocol": protocol,
        "records": held_out.records.manifest["settings"],
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        **facts,
    }
    folder = where.evaluation(c.eval.name)
    examples = [f"{i} {name}" for i, name in zip(held_out.indices, held_out.names, strict=True)]
    sheet = compared.sheet(c.mask.lower_bound)
    report.write(folder, compared.rows, held_out.names, examples, facts, sheet, reference)
    print(f"\n{protocol}\n\n{report.table(compared.rows, held_out.names, reference)}\n")
    print(f"sheet   {folder / 'sheet.png'}")
    print(f"report  {folder / 'report.html'}\nfigures {folder / 'metrics.json'}\n")
