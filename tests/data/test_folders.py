"""Which pictures below folders are used: each of them once, and what is not used is said."""

import logging
import os

import numpy as np
import pytest
from PIL import Image
from skimage import data

from yoda_jax.data import folders
from yoda_jax.data.photos import open_source
from yoda_jax.errors import UserError

PHOTO = np.ascontiguousarray(data.coffee()[::16, ::16])  # 25 x 38 x 3


def names_of(spec):
    return [name for name, _ in open_source(spec).files]


def album(root, *names):
    """Other pictures in PNG under these names, whatever their endings."""
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(PHOTO, index, axis=0)).save(root / name, "PNG")
    return root


@pytest.fixture
def said(caplog):
    folders._warn_once.cache_clear()
    caplog.set_level(logging.INFO, logger="absl")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def test_every_ending_of_a_readable_kind_is_used(tmp_path):
    kinds = {"jfif": "JPEG", "jpe": "JPEG", "GIF": "GIF", "avif": "AVIF", "Jp2": "JPEG2000"}
    kinds |= {"mpo": "JPEG", "apng": "PNG", "pgm": "PPM", "j2k": "JPEG2000"}
    if "AVIF" not in folders.FORMATS:
        del kinds["avif"]
    for ending, kind in kinds.items():
        Image.fromarray(PHOTO).save(tmp_path / f"x.{ending}", kind)
    source = open_source(f"folder:{tmp_path}")
    assert [name for name, _ in source.files] == sorted(f"x.{ending}" for ending in kinds)
    for _, load in source.read(0, len(source)):
        assert load().shape == PHOTO.shape


def test_what_cannot_be_read_is_counted_and_named_once(tmp_path, said):
    album(tmp_path, "a.png", "b.HEIC", "c/d.heic", "e.CR2", "f.psd", "notes.txt", "film.mp4")
    for _ in range(2):
        assert names_of(f"folder:{tmp_path}") == ["a.png"]
    assert said().count("4 pictures below") == 1
    assert "1 .cr2, 2 .heic, 1 .psd" in said() and "convert" in said()
    album(tmp_path / "raw", "a.nef")
    with pytest.raises(UserError, match=r"must hold pictures .* found only others: 1 \.nef"):
        open_source(f"folder:{tmp_path}/raw")


SYSTEM = ("@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "__MACOSX", "Thumbs", "@Recycle")
SYSTEM += ("thumbnails", "LOST.DIR", "System Volume Information")


@pytest.mark.parametrize("folder", [*SYSTEM, ".thumbnails", ".@__thumb", ".Trash-1000"])
def test_what_systems_keep_beside_pictures_is_left_out(folder, tmp_path, said):
    album(tmp_path, "a.png", f"{folder}/a.png", f"b/{folder}/c/a.jpg", "b/._c.png", "@home/a.png")
    assert names_of(f"folder:{tmp_path}") == ["@home/a.png", "a.png"]
    assert folder.startswith(".") or f"'{folder}': 2" in said()
    # Named itself, a folder is taken for what it is.
    assert names_of(f"folder:{tmp_path}/{folder}") == ["a.png"]


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    root = album(tmp_path / "root", "a.png", "sub/b.png")
    far = album(tmp_path / "far", "c.png", "deeper/d.png")
    (root / "linked").symlink_to(far)
    (root / "loop").symlink_to(root)
    (far / "deeper/back").symlink_to(root)
    (far / "own").symlink_to(far)
    (root / "nowhere").symlink_to(tmp_path / "gone")
    assert names_of(f"folder:{root}") == [
        "a.png",
        "linked/c.png",
        "linked/deeper/d.png",
        "sub/b.png",
    ]


def test_a_picture_with_several_names_is_taken_once_by_its_own(tmp_path):
    root = album(tmp_path, "m/1.png", "m/2.png")
    (root / "a").symlink_to(root / "m")
    (root / "0.png").symlink_to(root / "m/1.png")
    os.link(root / "m/2.png", root / "z.png")
    assert names_of(f"folder:{root}") == ["m/1.png", "m/2.png"]
    # Also of two folders, one of which links into the other.
    album(root, "n/3.png")
    (root / "n/m").symlink_to(root / "m")
    assert names_of(f"folder:{root}/m,{root}/n") == ["m/1.png", "m/2.png", "n/3.png"]


def test_a_link_to_nothing_is_not_passed_over(tmp_path):
    root = album(tmp_path, "a.png")
    (root / "b.png").symlink_to(root / "gone.png")
    assert names_of(f"folder:{root}") == ["a.png", "b.png"]


PAIRS = {
    "as the public SR3 code prepares": (["hr_128", "lr_16", "sr_16_128"], ["hr_128"]),
    "DIV2K": (
        ["DIV2K/DIV2K_train_HR", "DIV2K/DIV2K_train_LR_bicubic/X2", "DIV2K/DIV2K_valid_HR"],
        ["DIV2K/DIV2K_train_HR", "DIV2K/DIV2K_valid_HR"],
    ),
    "Flickr2K": (["Flickr2K_HR", "Flickr2K_LR_unknown/X4"], ["Flickr2K_HR"]),
    "Set5": (["Set5/GTmod12", "Set5/LRbicx4"], ["Set5/GTmod12"]),
    "short": (["x/gt", "x/lq"], ["x/gt"]),
}


@pytest.mark.parametrize("layout", PAIRS)
def test_only_hr_pictures_are_used_as_hr(layout, tmp_path):
    made, high = PAIRS[layout]
    root = album(tmp_path / "set", *(f"{folder}/{i}.png" for folder in made for i in range(2)))
    with pytest.raises(UserError, match="must name HR pictures alone") as caught:
        open_source(f"folder:{root}")
    advised = ",".join(f"{root}/{folder}" for folder in high)
    assert str(caught.value).endswith(f"; give folder:{advised}.")
    assert len(names_of(f"folder:{advised}")) == 2 * len(high)


def test_a_half_of_prepared_pictures_is_no_hr(tmp_path):
    album(tmp_path, "hr_128/1.png", "lr_16/1.png", "sr_16_128/1.png")
    for half in ("lr_16", "sr_16_128"):
        with pytest.raises(UserError, match=f"found .*/{half} beside .*; give folder:.*/hr_128"):
            open_source(f"folder:{tmp_path}/{half}")


def test_hr_and_lr_files_in_one_folder_are_refused(tmp_path):
    album(tmp_path, "Canon_001_HR.png", "Canon_001_LR4.png", "Canon_002_HR.png")
    with pytest.raises(UserError, match="found .*Canon_001_LR4.png beside .*Canon_001_HR.png"):
        open_source(f"folder:{tmp_path}")
    (tmp_path / "Canon_001_LR4.png").unlink()
    assert len(names_of(f"folder:{tmp_path}")) == 2
