"""Other people's files: which network one is of, whoever named and wrapped it, or why none."""

import re

import jax
import numpy as np
import pytest
from extras import needs_torch
from golden import sr3, srdiff
from public_weights import sr3_entries
from rrdb_entries import basicsr, numbered, rrdb
from tensor_files import flat, save

from yoda_jax.errors import UserError
from yoda_jax.models.rrdb import RRDBNet
from yoda_jax.weights.foreign import Checkpoint, read


def prefixed(prefix, entries):
    return {f"{prefix}{name}": value for name, value in entries.items()}


def alone(entries):
    """The UNet as saved by forks that leave the diffusion around it away."""
    return {
        name.removeprefix("denoise_fn."): value
        for name, value in entries.items()
        if name.startswith("denoise_fn.")
    }


NETWORKS = {"sr3": sr3_entries, "srdiff": srdiff.drawn_entries, "rrdb": rrdb}
TRAINERS = {
    "DataParallel": lambda e: prefixed("module.", e),
    "Lightning": lambda e: {
        "epoch": 4,
        "pytorch-lightning_version": "2.1",
        "state_dict": prefixed("netG.", e) | prefixed("netD.", {"conv.weight": np.ones(3, "f")}),
        "optimizer_states": [{"state": {}, "param_groups": [{"betas": (0.9, 0.999)}]}],
    },
    "torch.compile": lambda e: prefixed("_orig_mod.", e),
    "compiled DataParallel within Lightning": lambda e: {
        "state_dict": prefixed("model.module._orig_mod.", e)
    },
    "DeepSpeed": lambda e: {"module": prefixed("model.", e), "global_steps": 7, "ds_version": "1"},
    "BasicSR": lambda e: {"params": {k: v + 1 for k, v in e.items()}, "params_ema": e},
    "BasicSR without an average": lambda e: {"params": prefixed("module.", e)},
    "ema_pytorch": lambda e: {
        "step": 5,
        "model": {k: v + 1 for k, v in e.items()},
        "ema": prefixed("online_model.", {k: v + 1 for k, v in e.items()})
        | prefixed("ema_model.", e)
        | {"initted": np.array(True), "step": np.array(5)},
    },
    "AveragedModel": lambda e: {"n_averaged": np.array(3)} | prefixed("module.", e),
    "a dictionary of one's own": lambda e: {
        "nets": {"generator": {"weights": e}},
        "args": {"x": 1},
    },
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "suffix", [".safetensors", pytest.param(".pth", marks=needs_torch)], ids=["flat", "nested"]
)
def test_every_trainers_file_is_the_network_alone(name, suffix, tmp_path):
    entries = NETWORKS[name]()
    plain = read(save(tmp_path / "plain.safetensors", entries), 32)
    assert isinstance(plain, Checkpoint) and plain.settings["model.name"] == name
    for trainer, wrap in TRAINERS.items():
        content = wrap(entries)
        if suffix == ".safetensors":  # which knows tensors alone, and no dictionaries
            content = flat(content)
        found = read(save(tmp_path / f"file{suffix}", content), 32)
        assert found.settings == plain.settings, trainer
        assert found.entries.keys() == plain.entries.keys(), trainer
        for key, value in found.entries.items():
            np.testing.assert_array_equal(value, plain.entries[key], f"{trainer} {key}")
        assert (found.betas is None) == (plain.betas is None), trainer


def test_an_sr3_unet_alone_is_the_same_network_without_its_schedule(tmp_path):
    whole = read(save(tmp_path / "whole.npz", sr3_entries()), 32)
    for i, wrap in enumerate((dict, TRAINERS["DataParallel"])):
        found = read(save(tmp_path / f"{i}.npz", wrap(alone(sr3_entries()))), 32)
        assert found.settings == whole.settings and found.betas is None
        jax.tree.map(np.testing.assert_array_equal, found.entries, whole.entries)


def test_srdiff_without_its_encoder_says_so(tmp_path):
    entries = srdiff.drawn_entries()
    without = {name: value for name, value in entries.items() if not name.startswith("rrdb.")}
    for i, content in enumerate((without, alone(entries))):
        with pytest.raises(
            UserError, match=r"its encoder \(rrdb.\*\), found no .*; save the whole"
        ):
            read(save(tmp_path / f"{i}.npz", content), 32)


@pytest.mark.parametrize("doublings", [2, 3])
def test_three_codes_names_of_rrdb_are_one_network(doublings, tmp_path):
    entries = rrdb(features=6, blocks=2, doublings=doublings)
    for i, names in enumerate((dict, basicsr, numbered)):
        found = read(save(tmp_path / f"{i}.npz", names(entries)), 32)
        assert found.settings == {
            "model.name": "rrdb",
            "model.features": 6,
            "model.blocks": 2,
            "model.skip": False,
            "data.scale": 2**doublings,
            "mask.enabled": False,
        }
        assert found.entries.keys() == entries.keys()
        for key, value in found.entries.items():
            np.testing.assert_array_equal(value, entries[key])


