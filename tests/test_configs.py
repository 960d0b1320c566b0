"""The shipped configurations: valid, of the same fields, and every field read."""

import ast
import dataclasses
import importlib
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from configs import data_sets, default, sr3_celeba_hq, sr3_ffhq, sr3_photos
from yoda_jax.configuration import fields
from yoda_jax.models.networks import NETWORKS

ROOT = Path(__file__).parents[1]
VARIANTS = {
    "attention_study": ("sampler", "trained"),
    "data_sets": data_sets.DATA_SETS,
    "sr3_ffhq": sr3_ffhq.VARIANTS,
    "sr3_celeba_hq": sr3_ffhq.VARIANTS,
    "sr3_photos": sr3_photos.VARIANTS,
}


def shipped():
    """FILE or FILE:VARIANT -> configuration, of every file in configs/."""
    for path in sorted((ROOT / "configs").glob("*.py")):
        get_config = importlib.import_module(f"configs.{path.stem}").get_config
        if path.stem in VARIANTS:
            for variant in VARIANTS[path.stem]:
                yield f"{path.stem}:{variant}", get_config(variant)
        else:
            yield path.stem, get_config()


SHIPPED = dict(shipped())


def fields_of(config):
    groups = [name for name, value in config.items() if hasattr(value, "items")]
    alone = {f".{name}" for name in config if name not in groups}
    return alone | {f"{group}.{field}" for group in groups for field in config[group]}


def last_name(node):
    """`b` of the expressions a.b and b."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def fields_read(source, groups):
    """GROUP.FIELD wherever it is read, also through a name that was bound to the group."""
    tree = ast.parse(source)
    bound = {group: {group} for group in groups}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            pairs = (
                zip(target.elts, node.value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                else [(target, node.value)]
            )
            for name, value in pairs:
                if isinstance(value, ast.Attribute) and value.attr in groups:
                    bound.setdefault(last_name(name), set()).add(value.attr)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = last_name(node.value)
            found |= {f"{group}.{node.attr}" for group in bound.get(owner, ())}
            if owner in ("config", "c"):
                found.add(f".{node.attr}")
    return found


def test_every_field_is_read_somewhere():
    config = default.get_config()
    groups = [name for name, value in config.items() if hasattr(value, "items")]
    read = set()
    for path in (ROOT / "yoda_jax").rglob("*.py"):
        read |= fields_read(path.read_text(), groups)
    # Networks take the fields of their names; a part's comes from the run that model.PART names.
    for network in NETWORKS.values():
        fields = [field.name for field in dataclasses.fields(network)]
        read |= {f"model.{name}" for name in (*fields, *network.parts)}
    assert fields_of(config) <= read


def test_checks_name_fields_that_exist():
    named = {*fields._CHOICES, *(name for names in fields._RANGES.values() for name in names)}
    assert named <= fields_of(default.get_config())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_are_valid_and_have_no_field_of_their_own(name):
    fields.validate(SHIPPED[name], SHIPPED[name].mode)
    assert fields_of(SHIPPED[name]) == fields_of(default.get_config())


# Crop, HR size, scale and border of the methods that report on each.
PREPARATION = {
    "ffhq": ("fit", 128, 8, "pil"),
    "celeba_hq": ("fit", 128, 8, "pil"),
    "celeba": ("fit", 160, 8, "matlab"),
    "df2k": ("tiles", 160, 4, "matlab"),
    "div2k": ("tiles", 160, 4, "matlab"),
}


@pytest.mark.parametrize("name", data_sets.DATA_SETS)
def test_preparation_is_that_of_the_field(name):
    c = data_sets.get_config(name).data
    assert (c.crop, c.hr_size, c.scale, c.resampling) == PREPARATION[name]
    assert c.stride == c.hr_size


@pytest.mark.parametrize("name", [name for name in SHIPPED if ":" in name])
def test_variants_have_folders_of_their_own_and_sources_that_exist(name):
    config, (file, variant) = SHIPPED[name], name.split(":")
    if file == "data_sets":
        assert config.mode == "precompute"
        assert config.data.records == config.workdir == f"records/{variant}"
    else:
        assert config.workdir.replace("/", "_") == f"runs_{file}_{variant}"
        assert config.data.records == ""
    if config.data.train.startswith("tfds:"):  # TFDS knows it, and it is not smaller than asked for
        tfds_name, _, size = config.data.train.removeprefix("tfds:").partition("/")
        builder = tfds.builder_cls(tfds_name)
        assert not size or size in builder.builder_configs
        assert not size.isdigit() or int(size) >= config.data.hr_size


def test_folders_are_asked_for_and_catalogued_sets_are_not():
    asked = {name for name in data_sets.DATA_SETS if not data_sets.get_config(name).data.train}
    assert asked == {"ffhq", "df2k"}
    with pytest.raises(ValueError, match="--config.data.train is not set"):
        fields.require_source(data_sets.get_config("df2k"))


@pytest.mark.parametrize(
    ("get_config", "known"),
    [
        (data_sets.get_config, "data sets ffhq, celeba_hq, celeba, df2k, div2k, found"),
        (sr3_ffhq.get_config, "variants 16_64, 16_128, 16_128_large, 64_256, 64_512, found"),
        (sr3_celeba_hq.get_config, "variants 16_64, 16_128, 16_128_large, 64_256, 64_512, found"),
        (sr3_photos.get_config, "variants df2k, div2k, found"),
    ],
)
def test_unknown_name_lists_the_known(get_config, known):
    for name in ("", "imagenet"):
        with pytest.raises(ValueError, match=f"{known} '{name}'"):
            get_config(name)


def test_larger_faces_come_from_larger_pictures():
    trained_on = {v: sr3_celeba_hq.get_config(v).data.train for v in sr3_ffhq.VARIANTS}
    assert trained_on.pop("64_512") == "tfds:celeb_a_hq/512"
    assert set(trained_on.values()) == {"tfds:celeb_a_hq/256"}
