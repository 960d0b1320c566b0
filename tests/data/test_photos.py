"""Folders, TFDS data sets and the sample photographs, read in ranges and held out."""

import io
import subprocess
import sys
from zlib import crc32

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from yoda_jax.data import photos
from yoda_jax.data.photos import BadPicture, Files, hold_out, open_source
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
        ("/photos", "folder:PATH, tfds:NAME.*, found '/photos'"),
        ("gs:bucket", "found 'gs:bucket'"),
        ("folder:", "found 'folder:'"),
        ("samples:faces", "one of photos, photos/train, photos/test, found 'samples:faces'"),
        ("folder:{root}/gone", "folder of pictures, found nothing at .*/gone"),
        ("folder:{root}/b.png", "folder of pictures, found a file at .*/b.png"),
        ("folder:{root}/.thumbs/empty", "must hold pictures .* found none"),
        ("tfds:no_such_set_anywhere", "must name a TFDS data set"),
        (
            "tfds:mnist",
            "mnist is not prepared in .*: ?.*`tfds build mnist --data_dir=|not prepared",
        ),
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


def encoded(index, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(np.roll(PHOTO, index, axis=0)).save(stream, kind)
    return io.BytesIO(stream.getvalue())


class _Numbered(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The photograph rolled by 0..count-1 rows, in `shards` files."""

    VERSION = tfds.core.Version("1.0.0")
    count, picture = 40, "image"

    def _info(self):
        features = {"label": tfds.features.Scalar(np.int64), self.picture: tfds.features.Image()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(self.count), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for index in range(count):
            yield index, {"label": index, self.picture: encoded(index)}


class NumberedPhotos(_Numbered):
    pass


class NumberedPairs(_Numbered):
    picture = "hr"

    def _info(self):
        pair = {"lr": tfds.features.Image(), "hr": tfds.features.Image()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(pair))

    def _generate_examples(self, count):
        for index in range(2):
            yield index, {"lr": encoded(0), "hr": encoded(index)}


class NumberedPlates(_Numbered):
    count, picture = 2, "plate"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = str(tmp_path_factory.mktemp("tfds"))
    shards = {NumberedPhotos: 3, NumberedPairs: 1, NumberedPlates: 1}
    for builder, count in shards.items():
        config = tfds.download.DownloadConfig(num_shards=count)
        builder(data_dir=data_dir).download_and_prepare(download_config=config)
    return data_dir


def test_tfds_pictures_keep_their_index_in_any_range(prepared):
    source = open_source("tfds:numbered_photos", prepared)
    assert len(source) == 40 and source.builder.info.splits["train"].num_shards == 3
    whole = [(name, load()) for name, load in source.read(0, 40)]
    assert [name for name, _ in whole] == [f"numbered_photos-train-{i:08d}" for i in range(40)]
    # Every picture occurs once: TFDS shuffled them when it wrote the files.
    shown = {photo.tobytes() for _, photo in whole}
    assert shown >= {np.roll(PHOTO, index, axis=0).tobytes() for index in range(25)}
    for start, stop in ((0, 7), (7, 33), (33, 40), (39, 99)):
        part = [(name, load()) for name, load in source.read(start, stop)]
        assert [name for name, _ in part] == [name for name, _ in whole[start:stop]]
        for (_, ours), (_, expected) in zip(part, whole[start:stop], strict=True):
            np.testing.assert_array_equal(ours, expected)
    assert list(source.read(40, 44)) == []


def test_tfds_split_and_hold_out(prepared):
    test = open_source("tfds:numbered_photos:test", prepared)
    assert names_of(test) == [f"numbered_photos-test-{i:08d}" for i in range(3)]
    source = open_source("tfds:numbered_photos:train", prepared)
    rest, held = hold_out(source, 4)
    assert names_of(rest) == names_of(source)[:36] and names_of(held) == names_of(source)[36:]
    (name, load), (whole_name, whole_load) = next(held.read(1, 2)), next(source.read(37, 38))
    assert name == whole_name
    np.testing.assert_array_equal(load(), whole_load())


def test_tfds_picture_feature(prepared):
    source = open_source("tfds:numbered_pairs", prepared)
    shown = {load().tobytes() for _, load in source.read(0, 2)}
    assert shown == {PHOTO.tobytes(), np.roll(PHOTO, 1, axis=0).tobytes()}
    with pytest.raises(UserError, match=r"image or hr, found .*plate \(Image\)"):
        open_source("tfds:numbered_plates", prepared)
    with pytest.raises(UserError, match="has splits train, test, found .*:validation"):
        open_source("tfds:numbered_photos:validation", prepared)


def test_catalogue_data_set_without_its_files(prepared, monkeypatch):
    """TFDS's own mocked data: a set of the catalogue whose metadata alone are there."""
    builder = tfds.builder("cifar10", data_dir=prepared)
    train = tfds.core.SplitInfo(name="train", shard_lengths=[8], num_bytes=0)
    builder.info.set_splits(tfds.core.splits.SplitDict([train]))
    builder.info.set_file_format("tfrecord")
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_dir)
    with tfds.testing.mock_data(num_examples=5, data_dir=prepared):
        source = open_source("tfds:cifar10", prepared)
        assert len(source) == 8
        pictures = list(source.read(2, 7))
        assert pictures[0][0] == "cifar10-train-00000002"
        assert all(load().shape == (32, 32, 3) for _, load in pictures)


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
