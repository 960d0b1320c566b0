"""Every public form of a backbone's file gives the same parameters."""

import argparse
import dataclasses

import jax
import numpy as np
import pytest
from dino_entries import KEYS, TINY, TINY_REGISTERS, dinov2_entries, zeros
from extras import needs_torch
from flax.traverse_util import flatten_dict
from golden.recipe import recipe
from tensor_files import flat, save

from yoda_jax.weights.dino import (
    BACKBONES,
    backbone_entries,
    from_reference,
    load_backbone,
    official_names,
)
from yoda_jax.weights.foreign import read

pytestmark = pytest.mark.usefixtures("clean")
SUFFIXES = [".npz", ".safetensors", pytest.param(".pth", marks=needs_torch)]
HEAD = {
    "head.mlp.0.weight": (8, 4),
    "head.mlp.0.bias": (8,),
    "head.last_layer.weight_g": (6, 1),
    "head.last_layer.weight_v": (6, 8),
}


def prefixed(prefix, entries):
    return {f"{prefix}{name}": value for name, value in entries.items()}


def training_checkpoint(entries):
    """What DINO's main_dino.py saves; the student has other numbers than the teacher."""
    teacher = entries | zeros(HEAD)
    student = {name: np.asarray(value + 1) for name, value in teacher.items()}
    return {
        "student": prefixed("module.backbone.", student),
        "teacher": prefixed("backbone.", entries) | zeros(HEAD),
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=8),
        "dino_loss": {"center": np.zeros((1, 6), np.float32)},
        "fp16_scaler": {},
    }


def assert_equal(found, expected):
    found, expected = flatten_dict(found), flatten_dict(expected)
    assert found.keys() == expected.keys()
    for path, value in found.items():
        np.testing.assert_array_equal(value, expected[path], str(path))


def shapes_of(network, side):
    return jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, side, side, 3), "f"))[
        "params"
    ]


@pytest.fixture(scope="module")
def vit():
    return recipe(list(KEYS["dino_vits8"].items()), 1, 1.3)


@pytest.fixture(scope="module")
def resnet():
    return recipe(list(KEYS["dino_resnet50"].items()), 2, 1.0)


@pytest.fixture(scope="module")
def vit_params(vit):
    """Ours, from the same entries in memory."""
    shapes = shapes_of(BACKBONES["dino_vits8"], 224)
    return from_reference("entries", official_names(vit), shapes)


def test_published_vit_is_taken_whole_and_each_number_to_its_place(vit, vit_params):
    assert sum(leaf.size for leaf in jax.tree.leaves(vit_params)) == 21_670_272
    block, theirs = vit_params["blocks_7"], "blocks.7."
    for i, part in enumerate(("query", "key", "value")):
        rows = slice(384 * i, 384 * (i + 1))
        np.testing.assert_array_equal(
            block[part]["kernel"], vit[f"{theirs}attn.qkv.weight"][rows].T
        )
        np.testing.assert_array_equal(block[part]["bias"], vit[f"{theirs}attn.qkv.bias"][rows])
    np.testing.assert_array_equal(block["mlp1"]["kernel"], vit[f"{theirs}mlp.fc1.weight"].T)
    np.testing.assert_array_equal(block["norm2"]["scale"], vit[f"{theirs}norm2.weight"])
    kernel = vit_params["patch_embedding"]["kernel"].reshape(8, 8, 3, 384)
    np.testing.assert_array_equal(kernel[2, 5, 1], vit["patch_embed.proj.weight"][:, 1, 2, 5])
    np.testing.assert_array_equal(vit_params["positions"], vit["pos_embed"][0])
    np.testing.assert_array_equal(vit_params["class_token"], vit["cls_token"][0, 0])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_backbone_file_of_a_vit(suffix, vit, vit_params, tmp_path):
    save(tmp_path / f"vit{suffix}", vit)
    network, params = load_backbone("dino_vits8", tmp_path / f"vit{suffix}")
    assert network == BACKBONES["dino_vits8"]
    assert_equal(params, vit_params)


