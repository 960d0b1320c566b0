"""TFDS data sets: really prepared ones in any range, and one of the catalogue by its metadata."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from skimage import data

from yoda_jax.data.contents import shared
from yoda_jax.data.photos import hold_out, open_source
from yoda_jax.errors import UserError

PHOTO = np.ascontiguousarray(data.coffee()[::16, ::16])  # 25 x 38 x 3


def names_of(source):
    return [name for name, _ in source.read(0, len(source))]


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


def indices(spec, data_dir):
    names = names_of(open_source(f"tfds:numbered_photos{spec}", data_dir))
    return [(name.split("-")[1], int(name[-8:])) for name in names]


SLICES = {
    "train[:50%]": [("train", i) for i in range(20)],
    "train[37:]": [("train", i) for i in (37, 38, 39)],
    "train[-10%:]": [("train", i) for i in range(36, 40)],
    "train[5:7]+test[1:]": [("train", 5), ("train", 6), ("test", 1), ("test", 2)],
    "test+train[:1]": [("test", 0), ("test", 1), ("test", 2), ("train", 0)],
    "all": [("train", i) for i in range(40)] + [("test", i) for i in range(3)],
}


@pytest.mark.parametrize("split", SLICES)
def test_slices_are_spelled_as_tfds_spells_them(split, prepared):
    assert indices(f":{split}", prepared) == SLICES[split]


def test_pictures_of_slices_are_those_of_the_whole(prepared):
    whole = dict(open_source("tfds:numbered_photos", prepared).read(0, 40))
    source = open_source("tfds:numbered_photos:train[30:]+test[:2]+train[3:5]", prepared)
    assert len(source) == 14
    found = list(source.read(8, 14))
    assert [name for name, _ in found] == source.names[8:14]
    for name, load in found:
        if "train" in name:
            np.testing.assert_array_equal(load(), whole[name]())
    rest, held = hold_out(source, 3)
    assert names_of(rest) == source.names[:11] and names_of(held) == source.names[11:]


@pytest.mark.parametrize("version", ["/1.0.0", ":1.0.0", ":1.*.*"])
def test_versions_are_spelled_as_tfds_spells_them(version, prepared):
    assert len(indices(version, prepared)) == 40
    assert indices(f"{version}:test[:2]", prepared) == [("test", 0), ("test", 1)]


def test_versions_of_a_configuration(prepared):
    for spec in ("celeb_a_hq/256:2.0.0", "celeb_a_hq/256/2.0.0"):
        with pytest.raises(UserError, match="celeb_a_hq/256:2.0.0 is not prepared in "):
            open_source(f"tfds:{spec}", prepared)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (":validation[:5]", "has splits train, test, found .*Unknown split"),
        (":train[:5", "has splits .* found .*train.:5. .Error parsing split"),
        (":train[50:]", "has splits .* incompatible with 40 examples"),
        (":train[20:10]", "must name pictures, each of them once, found none"),
        (":train[:50%]+train[25%:]", "must name pictures, each of them once, found some twice"),
        ("/7.0.0", "must name a TFDS data set, configuration and version"),
    ],
)
def test_wrong_slices_and_versions_are_one_sentence(spec, said, prepared):
    with pytest.raises(UserError, match=said) as caught:
        open_source(f"tfds:numbered_photos{spec}", prepared)
    assert "\n" not in str(caught.value)


def test_overlapping_slices_share_pictures(prepared):
    train, overlapping, apart, whole = (
        open_source(f"tfds:numbered_photos{spec}", prepared).prints()
        for spec in (":train[:50%]", ":train[15:25]", ":train[20:]", "/1.0.0")
    )
    assert shared(overlapping, train)[0] == (("numbered_photos-train-00000015",) * 2)
    assert len(shared(overlapping, train)) == 5 and len(shared(train, whole)) == 20
    assert not shared(apart, train)


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
