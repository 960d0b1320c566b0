"""export: the newest checkpoint -> safetensors, in our names and in the public code's."""

import json

import jax
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from yoda_jax.configuration import inference, restore
from yoda_jax.errors import UserError
from yoda_jax.runs import Run, located, write_whole
from yoda_jax.weights import public
from yoda_jax.weights.foreign import METADATA

# Fields that name folders of the machine, which say nothing elsewhere; pictures may also be a data
# set's, whose name stays.
_PLACES = (("data", "records"), ("data", "tfds_dir"), ("model", "encoder"), ("eval", "beside"))
_PICTURES = (("data", "train"), ("data", "eval"), ("eval", "sets"))


def run(
    config: ConfigDict, workdir: str, output: str, step: int | None = None, half: bool | None = None
) -> None:
    """Writes OUTPUT.safetensors and OUTPUT.public.safetensors, each with the configuration in it.

    That is the one of training, but for attention, mask and chain, which are those given here: how
    the file's pictures are sampled. The latter only where the public code can do what the network
    was trained for.

    The weights are those that are sampled with (averaged ones where there are), of the newest
    checkpoint or that of a step. Both files can be imported again, bit for bit, but for the
    rounding of `half`, to numbers of 16 bits. Raises UserError where one is too large for these.
    """
    where = Run(workdir)
    weights = restore.weights(config, where, step)
    saved = restore.saved_configuration(where, weights.step)
    given = config.to_dict()
    sampled_with = {group: given[group] for group in ("attention", "mask", "diffusion")}
    trained_with = {k: v for k, v in saved.items() if k in config} | sampled_with
    folders = [(g, f) for g, f in _PICTURES if "folder:" in trained_with[g][f]]
    for group, field in (*_PLACES, *folders):
        trained_with[group] = {**trained_with[group], field: ""}
    trained_with["workdir"] = ""
    params = jax.tree.map(np.asarray, weights.params)
    if half:
        params = jax.tree.map(_halved, params)
    files = {"ours": public.to_own(params)}
    if saved["model"]["skip"] or saved["diffusion"]["base"] == "encoder":
        print("no file for the public code, whose encoder is not around the bicubic picture")
    else:
        files["public"] = public.to_public(inference.network(config), params)
    stem = located(output.removesuffix(".safetensors"))
    for names, entries in files.items():
        text = json.dumps({"names": names, "step": weights.step, "config": trained_with})
        path = stem.with_name(f"{stem.name}{'.public' if names == 'public' else ''}.safetensors")
        write_whole(path, safetensors.numpy.save(entries, {METADATA: text}))
        print(f"{path}: {len(entries)} entries in {names} names, step {weights.step}")


def _halved(values: np.ndarray) -> np.ndarray:
    most = np.finfo(np.float16).max
    if np.abs(values).max(initial=0) > most:
        raise UserError(
            f"--half holds numbers up to {most:.0f}, found {np.abs(values).max():.3g} among the "
            "weights; export them without it."
        )
    return values.astype(np.float16)
