"""export: the newest checkpoint -> safetensors, in our names and in the public code's."""

import json
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from yoda_jax.evaluation.report import write_whole
from yoda_jax.jobs import build, evaluate, parts
from yoda_jax.jobs.import_weights import METADATA
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.weights import public


def run(config: ConfigDict, workdir: str, output: str) -> None:
    """Writes OUTPUT.safetensors and OUTPUT.public.safetensors, each with the configuration in it.

    The weights are those that are sampled with (averaged ones where there are). Both files can be
    imported again, bit for bit.
    """
    config = parts.complete(config, workdir)
    params, _, step = evaluate.load_weights(config, workdir)
    with Checkpoints(Path(workdir) / "checkpoints") as checkpoints:
        trained_with = {k: v for k, v in checkpoints.config().items() if k in config}
    params = jax.tree.map(np.asarray, params)
    network = build.network(config)
    files = {
        "ours": public.to_own(params),
        "public": public.to_public(network, params),
    }
    stem = Path(output.removesuffix(".safetensors"))
    stem.parent.mkdir(parents=True, exist_ok=True)
    for names, entries in files.items():
        text = json.dumps({"names": names, "step": step, "config": trained_with})
        path = stem.with_name(f"{stem.name}{'.public' if names == 'public' else ''}.safetensors")
        write_whole(path, safetensors.numpy.save(entries, {METADATA: text}))
        print(f"{path}: {len(entries)} entries in {names} names, step {step}")
