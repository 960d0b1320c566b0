"""Folders and the sample photographs, read in ranges and held out."""

import subprocess
import sys
from itertools import permutations
from pathlib import Path, PurePosixPath
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from yoda_jax.data import photos
from yoda_jax.data.photos import BadPicture, Files, hold_out, open_sets, open_source
from yoda_jax.errors import UserError

PHOTO = np.ascontiguousarray(data.coffee()[::16, ::16])  # 25 x 38 x 3


def names_of(source):
    return [name for name, _ in source.read(0, len(source))]


@pytest.fixture
def folder(tmp_path):
    """Pictures of every extension at several depths, among what is to be skipped."""
    root = tmp_path / "album"
    kept = ["b.png", "a/z.JPG", "a/c.jpeg", "a.webp", "B.bmp", "a/b/d.tif", "e.TIFF"]
    skipped = [".hidden.png", "._b.png", ".thumbs/b.png", "notes.txt", "movie.mp4", "png"]
    for name in kept + skipped:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = path.suffix.lower().strip(".").replace("jpg", "jpeg").replace("tif", "tiff")[:4]
        kind = kind if name in kept else "png"
        Image.fromarray(PHOTO).save(path, kind)
    return root, sorted(kept)


def test_folder_lists_pictures_below_it(folder):
    root, kept = folder
    source = open_source(f"folder:{root}")
    assert source.spec == f"folder:{root}"
    assert names_of(source) == kept and len(source) == len(kept)
    for _, load in source.read(0, len(source)):
        assert load().shape == PHOTO.shape


def photo(index):
    """The photograph rolled by some rows, so that each index shows another picture."""
    return np.roll(PHOTO, index, axis=0)


def album(root, *names):
    """Saves photo(0), photo(1), ... under these names below root."""
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(index)).save(root / name)
    return root


def several(root, *folders):
    return "folder:" + ",".join(f"{root}/{folder}" for folder in folders)


def test_pictures_of_several_folders_are_told_apart_by_a_prefix(tmp_path):
    root = album(tmp_path, "B/HR/0001.png", "B/HR/sub/1.png", "A/train/0001.png", "C/HR_x/0001.png")
    source = open_source(several(root, "B/HR", "A/train", "C/HR_x/"))
    assert source.spec == several(root, "B/HR", "A/train", "C/HR_x/")
    assert names_of(source) == ["HR/0001.png", "HR/sub/1.png", "HR_x/0001.png", "train/0001.png"]
    for (_, load), index in zip(source.read(0, 4), (0, 1, 3, 2), strict=True):
        np.testing.assert_array_equal(load(), photo(index))


def test_prefixes_are_as_long_as_needed_to_be_told_apart(tmp_path, monkeypatch):
    root = album(tmp_path, "u/a/HR/1.png", "u/b/HR/1.png", "v/LR/1.png", "w/a/1.png", "w/a/HR.png")
    found = open_source(several(root, "u/a/HR", "u/b/HR", "v/LR"))
    assert names_of(found) == ["LR/1.png", "a/HR/1.png", "b/HR/1.png"]
    # A prefix "a" of w/a could not be told from the beginning of a/HR.
    found = open_source(several(root, "u/a/HR", "u/b/HR", "w/a"))
    assert names_of(found) == ["a/HR/1.png", "b/HR/1.png", "w/a/1.png", "w/a/HR.png"]
    monkeypatch.chdir(root / "v/LR")
    assert names_of(open_source("folder:.,../../w/a/..")) == ["LR/1.png", "w/a/1.png", "w/a/HR.png"]


PARTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.lists(PARTS, min_size=2, max_size=6))
def test_no_prefix_begins_another(paths):
    roots = [Path("/", *parts) for parts in paths]
    if any(a.is_relative_to(b) for a, b in permutations(roots, 2)):
        with pytest.raises(UserError, match="share no picture"):
            photos._prefixes("folder:x", roots)
        return
    prefixes = [PurePosixPath(prefix) for prefix in photos._prefixes("folder:x", roots)]
    for root, prefix in zip(roots, prefixes, strict=True):
        assert root.parts[-len(prefix.parts) :] == prefix.parts
        alone = [path.name for path in roots].count(root.name) == 1
        begins = any(root.name in path.parts[:-1] for path in roots)
        assert len(prefix.parts) == 1 or not alone or begins
    assert not any(a.is_relative_to(b) for a, b in permutations(prefixes, 2))