@needs_torch
def test_training_checkpoint_gives_the_teacher(vit, vit_params, tmp_path):
    save(tmp_path / "checkpoint.pth", training_checkpoint(vit))
    assert_equal(load_backbone("dino_vits8", tmp_path / "checkpoint.pth")[1], vit_params)


def test_entries_of_every_wrapping_are_the_backbone_alone():
    patches = {"patch_embed.proj.weight": (4, 3, 8, 8)}
    entries = zeros(patches | {"cls_token": (1, 1, 4), "blocks.0.mlp.fc1.bias": (16,)})
    for wrapped in (
        entries,
        training_checkpoint(entries),
        {"teacher": prefixed("module.backbone.", entries | zeros(HEAD))},
        {"state_dict": prefixed("module.", entries), "epoch": 3},
        {"model": entries | zeros({"head.weight": (10, 4), "head.bias": (10,)})},
        entries | {"mask_token": np.zeros((1, 4))},
    ):
        found = backbone_entries(flat(wrapped))
        assert found.keys() == entries.keys()
        assert_equal(found, entries)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_resnet_of_dino_and_of_torchvision(suffix, resnet, tmp_path):
    """torchvision's has a classifier as well."""
    path = tmp_path / f"resnet{suffix}"
    save(path, resnet | zeros({"fc.weight": (1000, 2048), "fc.bias": (1000,)}))
    network, params = load_backbone("dino_resnet50", path)
    assert network == BACKBONES["dino_resnet50"]
    # All entries but the counters of batches.
    sizes = [v.size for name, v in resnet.items() if not name.endswith("num_batches_tracked")]
    leaves = jax.tree.leaves(params)
    assert (len(leaves), sum(leaf.size for leaf in leaves)) == (len(sizes), sum(sizes))
    block = params["layer3_block0"]
    for ours, theirs in {"conv2": "conv2", "downsample_conv": "downsample.0"}.items():
        np.testing.assert_array_equal(
            block[ours]["kernel"], resnet[f"layer3.0.{theirs}.weight"].transpose(2, 3, 1, 0)
        )
    for ours, theirs in {
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "variance": "running_var",
    }.items():
        np.testing.assert_array_equal(
            block["downsample_bn"][ours], resnet[f"layer3.0.downsample.1.{theirs}"]
        )


@needs_torch
def test_training_checkpoint_of_a_resnet_gives_the_teacher(tmp_path):
    checkpoint = training_checkpoint(zeros(KEYS["dino_resnet50"], np.float16))
    save(tmp_path / "checkpoint.pth", checkpoint)
    params = load_backbone("dino_resnet50", tmp_path / "checkpoint.pth")[1]
    assert not any(leaf.any() for leaf in jax.tree.leaves(params))  # the student has ones


