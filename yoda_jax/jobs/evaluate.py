"""eval: a checkpoint on the held-out pictures -> table, figures a picture, sheet."""

from ml_collections import ConfigDict

from yoda_jax.configuration import build, inference, restore
from yoda_jax.evaluation import report
from yoda_jax.jobs import precompute
from yoda_jax.runs import Run


def run(config: ConfigDict, workdir: str, step: int | None = None) -> None:
    """Samples the held-out pictures from the newest checkpoint, or that of a step, and reports."""
    where = Run(workdir)
    weights = restore.weights(config, where, step)
    precompute.run(config, workdir, splits=("eval",))
    compared, method = build.comparison(config, where), inference.method(config)
    folder, masked = where.evaluation(config.eval.name), config.mask.enabled
    compared.check_own(folder)
    name = config.model.name
    if weights.mask["enabled"]:
        name += f" + {report.yoda_label(weights.mask)}{'' if masked else ' without mask'}"
    elif masked:
        name += " + mask"
    compared.add_bicubic(method)
    compared.add(f"{name}, step {weights.step}", method, weights.params, config.seed)
    facts = {"step": weights.step}
    compared.report(folder, build.setting(config), config.mask.lower_bound, facts)