def test_names_and_hold_out_do_not_depend_on_where_the_folders_lie(tmp_path):
    names = [f"set{k}/HR/{index:04d}.png" for k in (1, 2) for index in range(6)]
    album(tmp_path / "here", *names)
    sources = [open_source(several(tmp_path / "here", "set1/HR", "set2/HR"))]
    (tmp_path / "far").mkdir()
    (tmp_path / "here").rename(tmp_path / "far/away")
    sources.append(open_source(several(tmp_path / "far/away", "set2/HR", "set1/HR")))
    assert names_of(sources[0]) == names_of(sources[1]) == names
    splits = [hold_out(source, 5) for source in sources]
    assert [[names_of(part) for part in split] for split in splits][0] == [
        names_of(part) for part in splits[1]
    ]
    rest, held = splits[1]
    assert len(held) == 5 and sorted(names_of(rest) + names_of(held)) == names
    (tmp_path / "far/away" / names_of(rest)[0]).unlink()
    fewer = open_source(several(tmp_path / "far/away", "set1/HR", "set2/HR"))
    assert names_of(hold_out(fewer, 5)[1]) == names_of(held)


def test_linked_folder_keeps_the_name_of_the_link(tmp_path):
    root = album(tmp_path, "store/83f1/1.png", "store/9a02/1.png")
    (root / "HR").symlink_to(root / "store/83f1")
    assert names_of(open_source(several(root, "HR", "store/9a02"))) == ["9a02/1.png", "HR/1.png"]
    with pytest.raises(UserError, match="found .*/HR the same as .*/store/83f1; leave one"):
        open_source(several(root, "HR", "store/83f1"))
    with pytest.raises(UserError, match="found .*/HR inside .*/store; leave one"):
        open_source(several(root, "HR", "store"))


def test_folder_with_commas_in_its_name(tmp_path):
    root = album(tmp_path, "Paris, 2019/1.png", "Paris/2.png", "x, y,/3.png")
    assert names_of(open_source(f"folder:{root}/Paris, 2019")) == ["1.png"]
    assert names_of(open_source(f"folder:{root}/x, y,")) == ["3.png"]
    with pytest.raises(UserError, match="found nothing at  2019"):
        open_source(f"folder:{root}/Paris, 2019,{root}/Paris")


def test_ranges_tile_the_whole(folder):
    source = open_source(f"folder:{folder[0]}")
    parts = [name for start in (0, 3, 6) for name, _ in source.read(start, start + 3)]
    assert parts == names_of(source)
    assert list(source.read(2, 2)) == []


def test_bad_picture_is_found_by_its_loader_alone(folder):
    root, kept = folder
    (root / "a/c.jpeg").write_bytes(b"")
    loads = dict(open_source(f"folder:{root}").read(0, len(kept)))
    assert loads["a/z.JPG"]().shape == PHOTO.shape
    with pytest.raises(BadPicture, match="a/c.jpeg .* is empty"):
        loads["a/c.jpeg"]()


def test_samples_are_photographs_in_the_wheels():
    test = open_source("samples:photos/test")
    assert names_of(test) == ["astronaut", "coffee"]
    np.testing.assert_array_equal(next(test.read(1, 2))[1](), data.coffee())
    train = open_source("samples:photos/train")
    assert names_of(train) == ["chelsea", "china", "flower", "motorcycle_left", "rocket"]
    everything = open_source("samples:photos")
    assert sorted(names_of(everything)) == sorted(names_of(train) + names_of(test))
    for _, load in everything.read(0, 7):
        height, width, channels = load().shape
        assert min(height, width) >= 300 and channels == 3


