"""A file that does not fit its backbone loads nothing and is named by its entries."""

import re

import numpy as np
import pytest
from dino_entries import KEYS, TINY, dinov2_entries, zeros
from tensor_files import save

from yoda_jax.errors import UserError
from yoda_jax.weights.dino import BACKBONES, load_backbone

pytestmark = pytest.mark.usefixtures("clean")


def refused(source, path, entries):
    """The one sentence of loading entries from path, after the checks that hold for each."""
    save(path, entries)
    with pytest.raises(UserError) as caught:
        load_backbone(source, path)
    message = str(caught.value)
    assert message.startswith(f"The entries of {path}, read as {source}, do not fit the network")
    assert "\n" not in message and message.endswith("the file was made for.")
    found, listed = re.search(r" in (\d+) places: (.*); name a whole", message).groups()
    assert len(listed.split("; ")) == min(int(found), 5)
    return int(found), listed


DAMAGE = {
    "missing": (lambda e: e.pop("blocks.1.norm2.bias"), "blocks.1.norm2.bias is missing"),
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
    "ViT-B for ViT-S": ("dino_vits8", vit_keys(768), "has the shape (768,), expected (384,)"),
    "ViT-S for ViT-B": (
        "dino_vitb8",
        vit_keys(384),
        "fc1.weight has the shape (1536, 384), expected (3072, 768)",
    ),
    "patch 8 for patch 16": (
        "dino_vits16",
        vit_keys(384),
        "pos_embed has the shape (1, 785, 384), expected (1, 197,",
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
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_file_of_another_network_is_refused_by_its_first_five_entries(case, tmp_path):
    source, keys, named = OTHER_FILES[case]
    count, listed = refused(source, tmp_path / "weights.npz", zeros(keys, np.float16))
    assert count >= 2 and named in listed
