"""Names and shapes of the releases of DINO, and a tiny DINOv2; the numbers are drawn."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from golden.recipe import recipe

from yoda_jax.models.vit import VisionTransformer

GOLDEN = Path(__file__).parent / "golden"
KEYS = {
    "dino_vits8": json.loads((GOLDEN / "dino_vits8_keys.json").read_text()),
    "dino_resnet50": json.loads((GOLDEN / "resnet50_keys.json").read_text()),
}
TINY = VisionTransformer(patch=14, features=12, depth=2, heads=2, grid=3, layer_scale=True)
TINY_REGISTERS = dataclasses.replace(TINY, registers=4, offset=0.0, antialias=True)


def zeros(keys, dtype=np.float32):
    return {name: np.zeros(shape, dtype) for name, shape in keys.items()}


def dinov2_entries(registers=0):
    """A tiny DINOv2 under its official names."""
    c = TINY.features
    keys = {
        "cls_token": (1, 1, c),
        "pos_embed": (1, 10, c),
        "mask_token": (1, c),
        "patch_embed.proj.weight": (c, 3, 14, 14),
        "patch_embed.proj.bias": (c,),
    }
    if registers:
        keys["register_tokens"] = (1, registers, c)
    for block in ("blocks.0.", "blocks.1."):
        keys |= {
            f"{block}attn.qkv.weight": (3 * c, c),
            f"{block}attn.qkv.bias": (3 * c,),
            f"{block}attn.proj.weight": (c, c),
            f"{block}attn.proj.bias": (c,),
            f"{block}mlp.fc1.weight": (4 * c, c),
            f"{block}mlp.fc1.bias": (4 * c,),
            f"{block}mlp.fc2.weight": (c, 4 * c),
            f"{block}mlp.fc2.bias": (c,),
        }
        keys |= {
            f"{block}{name}": (c,)
            for name in (
                "norm1.weight",
                "norm1.bias",
                "norm2.weight",
                "norm2.bias",
                "ls1.gamma",
                "ls2.gamma",
            )
        }
    keys |= {"norm.weight": (c,), "norm.bias": (c,)}
    return recipe(list(keys.items()), 3, 1.3)
