"""compare: the base method and YODA, trained alike on the same records, in one table."""

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from yoda_jax.configuration import build, fields, inference, restore
from yoda_jax.errors import UserError
from yoda_jax.evaluation import report
from yoda_jax.jobs import precompute, train
from yoda_jax.runs import Run
from yoda_jax.training import sharding
from yoda_jax.upscaler import Sampling, Upscaler

_TO = 2  # the row that differences are taken to: base + mask


def run(config: ConfigDict, workdir: str) -> None:
    """Trains both halves for the same steps and samples base weights with and without the mask.

    The four rows say which half does what: bicubic; base method; base weights sampled with the
    mask; trained and sampled with the mask. Each training resumes by itself. A fifth is of
    eval.beside, on the same maps.
    """
    where = Run(workdir)
    yoda = config.copy_and_resolve_references()
    yoda.data.records = config.data.records or str(where.folder / "records")
    yoda.mask.enabled = True
    base = yoda.copy_and_resolve_references()
    base.mask.enabled = False
    for half in (base, yoda):
        fields.validate(half)
        fields.check_batches(half)
    beside = _beside(config)
    precompute.run(yoda, workdir)
    compared, folder = build.comparison(yoda, where), where.evaluation(yoda.eval.name)
    compared.check_own(folder)
    weights = []
    for half, name in ((base, "base"), (yoda, "yoda")):
        logging.info("training %s", "with the mask" if half.mask.enabled else "the base method")
        train.fit(half, str(where.folder / name))
        weights.append(restore.weights(half, Run(where.folder / name)).params)
    logging.info("sampling %d held-out examples three times", len(compared.held_out.indices))
    plain, masked = inference.method(base), inference.method(yoda)
    label = report.yoda_label(yoda.mask)
    compared.add_bicubic(plain)
    compared.add("base", plain, weights[0], config.seed)
    compared.add("base + mask", masked, weights[0], config.seed)
    compared.add(label, masked, weights[1], config.seed)
    if beside is not None:
        method = beside.tiled(Sampling()).method
        name = f"{config.eval.beside}, {method.sampling_steps} steps"
        everywhere = sharding.replicated(compared.mesh)
        params = jax.device_put(jax.tree.map(np.asarray, beside.params), everywhere)
        compared.add(name, method, params, config.seed)
    facts = {"steps": config.train.steps}
    compared.report(folder, build.setting(yoda), yoda.mask.lower_bound, facts, reference=_TO)
    print(
        f"base: the base method; base + mask: its weights, sampled with the mask; {label}: trained "
        "and sampled with the mask.\n"
        "Next: your own pictures, with --config.data.train=folder:PATH; longer, with "
        "--config.train.steps=N (this run then goes on where it stopped);\n"
        f"loss curves, with tensorboard --logdir {workdir}."
    )


def _beside(config: ConfigDict) -> Upscaler | None:
    """The trained model that stands beside what is trained here, if one is named."""
    if not config.eval.beside:
        return None
    found = Upscaler.load(config.eval.beside)
    network, size = inference.network(found.config), config.data.hr_size
    if not network.diffuses or found.scale != config.data.scale or size % network.reduction:
        raise UserError(
            f"--config.eval.beside={config.eval.beside} must be a diffusion network that up-scales "
            f"by data.scale={config.data.scale} to data.hr_size={size}, found "
            f"{found.config.model.name} by {found.scale} to multiples of {network.reduction}; name "
            "another."
        )
    return found
