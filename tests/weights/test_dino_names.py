"""Every public form of a backbone's file gives the same parameters; a wrong one loads nothing.

Names and shapes are those of the releases; the numbers are drawn.
"""

import argparse
import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from extras import needs_torch
from flax.traverse_util import flatten_dict
from golden.recipe import recipe
from tensor_files import save

from yoda_jax.errors import UserError
from yoda_jax.models.vit import VisionTransformer
from yoda_jax.weights.dino import (
    BACKBONES,
    backbone_entries,
    from_reference,
    load_backbone,
    official_names,
)

GOLDEN = Path(__file__).parents[1] / "golden"
KEYS = {
    "dino_vits8": json.loads((GOLDEN / "dino_vits8_keys.json").read_text()),
    "dino_resnet50": json.loads((GOLDEN / "resnet50_keys.json").read_text()),
}
TINY = VisionTransformer(patch=14, features=12, depth=2, heads=2, grid=3, layer_scale=True)
SUFFIXES = [".npz", ".safetensors", pytest.param(".pth", marks=needs_torch)]
HEAD = {
    "head.mlp.0.weight": (8, 4), "head.mlp.0.bias": (8,), "head.last_layer.weight_g": (6, 1),
    "head.last_layer.weight_v": (6, 8),
}  # fmt: skip


def zeros(keys, dtype=np.float32):
    return {name: np.zeros(shape, dtype) for name, shape in keys.items()}


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


@pytest.fixture(autouse=True)
def clean(tmp_path):
    """Weights of the published sizes do not stay on the disk."""
    yield
    for file in tmp_path.iterdir():
        file.unlink()


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
    entries = zeros({"cls_token": (1, 1, 4), "norm.bias": (4,), "blocks.0.mlp.fc1.bias": (16,)})
    for wrapped in (
        entries,
        training_checkpoint(entries),
        {"teacher": prefixed("module.backbone.", entries | zeros(HEAD))},
        {"state_dict": prefixed("module.", entries), "epoch": 3},
        {"model": entries | zeros({"head.weight": (10, 4), "head.bias": (10,)})},
        entries | {"mask_token": np.zeros((1, 4))},
    ):
        found = backbone_entries(wrapped)
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
        "scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"
    }.items():  # fmt: skip
        np.testing.assert_array_equal(
            block["downsample_bn"][ours], resnet[f"layer3.0.downsample.1.{theirs}"]
        )


@needs_torch
def test_training_checkpoint_of_a_resnet_gives_the_teacher(tmp_path):
    checkpoint = training_checkpoint(zeros(KEYS["dino_resnet50"], np.float16))
    save(tmp_path / "checkpoint.pth", checkpoint)
    params = load_backbone("dino_resnet50", tmp_path / "checkpoint.pth")[1]
    assert not any(leaf.any() for leaf in jax.tree.leaves(params))  # the student has ones


def dinov2_entries():
    """A tiny DINOv2 under its official names."""
    c = TINY.features
    keys = {"cls_token": (1, 1, c), "pos_embed": (1, 10, c), "mask_token": (1, c),
            "patch_embed.proj.weight": (c, 3, 14, 14), "patch_embed.proj.bias": (c,)}  # fmt: skip
    for block in ("blocks.0.", "blocks.1."):
        keys |= {f"{block}attn.qkv.weight": (3 * c, c), f"{block}attn.qkv.bias": (3 * c,),
                 f"{block}attn.proj.weight": (c, c), f"{block}attn.proj.bias": (c,),
                 f"{block}mlp.fc1.weight": (4 * c, c), f"{block}mlp.fc1.bias": (4 * c,),
                 f"{block}mlp.fc2.weight": (c, 4 * c), f"{block}mlp.fc2.bias": (c,)}  # fmt: skip
        keys |= {f"{block}{name}": (c,) for name in (
            "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"
        )}  # fmt: skip
    keys |= {"norm.weight": (c,), "norm.bias": (c,)}
    return recipe(list(keys.items()), 3, 1.3)


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


def refused(source, path, entries):
    """The one sentence of loading entries from path, after the checks that hold for each."""
    save(path, entries)
    with pytest.raises(UserError) as caught:
        load_backbone(source, path)
    message = str(caught.value)
    assert message.startswith(f"The entries of {path}, read as {source}, do not fit the network")
    assert "\n" not in message and message.endswith("the file was made for.")
    found, listed = re.search(r" in (\d+) places: (.*); choose", message).groups()
    assert len(listed.split("; ")) == min(int(found), 5)
    return int(found), listed


