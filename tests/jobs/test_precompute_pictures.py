"""Records know their pictures: changed, moved, and shared by training and evaluation."""

import json
import logging
import resource
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from albums import GOOD, all_files, configuration, contents, records
from etils import epath
from PIL import Image

from yoda_jax.data import inventory
from yoda_jax.data.records import Records
from yoda_jax.errors import UserError
from yoda_jax.jobs import precompute


@pytest.fixture
def pictures(album, tmp_path):
    """A copy of the photographs that may be changed."""
    return shutil.copytree(album, tmp_path / "pictures")


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="absl")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def names(workdir, split):
    return [example["name"] for example in records(workdir, split)[0]]


def changed(pictures):
    """One picture replaced by another of that size, one removed and one added, behind the first."""
    photo = np.array(Image.open(pictures / "chelsea.png"))
    Image.fromarray(photo[:, ::-1]).save(pictures / "chelsea.png")
    (pictures / "rocket.jpg").unlink()
    Image.fromarray(photo[::-1]).save(pictures / "zebra.png")


def test_changed_pictures_are_made_anew_shard_by_shard(pictures, tmp_path):
    config = configuration(pictures, data__eval="samples:photos/test", data__pictures_per_shard=2)
    precompute.run(config, str(tmp_path))
    before = {name: path.stat().st_mtime_ns for name, path in all_files(tmp_path).items()}
    changed(pictures)
    precompute.run(config, str(tmp_path))
    train, manifest = records(tmp_path, "train")
    assert [e["name"] for e in train] == sorted({*GOOD, "zebra.png"} - {"rocket.jpg"})
    mended = next(e["hr"] for e in train if e["name"] == "chelsea.png")
    precompute.run(config, str(tmp_path / "fresh"))
    assert contents(tmp_path / "fresh/records") == contents(tmp_path / "records")
    assert mended.tobytes() in {e["hr"].tobytes() for e in records(tmp_path / "fresh", "train")[0]}
    # The shard whose pictures are as they were, and the other split, are left alone.
    kept = [name for name in before if "00000-of-00003" in name or "records/eval/" in name]
    assert len(kept) > 4
    for name in kept:
        assert (tmp_path / name).stat().st_mtime_ns == before[name]


def test_a_removed_shard_leaves_nothing_behind(pictures, tmp_path):
    config = configuration(pictures, data__eval="samples:photos/test")
    precompute.run(config, str(tmp_path))
    (pictures / "rocket.jpg").unlink()
    precompute.run(config, str(tmp_path))
    assert not list((tmp_path / "records/train").glob("*of-00006*"))
    assert len(names(tmp_path, "train")) == 5


@pytest.mark.parametrize("where", ["checkpoints", "yoda/checkpoints", "trainings/a/checkpoints"])
def test_a_training_that_was_begun_keeps_its_records(where, pictures, tmp_path, said):
    config = configuration(pictures, data__eval="samples:photos/test")
    precompute.run(config, str(tmp_path))
    (tmp_path / where / "2").mkdir(parents=True)
    before = contents(tmp_path / "records")
    precompute.run(config, str(tmp_path))
    assert "training was begun" not in said()
    changed(pictures)
    precompute.run(config, str(tmp_path))
    assert contents(tmp_path / "records") == before
    assert said().count("(1 added, 1 removed, 1 changed)") == 1 and "--workdir" in said()
    shutil.rmtree(pictures)  # nor do they need the pictures
    precompute.run(config, str(tmp_path))


def test_a_shard_that_was_deleted_is_written_again_after_a_training_was_begun(
    pictures, tmp_path, said
):
    config = configuration(pictures, data__eval="samples:photos/test")
    precompute.run(config, str(tmp_path))
    (tmp_path / "checkpoints/2").mkdir(parents=True)
    before = contents(tmp_path / "records")
    shard = next((tmp_path / "records/train").glob("*00001-of-*[0-9]"))
    for path in (shard, shard.with_name(f"{shard.name}.json")):
        path.unlink()
    precompute.run(config, str(tmp_path))
    assert contents(tmp_path / "records") == before and "training was begun" not in said()
    # Where other pictures were changed meanwhile, these stay.
    index = json.loads(shard.with_name(f"{shard.name}.json").read_text())
    shard.unlink()
    shard.with_name(f"{shard.name}.json").unlink()
    for name in sorted(GOOD):
        if name not in index["made_of"] and (pictures / name).exists():
            Image.new("RGB", (64, 64), "red").save(pictures / name)
            break
    precompute.run(config, str(tmp_path))
    assert contents(tmp_path / "records") == before and "1 changed" in said()


