"""Public checkpoints as they are saved: recognised, measured, and turned there and back."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import sr3, srdiff
from golden.recipe import recipe
from tensor_files import flat

from yoda_jax.errors import UserError
from yoda_jax.weights import public

GOLDEN = Path(__file__).parents[1] / "golden"
KEYS = json.loads((GOLDEN / "sr3_keys.json").read_text()) | {
    name: content
    for name, content in json.loads((GOLDEN / "srdiff_keys.json").read_text()).items()
    if name != "tiny"
}
# The buffers that both public trainers register beside the network.
TABLES = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
BUFFERS = {name: np.linspace(0.1, 0.9, 5, dtype=np.float32) + i for i, name in enumerate(TABLES)}


def drawn_sr3() -> dict[str, np.ndarray]:
    entries = KEYS["tiny"]["entries"]
    return recipe([(name, tuple(shape)) for name, shape in entries.items()], seed=1234)


def drawn_rrdb() -> dict[str, np.ndarray]:
    entries = srdiff.drawn_entries()
    return {k.removeprefix("rrdb."): v for k, v in entries.items() if k.startswith("rrdb.")}


def lightning(model: dict) -> dict:
    """What SRDiff's trainer saves."""
    return {"global_step": 5, "optimizer_states": [{}], "state_dict": {"model": model}}


def prefixed(entries: dict) -> dict:
    return {f"denoise_fn.{name}": value for name, value in entries.items()}


def published(name: str) -> dict[str, np.ndarray]:
    """Every entry of a published checkpoint by shape, without its memory."""
    return {
        entry: np.broadcast_to(np.float32(0), shape)
        for entry, shape in KEYS[name]["entries"].items()
    }


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == expected[name].dtype
        np.testing.assert_array_equal(value, expected[name])


SAVED = {
    "sr3": lambda: (BUFFERS | prefixed(drawn_sr3()), drawn_sr3()),
    "srdiff": lambda: (lightning(BUFFERS | srdiff.drawn_entries()), srdiff.drawn_entries()),
    "rrdb": lambda: (lightning(drawn_rrdb()), drawn_rrdb()),
}
NETWORKS = {"sr3": sr3.network, "srdiff": srdiff.network, "rrdb": srdiff.encoder}


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_file_is_recognised_and_unwrapped(name):
    saved, expected = SAVED[name]()
    found, entries, betas = public.entries_of(flat(saved))
    assert found == name
    assert_same(entries, expected)
    if name == "rrdb":
        assert betas is None
    else:
        np.testing.assert_array_equal(betas, BUFFERS["betas"])


@pytest.mark.parametrize("name", SAVED)
def test_the_inner_dictionary_alone_is_the_same_file(name):
    saved, _ = SAVED[name]()
    inner = saved.get("state_dict", {}).get("model", saved)
    for form in (inner, {"state_dict": inner}, {"model": inner}):
        assert_same(public.entries_of(flat(form))[1], public.entries_of(flat(saved))[1])


@pytest.mark.parametrize(
    ("name", "image_size", "expected"),
    [
        (
            "sr3_16_128",
            128,
            {
                "features": 64,
                "multipliers": (1, 2, 4, 8, 8),
                "blocks": 2,
                "attention_resolutions": (16,),
            },
        ),
        (
            "sr3_64_512",
            512,
            {
                "features": 64,
                "multipliers": (1, 2, 4, 8, 16),
                "blocks": 1,
                "attention_resolutions": (),
            },
        ),
        (
            "tiny",
            32,
            {"features": 16, "multipliers": (1, 2, 2), "blocks": 1, "attention_resolutions": (8,)},
        ),
    ],
)
def test_sr3_tells_its_settings(name, image_size, expected):
    found = public.settings_of("sr3", published(name), image_size)
    assert found == {f"model.{field}": value for field, value in expected.items()} | {
        "model.name": "sr3",
        "data.resampling": "pil",
        "diffusion.formulation": "sr3",
    }


@pytest.mark.parametrize(
    ("name", "multipliers", "encoder", "scale"),
    [
        ("srdiff_celeb8x", (1, 2, 2, 4), (32, 8), 8),
        ("srdiff_df2k4x_17x64", (1, 2, 3, 4), (64, 17), 4),
    ],
)
def test_srdiff_and_its_encoder_tell_their_settings(name, multipliers, encoder, scale):
    entries = published(name)
    assert public.settings_of("srdiff", entries, 160) == {
        "model.name": "srdiff",
        "model.features": 64,
        "model.multipliers": multipliers,
        "model.encoder_features": encoder[0],
        "model.encoder_blocks": encoder[1],
        "model.encoder_skip": False,
        "data.scale": scale,
        "data.resampling": "srdiff",
        "diffusion.formulation": "srdiff",
        "diffusion.base": "bicubic",
    }
    alone = {k.removeprefix("rrdb."): v for k, v in entries.items() if k.startswith("rrdb.")}
    assert public.settings_of("rrdb", alone, 160) == {
        "model.name": "rrdb",
        "model.features": encoder[0],
        "model.blocks": encoder[1],
        "model.skip": False,
        "data.scale": scale,
        "mask.enabled": False,
    }


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("damage", ["missing", "scalar", "empty"])
def test_a_damaged_entry_never_ends_in_anything_but_a_sentence(name, damage):
    """Whichever entry it is; where settings still follow, loading finds it."""
    _, whole = SAVED[name]()
    shapes = shapes_of(name)
    for entry in whole:
        entries = dict(whole)
        if damage == "missing":
            del entries[entry]
        else:
            entries[entry] = np.zeros((0, 1, 1, 1) if damage == "empty" else (), np.float32)
        with pytest.raises(UserError) as error:
            public.settings_of(name, entries, 32)
            public.from_public(NETWORKS[name](), entries, shapes)
        assert entry in str(error.value) and "\n" not in str(error.value)


def shapes_of(name: str) -> dict:
    return jax.eval_shape(sr3.parameters) if name == "sr3" else srdiff.shapes_of(NETWORKS[name]())


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back_is_bit_equal(name):
    network, shapes = NETWORKS[name](), shapes_of(name)
    saved, _ = SAVED[name]()
    _, entries, _ = public.entries_of(flat(saved))
    params = public.from_public(network, entries, shapes)
    back = public.to_public(network, params)
    expected = prefixed(entries) if name == "sr3" else entries
    assert_same(back, expected)
    assert all(value.flags.c_contiguous for value in back.values())  # as a file holds them
    found, again, betas = public.entries_of(back)
    assert found == name and betas is None
    again = public.from_public(network, again, shapes)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