def hugging_face_entries(entries):
    """The same numbers as Hugging Face's Dinov2Model calls them."""
    renamed = {
        "embeddings.cls_token": entries["cls_token"],
        "embeddings.mask_token": entries["mask_token"],
        "embeddings.position_embeddings": entries["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": entries["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": entries["patch_embed.proj.bias"],
        "layernorm.weight": entries["norm.weight"],
        "layernorm.bias": entries["norm.bias"],
    }
    if "register_tokens" in entries:
        renamed["embeddings.register_tokens"] = entries["register_tokens"]
    for i in range(TINY.depth):
        theirs, official = f"encoder.layer.{i}", f"blocks.{i}"
        for leaf in ("weight", "bias"):
            thirds = np.split(entries[f"{official}.attn.qkv.{leaf}"], 3)
            for part, third in zip(("query", "key", "value"), thirds, strict=True):
                renamed[f"{theirs}.attention.attention.{part}.{leaf}"] = third
            renamed[f"{theirs}.attention.output.dense.{leaf}"] = entries[
                f"{official}.attn.proj.{leaf}"
            ]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                renamed[f"{theirs}.{name}.{leaf}"] = entries[f"{official}.{name}.{leaf}"]
        for n in (1, 2):
            renamed[f"{theirs}.layer_scale{n}.lambda1"] = entries[f"{official}.ls{n}.gamma"]
    return renamed


@pytest.mark.parametrize("prefix", ["", "dinov2.", "backbone."])
def test_hugging_face_names_are_the_official_network_but_for_positions(
    prefix, monkeypatch, tmp_path
):
    monkeypatch.setitem(BACKBONES, "dinov2_vits14", TINY)
    entries = dinov2_entries()
    save(tmp_path / "official.npz", entries)
    classifier = {"classifier.weight": np.zeros((3, 24), "f")} if prefix else {}
    save(
        tmp_path / "model.safetensors", prefixed(prefix, hugging_face_entries(entries)) | classifier
    )
    official, params = load_backbone("dinov2_vits14", tmp_path / "official.npz")
    ported, same = load_backbone("dinov2_vits14", tmp_path / "model.safetensors")
    assert_equal(same, params)
    assert official == TINY and official.offset == 0.1
    assert ported == dataclasses.replace(TINY, offset=0.0)
    random = np.random.default_rng(4)
    for shape, equal in {(42, 42): True, (56, 70): False}.items():  # trained on 42x42
        pictures = random.standard_normal((1, *shape, 3), np.float32)
        one, other = (
            np.asarray(network.apply({"params": params}, pictures, method="class_attention"))
            for network in (official, ported)
        )
        assert np.allclose(one, other, atol=1e-7) == equal
        assert np.abs(one - other).max() < 0.05


@pytest.mark.parametrize("form", [dict, hugging_face_entries])
@pytest.mark.parametrize("prefix", ["", "dinov2_with_registers."])
def test_registers_come_under_either_name_and_make_another_network(
    form, prefix, monkeypatch, tmp_path
):
    """Recognised by them; both releases interpolate positions in one way."""
    monkeypatch.setitem(BACKBONES, "dinov2_vits14", TINY)
    monkeypatch.setitem(BACKBONES, "dinov2_vits14_reg", TINY_REGISTERS)
    entries = dinov2_entries(registers=4)
    save(tmp_path / "file.npz", prefixed(prefix, form(entries)))
    found = read(tmp_path / "file.npz", 128)
    assert found.name == "dinov2_vits14_reg"
    network, params = load_backbone(found.name, tmp_path / "file.npz")
    assert network == TINY_REGISTERS
    np.testing.assert_array_equal(params["register_tokens"], entries["register_tokens"][0])
    plain = from_reference(
        "entries", official_names(without_registers(entries)), shapes_of(TINY, 42)
    )
    assert_equal({k: v for k, v in params.items() if k != "register_tokens"}, plain)


def without_registers(entries):
    return {k: v for k, v in entries.items() if k not in ("register_tokens", "mask_token")}


def test_the_releases_with_registers_have_four_and_are_else_the_plain_ones():
    for name in ("dinov2_vits14", "dinov2_vitb14"):
        plain, registers = BACKBONES[name], BACKBONES[f"{name}_reg"]
        assert registers == dataclasses.replace(plain, registers=4, offset=0.0, antialias=True)


def test_blocks_in_groups_as_dinov2s_trainer_saves_them_are_the_same(tmp_path):
    entries = dinov2_entries()
    grouped = {name.replace("blocks.1.", "blocks.1.1."): v for name, v in entries.items()}
    grouped = {name.replace("blocks.0.", "blocks.0.0."): v for name, v in grouped.items()}
    found = official_names(backbone_entries(prefixed("teacher.backbone.", grouped)))
    assert_equal(found, official_names(backbone_entries(entries)))
