"""Records of a real folder of photographs: splits, bad pictures and settings."""

import os
from pathlib import Path

import numpy as np
import pytest
from albums import GOOD, configuration, photograph, records
from PIL import Image
from skimage import data

from yoda_jax.data.degrade import fit
from yoda_jax.data.photos import BadPicture
from yoda_jax.errors import UserError
from yoda_jax.jobs import precompute

BAD = ("a/cut.jpg", "notes.png", "thumb.png")


@pytest.fixture
def spoilt(album, tmp_path):
    """The same with a truncated JPEG, a text called .png and a tiny picture among them."""
    folder = tmp_path / "spoilt"
    (folder / "a").mkdir(parents=True)
    for name in GOOD:
        (folder / name).write_bytes((album / name).read_bytes())
    whole = (album / "a/china.jpg").read_bytes()
    (folder / "a/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.png").write_text("Not a picture at all.")
    Image.fromarray(data.coffee()[:20, :20]).save(folder / "thumb.png")
    return folder


def test_records_hold_every_picture_once(album, reference):
    train, manifest = records(reference, "train")
    held, held_manifest = records(reference, "eval")
    names = [example["name"] for example in train + held]
    assert sorted(names) == sorted(GOOD)
    assert (len(train), len(held)) == (4, 2)
    assert [m["pictures"] for m in (manifest, held_manifest)] == [4, 2]
    assert [m["skipped"] for m in (manifest, held_manifest)] == [[], []]
    for example in train + held:
        picture = np.array(Image.open(album / example["name"]).convert("RGB"))
        np.testing.assert_array_equal(example["hr"], fit(picture, 32))
        assert example["lr"].shape == (8, 8, 3) and example["attention"].shape == (1, 8, 8)


def test_held_out_pictures_are_not_trained_on(spoilt, tmp_path):
    """Also of tiles, of which a picture has many."""
    config = configuration(spoilt, data__crop="tiles", data__on_bad="skip", data__holdout=4)
    precompute.run(config, str(tmp_path))
    train, held = (records(tmp_path, split) for split in ("train", "eval"))
    names = [{example["name"] for example in part[0]} for part in (train, held)]
    assert not names[0] & names[1] and names[0] | names[1] == set(GOOD)
    assert len(train[0]) + len(held[0]) == sum(
        (h // 32) * (w // 32) for h, w, _ in (photograph(name).shape for name in GOOD)
    )


def test_own_evaluation_pictures_leave_all_others_to_training(album, tmp_path):
    precompute.run(configuration(album, data__eval="samples:photos/test"), str(tmp_path))
    assert len(records(tmp_path, "train")[0]) == len(GOOD)
    assert [e["name"] for e in records(tmp_path, "eval")[0]] == ["astronaut", "coffee"]


def test_bad_picture_stops_with_its_name(spoilt, tmp_path):
    for bad in BAD:
        folder = tmp_path / Path(bad).stem
        with pytest.raises(BadPicture) as caught:
            precompute.run(configuration(spoilt), str(folder))
        assert isinstance(caught.value, UserError) and caught.value.name == bad
        assert not list(folder.rglob("manifest.json"))
        (spoilt / bad).unlink()  # as the message says
    precompute.run(configuration(spoilt), str(tmp_path / "mended"))


def test_bad_pictures_are_skipped_counted_and_listed(spoilt, tmp_path):
    config = configuration(
        spoilt, data__on_bad="skip", data__eval="samples:photos/test", data__pictures_per_shard=4
    )
    precompute.run(config, str(tmp_path))
    train, manifest = records(tmp_path, "train")
    assert [example["name"] for example in train] == sorted(GOOD)
    assert (manifest["pictures"], manifest["examples"]) == (9, 6)
    assert len(manifest["files"]) == 3
    for bad, skipped in zip(BAD, manifest["skipped"], strict=True):
        assert bad in skipped
    assert "data.hr_size=32" in manifest["skipped"][2]


def test_only_bad_pictures_is_an_error(tmp_path):
    album = tmp_path / "thumbs"
    album.mkdir()
    for i in range(4):
        Image.fromarray(data.coffee()[:20, :20]).save(album / f"{i}.png")
    with pytest.raises(UserError) as caught:
        precompute.run(configuration(album, data__on_bad="skip"), str(tmp_path))
    folder = tmp_path / "records/train"
    for part in (str(album), "data.hr_size=32", "2 pictures were skipped", f"delete {folder}"):
        assert part in str(caught.value)
    assert not list((tmp_path / "records").rglob("manifest.json"))


CHANGES = {
    "attention__source": ("edges", "entropy"),
    "attention__cell": (4, 2),
    "attention__input_size": (32, 64),
    "data__scale": (4, 2),
    "data__hr_size": (32, 64),
    "data__resampling": ("pil", "matlab"),
    "data__crop": ("fit", "tiles"),
    "data__holdout": (2, 3),
    "data__pictures_per_shard": (1, 2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_setting_is_named_with_both_values(album, reference, name):
    before, after = CHANGES[name]
    with pytest.raises(UserError) as caught:
        precompute.run(configuration(album, **{name: after}), str(reference))
    field = name.replace("__", ".")
    for part in (f"{field}={before!r}", repr(after), str(reference), "--config.data.records"):
        assert part in str(caught.value)


def test_records_folder_has_precedence_over_the_workdir(album, tmp_path):
    config = configuration(album, data__records=str(tmp_path / "own"))
    precompute.run(config, str(tmp_path / "unused"))
    assert (tmp_path / "own/train/manifest.json").exists()
    assert not os.path.exists(tmp_path / "unused")
