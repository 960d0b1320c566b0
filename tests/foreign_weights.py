"""Small files of weights of every format and recognised network, and what reads them."""

import argparse
import functools
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy

from yoda_jax.weights import foreign, tensor_file


def reader(path: Path) -> Callable[[bytes], None]:
    """Reads a file, written to this path, as `import` does up to the network."""

    def read(file: bytes) -> None:
        path.write_bytes(file)
        tensor_file.weights_digest(path)
        found = foreign.read(path, 32)
        assert all(isinstance(value, np.ndarray) for value in found.entries.values())

    return read


def networks() -> list[dict]:
    """One of each that is recognised: few entries, which tell the settings."""
    array = functools.partial(np.ones, dtype=np.float32)
    sr3 = {"betas": np.linspace(1e-6, 1e-2, 8), "denoise_fn.noise_level_mlp.1.weight": array(2)}
    sr3 |= {"denoise_fn.downs.0.bias": array(2), "denoise_fn.downs.2.conv.weight": array(2)}
    sr3 |= {f"denoise_fn.downs.{i}.res_block.block1.block.3.bias": array(2 * i) for i in (1, 3)}
    rrdb = {"conv_first.weight": array((4, 3, 3, 3)), "conv_first.bias": array(4)}
    rrdb |= {f"RRDB_trunk.{i}.RDB1.conv1.weight": array(2) for i in (0, 1)}
    rrdb |= {"RRDB_trunk.0.RDB1.conv1.bias": array(2)}
    rrdb |= {f"upconv{i}.weight": array((4, 4, 3, 3)) for i in (1, 2)}
    srdiff = {f"rrdb.{name}": value for name, value in rrdb.items()}
    srdiff |= {"denoise_fn.mlp.0.weight": array((8, 2)), "upconv3.weight": array(1)}
    srdiff |= {"denoise_fn.cond_proj.weight": array((2, 2, 8, 8))}
    srdiff |= {f"denoise_fn.downs.{i}.0.block1.block.1.bias": array(4) for i in (0, 1)}
    numbered = {"1.sub.0.RDB1.conv1.0.weight": array(2), "0.weight": array((4, 3, 3, 3))}
    vit = {"patch_embed.proj.weight": array((384, 1, 1, 14)), "blocks.11.norm1.weight": array(2)}
    vit |= {"blocks.0.ls1.gamma": array(2), "blocks.0.attn.qkv.weight": array((3, 2))}
    return [sr3, rrdb, srdiff, numbered, vit]


def safetensors_files() -> list[bytes]:
    """One of each network, and one that was exported."""
    exported = {
        "names": "ours",
        "config": {
            "model": {"name": "sr3", "features": 2, "attention_resolutions": [8]},
            "data": {"hr_size": 32, "scale": 4, "resampling": "pil"},
            "diffusion": {"formulation": "sr3", "schedule": "linear", "steps": 8}
            | {"beta_start": 0.1, "beta_end": 0.2},
        },
    }
    metadata = {"yoda_jax": json.dumps(exported), "yoda_jax.original_sha256": "00" * 32}
    small = {"w": np.ones((2, 3), np.float16), "n": np.arange(3)}
    files = [safetensors.numpy.save(network) for network in networks()]
    return [*files, safetensors.numpy.save(small, metadata)]


def npzs() -> list[bytes]:
    """Stored and compressed archives."""
    files = []
    for save, network in zip((np.savez, np.savez_compressed) * 3, networks(), strict=False):
        stream = io.BytesIO()
        save(stream, **network, whole=np.arange(3), text=np.array(["a", "b"]))
        files.append(stream.getvalue())
    return files


def torches() -> list[bytes]:
    """Archives and legacy streams, half of them with dictionaries in dictionaries."""
    import torch

    files = []
    for number, network in enumerate(networks()):
        tensors = {name: torch.from_numpy(value) for name, value in network.items()}
        tensors["half"] = torch.ones(2, 2, dtype=torch.bfloat16).t()
        content = {"state_dict": tensors, "args": argparse.Namespace(lr=0.1), "epoch": 3}
        for zipped in (True, False):
            stream = io.BytesIO()
            held = content if number % 2 else tensors
            torch.save(held, stream, _use_new_zipfile_serialization=zipped)
            files.append(stream.getvalue())
    return files


def onnxes() -> list[bytes]:
    """Graphs with what constant folding leaves."""
    import onnx
    from onnx import helper

    files = []
    for network in networks():
        arrays = {name: value for name, value in network.items() if value.size < 999}
        arrays |= {"onnx::MatMul_1": np.ones((4, 5), "f"), "onnx::Slice_2": np.arange(4)}
        arrays |= {"onnx::Concat_7": np.ones((1, 1, 18), "f")}
        arrays |= {"onnx::Reshape_12": np.ones((1, 4, 18), "f")}
        nodes = [
            ("Reshape", "/embeddings/Reshape_1", ["onnx::Reshape_12", "shape"]),
            ("Concat", "/embeddings/Concat_6", ["onnx::Concat_7", "patches"]),
            ("MatMul", "/layer.0/fc1/MatMul", ["x", "onnx::MatMul_1"]),
        ]
        graph = helper.make_graph(
            [
                helper.make_node(op, inputs, [f"{name}_out"], name=name)
                for op, name, inputs in nodes
            ],
            "graph",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
        )
        files.append(helper.make_model(graph).SerializeToString())
    return files


def split_zip(file: bytes) -> list[bytes]:
    """Names and contents in turn."""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        members = [(name.encode(), archive.read(name)) for name in archive.namelist()]
    return [part for member in members for part in member]


def join_zip(parts: list[bytes]) -> bytes:
    """An archive of names and contents in turn."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in zip(parts[::2], parts[1::2], strict=False):
            archive.writestr(name.decode("latin-1").replace("\0", "0") or "x", content)
    return stream.getvalue()