def test_missing_sample_names_package_and_file(monkeypatch):
    for package, where in (("skimage", "skimage/data/gone.png"), ("nowhere", "nowhere/data/gone")):
        monkeypatch.setitem(photos._SAMPLES, "coffee", ("scikit-image", package, "data/gone.png"))
        with pytest.raises(UserError, match=f"{where}.* scikit-image"):
            open_source("samples:photos/test")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("/photos", r"folder:PATH\[,PATH...\], tfds:NAME.*, found '/photos'"),
        ("gs:bucket", "found 'gs:bucket'"),
        ("folder:", "found 'folder:'"),
        ("samples:faces", "one of photos, photos/train, photos/test, found 'samples:faces'"),
        ("folder:{root}/gone", "folder of pictures, found nothing at .*/gone"),
        ("folder:{root}/b.png", "folder of pictures, found a file at .*/b.png"),
        ("folder:{root}/.thumbs/empty", "must hold pictures .* found none"),
        ("folder:{root}/a,{root}/gone", "folder of pictures, found nothing at [^,]*/gone"),
        ("folder:{root}/b.png,{root}/a", "folder of pictures, found a file at [^,]*/b.png"),
        ("folder:{root}/a,{root}/.thumbs/empty", "folder [^,]*/empty must hold .* found none"),
        ("folder:{root}/a,", "must name a folder beside each comma, found an empty name"),
        ("folder:,{root}/a", "must name a folder beside each comma, found an empty name"),
        ("folder:{root}/a,{root}/a/b/..", "found .*/a the same as .*/a/b/..; leave one"),
        ("folder:{root}/a/b,{root}", "found .*/a/b inside .*; leave one of them out"),
        ("tfds:no_such_set_anywhere", "must name a TFDS data set"),
        ("tfds:mnist", "mnist is not prepared in .*, run `python -c .*mnist.* first"),
    ],
)
def test_mistakes_are_one_sentence(spec, said, folder, tmp_path):
    root, _ = folder
    (root / ".thumbs/empty").mkdir()
    with pytest.raises(UserError, match=said) as raised:
        open_source(spec.format(root=root), data_dir=str(tmp_path / "tfds"))
    assert "\n" not in str(raised.value)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.text(min_size=1), min_size=3, max_size=12), st.data())
def test_hold_out_depends_on_the_name_alone(names, draw):
    count = draw.draw(st.integers(1, len(names) - 2))
    source = Files("folder:x", tuple((name, name) for name in sorted(names)))
    rest, held = hold_out(source, count)
    assert len(held) == count and names_of(held) == sorted(names_of(held))
    assert sorted(names_of(rest) + names_of(held)) == sorted(names)
    assert names_of(rest) == sorted(names_of(rest))

    def crc(name):
        return crc32(name.encode("utf-8", "surrogateescape"))

    assert max(map(crc, names_of(held))) <= min(map(crc, names_of(rest)))
    # A file that goes from the rest changes nothing in what is held out.
    gone = draw.draw(st.sampled_from(names_of(rest)))
    fewer = Files("folder:x", tuple(file for file in source.files if file[0] != gone))
    assert names_of(hold_out(fewer, count)[1]) == names_of(held)
    assert len({source.spec, rest.spec, held.spec}) == 3


def test_hold_out_count_is_checked():
    source = open_source("samples:photos/test")
    for count in (0, 2, -1):
        with pytest.raises(
            UserError, match=f"data.holdout must be above 0 and below the 2 .* found {count}"
        ):
            hold_out(source, count)


def test_folders_and_samples_do_without_tensorflow(folder):
    program = (
        "import sys\n"
        "from yoda_jax.data.photos import hold_out, open_source\n"
        "for spec in sys.argv[1:]:\n"
        "    rest, held = hold_out(open_source(spec), 1)\n"
        "    next(held.read(0, 1))[1]()\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'sklearn', 'skimage'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    specs = [f"folder:{folder[0]}", "samples:photos"]
    subprocess.run([sys.executable, "-c", program, *specs], check=True)


def test_sets_have_names_and_keep_the_commas_of_folders(tmp_path):
    for name in ("a", "b", "c,d"):
        (tmp_path / name).mkdir()
        Image.fromarray(data.coffee()[:40, :40]).save(tmp_path / name / f"{name}.png")
    spec = f"Set5:folder:{tmp_path / 'a'},{tmp_path / 'b'},Urban 100:folder:{tmp_path / 'c,d'}"
    found = open_sets(f"{spec},S:samples:photos/test")
    assert {name: len(source) for name, source in found.items()} == {
        "Set5": 2,
        "Urban 100": 1,
        "S": 2,
    }


@pytest.mark.parametrize(
    "named",
    [
        "Set5",
        "folder:/x",
        "a:samples:photos,a:samples:photos",
        "../x:samples:photos",
        ":samples:photos",
    ],
)
def test_sets_of_another_form_are_refused(named):
    with pytest.raises(UserError):
        open_sets(named)