def test_published_names_of_real_esrgan_with_its_23_blocks(tmp_path):
    entries = {
        name: np.broadcast_to(np.float32(0), value.shape)
        for name, value in basicsr(rrdb(features=64, blocks=23)).items()
    }
    assert len(entries) == 702 and entries["body.22.rdb3.conv5.weight"].shape == (64, 192, 3, 3)
    half = {name: value.astype(np.float16) for name, value in entries.items()}
    file = save(tmp_path / "RealESRGAN_x4plus.npz", prefixed("params_ema.", half))
    found = read(file, 128)
    assert found.settings["model.blocks"] == 23 and found.settings["data.scale"] == 4
    network = RRDBNet(64, 23, 4)
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 4, 4, 3), "f"))
    params = found.parameters(network, shapes["params"])
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 16_697_987
    (tmp_path / "RealESRGAN_x4plus.npz").unlink()


@needs_torch
@pytest.mark.parametrize("names", [dict, basicsr, numbered])
def test_rrdb_gives_the_picture_of_the_network_in_pytorch(names, tmp_path):
    """Written here from its description: RGB in [0, 1], nearest doubling, slope 0.2, weight 0.2."""
    import torch
    from torch.nn import functional

    entries = rrdb(features=6, blocks=2)
    tensors = {name: torch.from_numpy(value) for name, value in entries.items()}

    def conv(name, x):
        return functional.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1)

    def leaky(x):
        return torch.where(x > 0, x, 0.2 * x)

    def dense(name, x):
        seen = [x]
        for k in range(1, 5):
            seen.append(leaky(conv(f"{name}.conv{k}", torch.cat(seen, 1))))
        return x + 0.2 * conv(f"{name}.conv5", torch.cat(seen, 1))

    picture = np.random.default_rng(1).uniform(0, 1, (1, 5, 7, 3)).astype("f")
    first = conv("conv_first", torch.from_numpy(picture).permute(0, 3, 1, 2))
    x = first
    for block in range(2):
        y = x
        for i in (1, 2, 3):
            y = dense(f"RRDB_trunk.{block}.RDB{i}", y)
        x = x + 0.2 * y
    x = first + conv("trunk_conv", x)
    for i in (1, 2):
        x = leaky(conv(f"upconv{i}", x.repeat_interleave(2, 2).repeat_interleave(2, 3)))
    expected = conv("conv_last", leaky(conv("HRconv", x))).permute(0, 2, 3, 1).numpy().clip(0, 1)
    assert 0.05 < expected.std()

    network = RRDBNet(features=6, blocks=2, scale=4)
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 4, 4, 3), "f"))
    found = read(save(tmp_path / "file.npz", names(entries)), 32)
    params = found.parameters(network, shapes["params"])
    picture = network.apply({"params": params}, 2 * picture - 1)
    np.testing.assert_allclose((picture + 1) / 2, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        (rrdb(channels=12), "found 12 channels, a growth of 2 and 2 doublings"),
        (rrdb(growth=32), "found 3 channels, a growth of 32 and 2 doublings"),
        (rrdb(doublings=1), "found 3 channels, a growth of 2 and 1 doublings"),
        (rrdb(doublings=4), "found 3 channels, a growth of 2 and 4 doublings"),
    ],
)
@pytest.mark.parametrize("names", [dict, basicsr, numbered])
def test_an_rrdb_that_is_another_network_is_told_by_its_sizes(names, entries, found, tmp_path):
    with pytest.raises(UserError) as error:
        read(save(tmp_path / "file.npz", names(entries)), 32)
    message = str(error.value)
    assert found in message and "\n" not in message
    assert message.endswith(
        "name a file of scale 4 or 8 without pixel-unshuffle, such as RealESRGAN_x4plus.pth."
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(name, number, tmp_path):
    entries = {key: value.copy() for key, value in NETWORKS[name]().items()}
    spoilt = [key for key in entries if key.endswith("conv_last.weight") or "final_conv" in key][0]
    entries[spoilt].flat[-1] = number
    found = read(save(tmp_path / "file.npz", entries), 32)
    network, shapes = {
        "sr3": lambda: (sr3.network(), jax.eval_shape(sr3.parameters)),
        "srdiff": lambda: (srdiff.network(), srdiff.shapes_of(srdiff.network())),
        "rrdb": lambda: (RRDBNet(4, 1, 4), srdiff.shapes_of(RRDBNet(4, 1, 4))),
    }[name]()
    with pytest.raises(UserError, match="must be finite, found NaN or infinite .* 1 of them") as e:
        found.parameters(network, shapes)
    assert f": {spoilt.removeprefix('denoise_fn.')};" in str(e.value).replace("denoise_fn.", "")


@pytest.mark.parametrize(
    ("content", "first"),
    [
        (
            {"epoch": np.array(3), "iter": np.array(40)} | prefixed("opt.", {"lr": np.ones(1)}),
            "epoch, iter, opt.lr;",
        ),
        (
            prefixed("layer", {f"{i}.weight": np.ones(1) for i in range(9)}),
            "layer0.weight, layer1.weight, layer2.weight, layer3.weight, layer4.weight;",
        ),
        # SwinIR and SRResNet of BasicSR begin like RRDB.
        ({"conv_first.weight": np.ones((4, 3, 3, 3))}, "conv_first.weight;"),
        ({}, "(none);"),
    ],
)
def test_a_foreign_file_is_named_by_its_first_entries(content, first, tmp_path):
    file = save(tmp_path / "file.npz", content)
    with pytest.raises(UserError, match=f"^{re.escape(file)} must be .* SR3, SRDiff or RRDB") as e:
        read(file, 32)
    assert first in str(e.value) and "\n" not in str(e.value)
