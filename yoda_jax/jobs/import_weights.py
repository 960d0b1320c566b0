"""import: someone else's checkpoint -> a workdir like those of our own runs.

A backbone of attention has no run: it becomes a .safetensors file, which needs no PyTorch.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from yoda_jax.errors import UserError
from yoda_jax.evaluation.report import write_whole
from yoda_jax.jobs import build, train, validation
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.state import create
from yoda_jax.weights import dino, public
from yoda_jax.weights.tensor_file import read_metadata

METADATA = "yoda_jax"  # under which an exported file carries its configuration


def run(config: ConfigDict, workdir: str, input: str) -> None:
    """Writes the weights of a file as the checkpoint of step 0, or as a backbone's .safetensors.

    The file is one of SR3's, SRDiff's or RRDB's public code, one of `export`, or of a backbone that
    `weights.dino` reads. Its configuration must be the one given, as far as shapes and schedule
    tell (a backbone's has none); everything is checked before the workdir is made. Raises UserError
    otherwise.
    """
    tensors, metadata = dino.read_weights(input), read_metadata(input)
    backbone = dino.backbone_entries(tensors)
    if name := dino.recognise(backbone, input):
        _write_backbone(name, backbone, Path(workdir), input)
        return
    exported = _exported(metadata, input)
    ours = exported is not None and exported[0]
    if not ours:
        name, entries, table = public.entries_of(tensors)
        found = public.settings_of(name, entries, config.data.hr_size)
    if exported is not None:  # it knows more than its entries tell
        entries = tensors if ours else entries
        _, found, table = exported
    config = _agreed(config, found, input)
    method = build.method(config)
    if table is not None and method.network.diffuses:
        _check_schedule(config, table, input)
    lr_size = config.data.hr_size // config.data.scale
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), lr_size))
    if ours:
        params = public.from_own(entries, shapes)
    else:
        params = public.from_public(method.network, entries, shapes)
    if (Path(workdir) / "checkpoints").exists():
        raise UserError(f"{workdir} holds checkpoints already; name another --workdir.")
    _, abstract = train.make_state(config, method, sharding.make_mesh())
    where = jax.tree.map(lambda s: s.sharding, abstract)
    optimizer, average = build.optimizer(config), config.train.ema_decay > 0
    state = jax.jit(lambda p: create(p, optimizer, average), out_shardings=where)(params)
    with Checkpoints(Path(workdir) / "checkpoints", config.train.keep_checkpoints) as checkpoints:
        checkpoints.save(state, 0, config.to_dict() | {"imported": Path(input).name})
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    print(f"{input}: {len(entries)} entries, {count:,} parameters")
    for field, value in found.items():
        print(f"  --config.{field}={value}")
    print(f"written to {workdir}; use it with the same --config and --workdir={workdir}")


def _write_backbone(
    name: str, entries: Mapping[str, np.ndarray], workdir: Path, input: str
) -> None:
    """Writes a backbone's entries under their own names, by which positions are interpolated."""
    path = workdir / f"{name}.safetensors"
    if path.exists():
        raise UserError(f"{path} exists already; name another --workdir or delete that file.")
    _, params = dino.from_entries(name, entries, input)
    arrays = {key: np.ascontiguousarray(value) for key, value in entries.items()}
    data = safetensors.numpy.save(arrays, {build.ORIGINAL: build.weights_digest(input)})
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    print(f"{input}: {len(entries)} entries, {count:,} parameters, recognised as {name}")
    print(f"written to {path}; use it with")
    print(f"  --config.attention.weights={path} --config.attention.source={name}")


def _exported(metadata: Mapping[str, str], input: str) -> tuple[bool, dict, np.ndarray] | None:
    """(whether it has our names, the fields that fix what its weights mean, its betas).

    None for a file that `export` did not write. Raises UserError for one that was damaged.
    """
    if METADATA not in metadata:
        return None
    try:
        written = json.loads(metadata[METADATA])
        saved, names = ConfigDict(written["config"]), written["names"]
        found = {  # JSON knows no tuples
            f"model.{field}": tuple(value) if isinstance(value, list) else value
            for field, value in saved.model.items()
            if value
        }
        found |= {
            "data.scale": saved.data.scale,
            "data.resampling": saved.data.resampling,
            "diffusion.formulation": saved.diffusion.formulation,
        }
        return names == "ours", found, np.array(build.betas(saved), np.float32)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{input} must hold the configuration that it was exported with, found what cannot be "
            f"read ({' '.join(str(error).split())}); export it again."
        ) from error


def _agreed(config: ConfigDict, found: dict, input: str) -> ConfigDict:
    """The configuration with what only the file can tell; raises UserError where the two differ."""
    config = config.copy_and_resolve_references()
    different = []
    for name, value in found.items():
        group, field = name.split(".")
        if field not in config[group]:
            raise UserError(
                f"{input} must have been made with fields that there are here, found "
                f"{name}={value!r}; import it with the version that exported it."
            )
        expected = config[group][field]
        if field.partition("_")[0] in build.network(config).parts:  # shape of a part
            config[group][field] = value
        elif expected != value:
            different.append(validation.flag(name, value))
    if different:
        raise UserError(
            f"{input} was made with another configuration than this one; add "
            f"{' '.join(different)}, or take the configuration it was made with."
        )
    validation.validate(config)
    return config


def _check_schedule(config: ConfigDict, table: np.ndarray, input: str) -> None:
    betas = np.array(build.betas(config), np.float32)
    if betas.shape != table.shape or not np.allclose(betas, table, rtol=1e-4, atol=1e-8):
        raise UserError(
            f"{input} was trained with {len(table)} steps and betas from {table[0]:.3g} to "
            f"{table[-1]:.3g}, this configuration has {len(betas)} from {betas[0]:.3g} to "
            f"{betas[-1]:.3g}; set --config.diffusion.schedule, steps, beta_start and beta_end."
        )
