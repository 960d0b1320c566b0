"""The flags that an import asks for are accepted, whatever the configuration and the network.

They go through the parser of the command line and the checks that it makes first.
"""

import importlib
import json
import re
import shlex
import sys

import numpy as np
import pytest
import safetensors.numpy
from absl import flags
from golden import srdiff
from ml_collections import config_flags
from public_weights import configuration, sr3_entries
from rrdb_entries import basicsr, rrdb
from tensor_files import save

from yoda_jax.configuration import fields, inference
from yoda_jax.diffusion.schedule import SCHEDULES
from yoda_jax.errors import UserError
from yoda_jax.jobs.import_weights import _agreed
from yoda_jax.weights import foreign

CONFIGURATIONS = ["default", "demo", "sr3_ffhq", "srdiff_small", "srdiff_df2k", "rrdb_small"]


def exported(name):
    """A file of `export` as earlier versions wrote it too; its entries do not matter here."""
    config = configuration(name).to_dict()
    config["data"]["border"] = config["data"].pop("resampling")
    text = json.dumps({"names": "ours", "step": 0, "config": config})
    return safetensors.numpy.save({"stem": np.ones(1, "f")}, {foreign.METADATA: text})


def srdiff_entries():
    betas = np.array(SCHEDULES["cosine"](100, 0, 0), "f")
    return {"betas": betas} | srdiff.drawn_entries()


FILES = {
    "sr3": sr3_entries,
    "srdiff": srdiff_entries,
    "rrdb": lambda: rrdb(features=6, blocks=23),
    "BasicSR's rrdb of 8x": lambda: basicsr(rrdb(doublings=3)),
    "exported sr3": lambda: exported("sr3"),
    "exported srdiff": lambda: exported("srdiff"),
    "exported rrdb": lambda: exported("rrdb"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = {name: folder / f"{i}.safetensors" for i, name in enumerate(FILES)}
    for name, path in paths.items():
        content = FILES[name]()
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save(path, {key: np.ascontiguousarray(v) for key, v in content.items()})
    return paths


def agreed(config, file):
    return _agreed(config, foreign.read(file, config.data.hr_size), str(file))


def followed(config, message):
    """The configuration with all flags of a message, as the command line sets them."""
    given = re.findall(r'"--config[^"]+"|--config\.[\w.]+=[^\s,;]+', message)
    assert given
    values, line = flags.FlagValues(), ["program", *shlex.split(" ".join(given))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", line)  # where ml_collections looks for the fields to define
        config_flags.DEFINE_config_dict("config", config.lock(), flag_values=values)
        values(line)
    fields.validate(config)
    return config


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("source", CONFIGURATIONS)
def test_following_the_advice_once_is_enough(name, source, files):
    module = importlib.import_module(f"configs.{source}")
    config = module.get_config("16_128") if source == "sr3_ffhq" else module.get_config()
    with pytest.raises(UserError, match="another configuration than this one; add") as error:
        agreed(config, files[name])
    config = followed(config, str(error.value))
    ours = agreed(config, files[name])
    assert inference.method(ours).network == inference.method(agreed(ours, files[name])).network
    if "sr3" in name:  # at the level that it was trained at, a quarter of the size
        assert ours.model.attention_resolutions == (ours.data.hr_size // 4,)
    if "srdiff" in name:
        assert ours.diffusion.schedule == "cosine" and ours.diffusion.steps == 100


def test_groups_are_guessed_only_where_those_given_cannot_be_and_it_is_said(files):
    config = configuration(**{"model.groups": 32})
    with pytest.raises(UserError) as error:
        agreed(config, files["sr3"])
    message = str(error.value)
    assert "--config.model.groups=16 (model.groups is not in the file: take norm_groups" in message
    assert agreed(followed(config, message), files["sr3"]).model.groups == 16
    assert agreed(configuration(**{"model.groups": 4}), files["sr3"]).model.groups == 4


@pytest.mark.parametrize("name", ["linear", "quad", "warmup10", "warmup50", "const", "cosine"])
def test_every_schedule_is_told_by_its_table(name, tmp_path):
    betas = np.array(SCHEDULES[name](300, 1e-5, 0.07), "f")
    file = save(tmp_path / "file.npz", sr3_entries() | {"betas": betas})
    config = configuration()
    with pytest.raises(UserError) as error:
        agreed(config, file)
    ours = agreed(followed(config, str(error.value)), file)
    np.testing.assert_allclose(inference.betas(ours), betas, rtol=1e-5)


@pytest.mark.parametrize("betas", [np.linspace(0, 1, 50) ** 3, np.float32(1), np.zeros((2, 2))])
def test_a_table_of_no_schedule_is_refused(betas, tmp_path):
    file = save(tmp_path / "file.npz", sr3_entries() | {"betas": betas.astype("f")})
    with pytest.raises(UserError, match="one of the schedules linear, quad, .*; take another"):
        agreed(configuration(), file)


def test_a_schedule_said_in_other_fields_is_the_same_one():
    """The cosine has no use for the first and the last beta."""
    config = configuration("srdiff", **{"diffusion.beta_end": 0.5})
    config.model.update(multipliers=(1, 2, 2))
    settings = {"model.name": "srdiff", "diffusion.schedule": "cosine", "diffusion.beta_end": 0.1}
    found = foreign.Checkpoint({}, settings, None, "ours")
    assert _agreed(config, found, "file").diffusion.beta_end == 0.5
