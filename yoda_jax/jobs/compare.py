"""compare: the base method and YODA, trained alike on the same records, in one table."""

from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from yoda_jax.jobs import evaluate, precompute, train
from yoda_jax.training import sharding


def run(config: ConfigDict, workdir: str) -> None:
    """Trains both halves for the same steps and samples base weights with and without the mask.

    The four rows say which half does what: bicubic; base method; base weights sampled with the
    mask; trained and sampled with the mask. Each training resumes by itself.
    """
    sharding.check_batch(sharding.make_mesh(), config.train.batch_size, config.train.accumulate)
    config = config.copy_and_resolve_references()
    config.data.records = config.data.records or str(Path(workdir) / "records")
    precompute.run(config, workdir)
    evaluation = evaluate.Evaluation(config, workdir)
    weights = {}
    for name, masked in (("base", False), ("yoda", True)):
        part = config.copy_and_resolve_references()
        part.mask.enabled = masked
        folder = str(Path(workdir) / name)
        logging.info("training %s", "with the mask" if masked else "the base method")
        train.fit(part, folder)
        weights[name], _ = evaluate.load_weights(part, folder)
    logging.info("sampling %d held-out examples three times", len(evaluation.indices))
    evaluation.add_bicubic()
    evaluation.add("base", weights["base"], masked=False)
    evaluation.add("base + mask", weights["base"], masked=True)
    evaluation.add("YODA", weights["yoda"], masked=True)
    evaluation.report(Path(workdir) / "eval", "compare")
    print(
        "base: the base method; base + mask: its weights, sampled with the mask; YODA: trained and "
        "sampled with the mask.\n"
        "Next: your own pictures, with --config.data.train=folder:PATH; longer, with "
        "--config.train.steps=N (this run then goes on where it stopped);\n"
        f"loss curves, with tensorboard --logdir {workdir}."
    )
