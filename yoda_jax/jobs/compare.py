"""compare: the base method and YODA, trained alike on the same records, in one table."""

from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from yoda_jax.jobs import evaluate, parts, precompute, train


def run(config: ConfigDict, workdir: str) -> None:
    """Trains both halves for the same steps and samples base weights with and without the mask.

    The four rows say which half does what: bicubic; base method; base weights sampled with the
    mask; trained and sampled with the mask. Each training resumes by itself.
    """
    train.check_batches(config)
    config = parts.complete(config, f"{workdir}/base", f"{workdir}/yoda")
    config.data.records = config.data.records or str(Path(workdir) / "records")
    precompute.run(config, workdir)
    evaluation = evaluate.Evaluation(config, workdir)
    folders = {name: str(Path(workdir) / name) for name in ("base", "yoda")}
    for name, folder in folders.items():
        part = config.copy_and_resolve_references()
        part.mask.enabled = name == "yoda"
        logging.info("training %s", "with the mask" if part.mask.enabled else "the base method")
        train.fit(part, folder)
    base, yoda = (evaluate.load_weights(config, folder)[0] for folder in folders.values())
    logging.info("sampling %d held-out examples three times", len(evaluation.indices))
    evaluation.add_bicubic()
    evaluation.add("base", base, masked=False)
    evaluation.add("base + mask", base, masked=True)
    evaluation.add("YODA", yoda, masked=True)
    evaluation.report(Path(workdir) / "eval")
    print(
        "base: the base method; base + mask: its weights, sampled with the mask; YODA: trained and "
        "sampled with the mask.\n"
        "Next: your own pictures, with --config.data.train=folder:PATH; longer, with "
        "--config.train.steps=N (this run then goes on where it stopped);\n"
        f"loss curves, with tensorboard --logdir {workdir}."
    )