DAMAGE = {
    "missing": (
        lambda e: e.pop("blocks.1.norm2.bias"),
        "blocks.1.norm2.bias is missing",
    ),
    "extra": (
        lambda e: e.update(register_tokens=np.zeros((1, 4, 12), "f")),
        "register_tokens is unknown",
    ),
    "misshapen matrix": (
        lambda e: e.update({"blocks.0.mlp.fc1.weight": np.zeros((12, 48), "f")}),
        "blocks.0.mlp.fc1.weight has the shape (12, 48), expected (48, 12)",
    ),
    "misshapen patches": (
        lambda e: e.update({"patch_embed.proj.weight": np.zeros((12, 3, 16, 16), "f")}),
        "patch_embed.proj.weight has the shape (12, 3, 16, 16), expected (12, 3, 14, 14)",
    ),
    "flattened patches": (
        lambda e: e.update({"patch_embed.proj.weight": np.zeros((12, 588), "f")}),
        "patch_embed.proj.weight has the shape (12, 588), expected (12, 3, 14, 14)",
    ),
    "other grid": (
        lambda e: e.update(pos_embed=np.zeros((1, 17, 12), "f")),
        "pos_embed has the shape (1, 17, 12), expected (1, 10, 12)",
    ),
    "two class tokens": (
        lambda e: e.update(cls_token=np.zeros((2, 1, 12), "f")),
        "cls_token has the shape (2, 1, 12), expected (1, 1, 12)",
    ),
    "vector for a matrix": (
        lambda e: e.update({"blocks.0.attn.proj.weight": np.zeros(144, "f")}),
        "blocks.0.attn.proj.weight has the shape (144,), expected (12, 12)",
    ),
    "number for a vector": (
        lambda e: e.update({"blocks.0.ls1.gamma": np.float32(1)}),
        "blocks.0.ls1.gamma has the shape (), expected (12,)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_wrong_entry_is_named_with_both_shapes(damage, monkeypatch, tmp_path):
    monkeypatch.setitem(BACKBONES, "dinov2_vits14", TINY)
    spoil, named = DAMAGE[damage]
    entries = dinov2_entries()
    spoil(entries)
    assert refused("dinov2_vits14", tmp_path / "weights.npz", entries) == (1, named)


@pytest.mark.parametrize("rows", [None, 35])
def test_query_key_and_value_that_cannot_be_told_apart(rows, monkeypatch, tmp_path):
    monkeypatch.setitem(BACKBONES, "dinov2_vits14", TINY)
    bias = np.float32(0) if rows is None else np.zeros(rows, "f")
    entries = dinov2_entries() | {"blocks.0.attn.qkv.bias": bias}
    count, listed = refused("dinov2_vits14", tmp_path / "weights.npz", entries)
    assert count == 4 and "blocks.0.attn.qkv.bias is unknown" in listed


def vit_keys(width):
    """The entries of dino_vits8, or of DINO's ViTs of other widths."""
    return {
        name: tuple(size * width // 384 if size % 384 == 0 else size for size in shape)
        for name, shape in KEYS["dino_vits8"].items()
    }


OTHER_FILES = {
    "ViT-B for ViT-S": (
        "dino_vits8", vit_keys(768), "has the shape (768,), expected (384,)",
    ),
    "ViT-S for ViT-B": (
        "dino_vitb8", vit_keys(384), "fc1.weight has the shape (1536, 384), expected (3072, 768)",
    ),
    "patch 8 for patch 16": (
        "dino_vits16", vit_keys(384), "pos_embed has the shape (1, 785, 384), expected (1, 197,",
    ),
    "ResNet for ViT": ("dino_vits8", KEYS["dino_resnet50"], "blocks.0.mlp.fc1.bias is missing"),
    "ViT for ResNet": ("dino_resnet50", KEYS["dino_vits8"], "conv1.weight is missing"),
    "DINO for DINOv2": ("dinov2_vits14", KEYS["dino_vits8"], "blocks.0.ls1.gamma is missing"),
    "DINOv2 for DINO": (
        "dino_vits8",
        KEYS["dino_vits8"]
        | {f"blocks.{i}.ls{n}.gamma": (384,) for i in range(12) for n in (1, 2)}
        | {"mask_token": (1, 384), "pos_embed": (1, 1370, 384)}
        | {"patch_embed.proj.weight": (384, 3, 14, 14)},
        "blocks.0.ls1.gamma is unknown",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER_FILES)
def test_file_of_another_network_is_refused_by_its_first_five_entries(case, tmp_path):
    source, keys, named = OTHER_FILES[case]
    count, listed = refused(source, tmp_path / "weights.npz", zeros(keys, np.float16))
    assert count >= 2 and named in listed