def test_one_set_has_many_spellings(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    precompute.run(configuration(pictures), "run")
    before = contents(tmp_path / "run")
    settings = Records("run/records/train").manifest["settings"]
    (tmp_path / "link").symlink_to(pictures)
    for path in (f"{pictures}/", "pictures", "./pictures/../pictures", "link"):
        precompute.run(configuration(path), "run")
    pictures.rename(tmp_path / "moved")
    precompute.run(configuration(tmp_path / "moved"), "run")
    assert contents(tmp_path / "run") == before
    precompute.run(configuration(tmp_path / "moved"), "again")
    again = Records("again/records/train").manifest["settings"]
    assert again["data.train"] != settings["data.train"]
    assert again["pictures"] == settings["pictures"]


def test_another_set_is_refused_by_its_name(pictures, album, tmp_path):
    precompute.run(configuration(album), str(tmp_path))
    changed(pictures)
    with pytest.raises(UserError, match=f"data.train='folder:{album}'.*'folder:{pictures}'"):
        precompute.run(configuration(pictures), str(tmp_path))


def test_an_interrupted_run_goes_on_where_the_folder_was_moved(pictures, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        write = precompute.write_shard

        def limited(path, *rest):
            if "00002-of" in path.name:
                raise KeyboardInterrupt
            write(path, *rest)

        patch.setattr(precompute, "write_shard", limited)
        precompute.run(configuration(pictures), str(tmp_path))
    first = next((tmp_path / "records/train").glob("*00000-of-00004")).stat().st_mtime_ns
    pictures.rename(tmp_path / "moved")
    precompute.run(configuration(tmp_path / "moved"), str(tmp_path))
    assert next((tmp_path / "records/train").glob("*00000-of-00004")).stat().st_mtime_ns == first
    assert len(names(tmp_path, "train")) == 4


def as_older(workdir):
    """Rewrites records as they were when they knew no more than their pictures' names."""
    for path in Path(workdir).rglob("*tfrecord*.json"):
        index = json.loads(path.read_text())
        if isinstance(index["made_of"], int):
            continue
        index["made_of"] = zlib.crc32(repr(list(index["made_of"])).encode())
        path.write_text(json.dumps(index))
    for path in Path(workdir).rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["settings"].pop("pictures", None)
        path.write_text(json.dumps(manifest))


def test_older_records_are_compared_by_names_and_spelling(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configuration(pictures, data__eval="samples:photos/test")
    precompute.run(config, "run")
    as_older(tmp_path / "run")
    before = contents(tmp_path / "run")
    for path in (f"{pictures}/", "pictures"):
        precompute.run(configuration(path, data__eval="samples:photos/test"), "run")
    assert contents(tmp_path / "run") == before
    (pictures / "rocket.jpg").unlink()
    precompute.run(config, "run")
    assert len(names("run", "train")) == 5
    pictures.rename(tmp_path / "moved")
    precompute.run(config, "run")  # pictures are not needed
    as_older(tmp_path / "run")
    with pytest.raises(UserError, match="was made with data.train="):
        precompute.run(configuration("moved", data__eval="samples:photos/test"), "run")


def copies(pictures, tmp_path):
    """Evaluation sources that share pictures with the photographs, and how many."""
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(pictures / "chelsea.png", one / "cat.png")
    Image.fromarray(np.array(Image.open(pictures / "coffee.png"))[::-1]).save(one / "other.png")
    (tmp_path / "link").symlink_to(pictures / "a")
    return {
        f"folder:{pictures}": 6,
        f"folder:{pictures}/a": 2,
        f"folder:{tmp_path}/link": 2,
        f"folder:{one}": 1,
    }


def test_evaluation_on_training_pictures_is_refused(pictures, tmp_path):
    for held, count in copies(pictures, tmp_path).items():
        config = configuration(pictures, data__eval=held)
        with pytest.raises(UserError, match=f"^{count} pictures of --config.data.eval") as caught:
            precompute.run(config, str(tmp_path / "run"))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()
    assert "first cat.png (there chelsea.png)" in str(caught.value)
    # As it says:
    precompute.run(configuration(pictures, data__eval="", data__holdout=2), str(tmp_path / "run"))
    (tmp_path / "one/cat.png").unlink()
    precompute.run(config, str(tmp_path / "other"))


def test_evaluation_on_what_training_records_hold_is_refused(pictures, tmp_path):
    """Also where the training pictures are gone."""
    config = configuration(pictures, data__eval="samples:photos/test")
    precompute.run(config, str(tmp_path))
    pictures.rename(tmp_path / "moved")
    config.data.eval = f"folder:{tmp_path}/moved"
    shutil.rmtree(tmp_path / "records/eval")
    with pytest.raises(UserError, match="6 pictures of --config.data.eval"):
        precompute.run(config, str(tmp_path), splits=("eval",))


def test_copies_among_held_out_pictures_are_said(pictures, tmp_path, said):
    config = configuration(pictures)
    precompute.run(config, str(tmp_path / "run"))
    assert "held-out" not in said()
    held = names(tmp_path / "run", "eval")[0]
    for index in range(4):
        shutil.copy(pictures / held, pictures / f"copy{index}{Path(held).suffix}")
    precompute.run(config, str(tmp_path / "run"))
    assert "held-out pictures are in training as well by other names, first" in said()


def test_a_disk_that_takes_no_more_is_named(album, tmp_path):
    """A limit of file sizes plays the full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(UserError, match=r"records/train/yoda-train\S+ could not be written \("):
            precompute.run(configuration(album), str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    precompute.run(configuration(album), str(tmp_path))  # as it says, with room
    assert len(names(tmp_path, "train")) == 4
    assert not list(tmp_path.rglob("*.part-*"))


def test_what_another_process_wrote_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(inventory, "_SEEN_SECONDS", 0.5)
    with pytest.raises(UserError, match="cannot be seen here; set --config.data.records"):
        inventory.wait_for(epath.Path(tmp_path / "manifest.json"))
    (tmp_path / "manifest.json").touch()
    inventory.wait_for(epath.Path(tmp_path / "manifest.json"))


def test_the_limit_of_pixels_is_a_field(tmp_path):
    large = tmp_path / "large"
    large.mkdir()
    for i in range(3):
        Image.new("1", (1001, 1000 + i), 1).save(large / f"{i}.png")
    config = configuration(large, data__max_megapixels=1, data__holdout=1)
    with pytest.raises(UserError, match="1000000 pixels; raise --config.data.max_megapixels"):
        precompute.run(config, str(tmp_path))
    config.data.max_megapixels = 2
    precompute.run(config, str(tmp_path))
