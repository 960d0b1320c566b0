"""Every data set of configs/data_sets.py, laid out as it is published, from disk to records."""

import re
import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from command_line import run
from PIL import Image, ImageOps
from skimage import data
from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder as celeb_a

from configs import data_sets, sr3_celeba_hq, sr3_ffhq, sr3_photos
from yoda_jax.configuration import fields as checks
from yoda_jax.data.decode import decode_picture
from yoda_jax.data.degrade import downsample, fit
from yoda_jax.data.photos import open_source
from yoda_jax.data.records import Records
from yoda_jax.errors import UserError
from yoda_jax.jobs import precompute

PHOTOS = (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())


def save(root, folder, names, width, height):
    """Photographs of a size under these names, numbered on from name to name; their paths."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    paths = [root / folder / name for name in names]
    for index, path in enumerate(paths):
        photo = Image.fromarray(PHOTOS[index % 4]).rotate(90 * (index // 4))
        path.parent.mkdir(exist_ok=True)
        ImageOps.fit(photo, (width, height)).save(path)
    return paths


def prepare(name, root, manual=None):
    """TFDS's own builder of a data set, run on files that are already here."""
    config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    builder = tfds.builder(name, data_dir=root / "tfds")
    builder.download_and_prepare(download_config=config)
    return {"tfds_dir": str(root / "tfds")}


def ffhq_images(root, monkeypatch):
    names = ("00000/00000.png", "00000/00001.png", "69000/69999.png")
    paths = save(root, "images1024x1024", names, 1024, 1024)
    return {"train": f"folder:{root}/images1024x1024"}, paths, []


def ffhq_thumbnails(root, monkeypatch):
    names = ("00000/00000.png", "00000/00001.png", "69000/69999.png")
    paths = save(root, "thumbnails128x128", names, 128, 128)
    return {"train": f"folder:{root}/thumbnails128x128"}, paths, []


def celeba_hq_folder(root, monkeypatch):
    paths = save(root, "CelebA-HQ-img", ("0.jpg", "1.jpg", "29999.jpg"), 1024, 1024)
    return {"train": f"folder:{root}/CelebA-HQ-img"}, paths, []


def celeba_hq_tfds(root, monkeypatch):
    paths = save(root, "data256x256", ("00001.jpg", "00002.jpg", "30000.jpg"), 256, 256)
    with tarfile.open(root / "data256x256.tar", "w") as tar:
        tar.add(root / "data256x256", "data256x256")
    return prepare("celeb_a_hq/256", root, manual=root), paths, []


def celeba_hq_advised(root, monkeypatch):
    """Prepared as the error says, with the archive where the data set's docstring says."""
    paths = save(root, "images", ("0.jpg", "1.jpg", "2.jpg"), 256, 256)
    manual = root / "tfds/downloads/manual"
    manual.mkdir(parents=True)
    with tarfile.open(manual / "data256x256.tar", "w") as tar:
        tar.add(root / "images", ".")
    with pytest.raises(UserError, match="celeb_a_hq/256 is not prepared") as caught:
        open_source("tfds:celeb_a_hq/256", str(root / "tfds"))
    exec(re.search(r'`python -c "(.+)"` first', str(caught.value))[1], {})
    return {"tfds_dir": str(root / "tfds")}, paths, []


def celeba_folder(root, monkeypatch):
    names = ("000001.jpg", "000002.jpg", "202599.jpg")
    paths = save(root, "img_align_celeba", names, 178, 218)
    return {"train": f"folder:{root}/img_align_celeba"}, paths, []


def celeba_tfds(root, monkeypatch):
    paths = save(root, "img_align_celeba", [f"{i:06d}.jpg" for i in range(1, 7)], 178, 218)
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"img_align_celeba/{path.name}")
    # The files beside the pictures: a partition, and per picture attributes and landmarks.
    lines = {"list_eval_partition": [f"{p.name} {i // 4}" for i, p in enumerate(paths)]}
    for name, columns in (
        ("list_attr_celeba", celeb_a.ATTR_HEADINGS),
        ("landmarks_celeba", celeb_a.LANDMARK_HEADINGS),
    ):
        rows = [f"{path.name} {' 1' * len(columns)}" for path in paths]
        lines[name] = [str(len(paths)), " ".join(columns), *rows]
    lines["identity_celeba"] = [f"{path.name} 7" for path in paths]
    lines["list_eval_partition"][-1] = f"{paths[-1].name} 2"
    here = {"img_align_celeba": root / "images.zip"}
    for name, text in lines.items():
        here[name] = root / f"{name}.txt"
        here[name].write_text("\n".join(text) + "\n")
    monkeypatch.setattr(tfds.download.DownloadManager, "download", lambda self, urls: here)
    return prepare("celeb_a", root), paths[:4], []


def celeba_tfds_test_split(root, monkeypatch):
    fields, _, _ = celeba_tfds(root, monkeypatch)
    paths = sorted((root / "img_align_celeba").iterdir())
    return fields | {"eval": "tfds:celeb_a:test"}, paths[:4], paths[5:]


def df2k(root, monkeypatch):
    train = save(root, "DIV2K/DIV2K_train_HR", ("0001.png", "0800.png"), 510, 339)
    names = ("000001.png", "000002.png", "002650.png")
    train += save(root, "Flickr2K/Flickr2K_HR", names, 339, 510)
    held = save(root, "DIV2K/DIV2K_valid_HR", ("0801.png", "0900.png"), 339, 339)
    folders = f"folder:{root}/DIV2K/DIV2K_train_HR,{root}/Flickr2K/Flickr2K_HR"
    return {"train": folders, "eval": f"folder:{root}/DIV2K/DIV2K_valid_HR"}, train, held


def div2k(root, monkeypatch):
    numbers = {"train": ("0001", "0002", "0800"), "valid": ("0801", "0900")}
    paths, here = {}, {}
    for split, names in numbers.items():
        lr, hr = f"DIV2K_{split}_LR_bicubic/X4", f"DIV2K_{split}_HR"
        paths[split] = save(root, hr, [f"{name}.png" for name in names], 512, 340)
        save(root, lr, [f"{name}x4.png" for name in names], 128, 85)
        here |= {f"{split}_hr_url": root, f"{split}_lr_url": root / lr}
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda self, urls: here
    )
    return prepare("div2k/bicubic_x4", root), paths["train"], paths["valid"]


# Layout: (data set, how it lies, experiment that may take its records over).
LAYOUTS = {
    "ffhq, images": ("ffhq", ffhq_images, sr3_ffhq.get_config),
    "ffhq, thumbnails": ("ffhq", ffhq_thumbnails, None),
    "celeba_hq, folder": ("celeba_hq", celeba_hq_folder, None),
    "celeba_hq, tfds": ("celeba_hq", celeba_hq_tfds, sr3_celeba_hq.get_config),
    "celeba_hq, tfds as advised": ("celeba_hq", celeba_hq_advised, None),
    "celeba, folder": ("celeba", celeba_folder, None),
    "celeba, tfds": ("celeba", celeba_tfds, None),
    "celeba, tfds with its test split": ("celeba", celeba_tfds_test_split, None),
    "df2k, folders": ("df2k", df2k, sr3_photos.get_config),
    "div2k, tfds": ("div2k", div2k, lambda: sr3_photos.get_config("div2k")),
}


def shrunk(config, fields, records):
    """A configuration with the pictures at hand, few held out, and a map that needs no weights."""
    config.data.update(fields | {"records": str(records), "holdout": 1, "threads": 2})
    config.attention.source = "edges"
    config.eval.pictures = 2
    return config


def expected(paths, config):
    """(HR, LR) bytes of all examples of these pictures: a square, or tiles of the whole picture."""
    size, stride, scale = config.data.hr_size, config.data.stride, config.data.scale
    for path in paths:
        picture = decode_picture(path, path.name)
        if config.data.crop == "fit":
            picture = fit(picture, size)
        height, width = (side - side % scale for side in picture.shape[:2])
        hr = picture[:height, :width]
        lr = downsample(hr, scale, config.data.resampling)
        for top in range(0, height - size + 1, stride):
            for left in range(0, width - size + 1, stride):
                rows, columns = (slice(start, start + size) for start in (top, left))
                small = [slice(s.start // scale, s.stop // scale) for s in (rows, columns)]
                yield hr[rows, columns].tobytes(), lr[*small].tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_set_from_its_layout_to_records(layout, tmp_path, monkeypatch):
    name, make, experiment = LAYOUTS[layout]
    fields, train, held = make(tmp_path, monkeypatch)
    config = shrunk(data_sets.get_config(name), fields, tmp_path / "records")
    checks.validate(config, config.mode)
    checks.require_source(config)
    assert len(open_source(config.data.train, config.data.tfds_dir or None)) == len(train)
    precompute.run(config, str(tmp_path / "run"))

    read = {}
    for split in ("train", "eval"):
        records = Records(tmp_path / "records" / split)
        read[split] = [records[i] for i in range(len(records))]
        assert records.manifest["pictures"] == len({e["name"] for e in read[split]})
    pairs = {s: sorted((e["hr"].tobytes(), e["lr"].tobytes()) for e in read[s]) for s in read}
    if held:  # the data set's own split
        assert pairs["eval"] == sorted(expected(held, config))
        assert pairs["train"] == sorted(expected(train, config))
    else:
        assert sorted(pairs["train"] + pairs["eval"]) == sorted(expected(train, config))
        assert len(pairs["eval"]) == 1
    size, scale = config.data.hr_size, config.data.scale
    for example in read["train"] + read["eval"]:
        assert example["hr"].shape == (size, size, 3)
        assert example["lr"].shape == (size // scale, size // scale, 3)
        # The whole picture is looked at, at the size that the data set asks for.
        cells = config.attention.input_size // config.attention.cell
        assert min(example["attention"].shape[1:]) == cells
        assert np.ptp(example["attention"]) > 0

    if experiment is None:
        return
    monkeypatch.setattr(precompute, "write_shard", None)  # nothing is to be made again
    again = shrunk(experiment(), fields, tmp_path / "records")
    precompute.run(again, str(tmp_path / "experiment"))


def test_names_of_df2k_tell_the_folders_apart(tmp_path, monkeypatch):
    fields, _, _ = df2k(tmp_path, monkeypatch)
    names = [name for name, _ in open_source(fields["train"]).read(0, 5)]
    assert names == [
        "DIV2K_train_HR/0001.png",
        "DIV2K_train_HR/0800.png",
        "Flickr2K_HR/000001.png",
        "Flickr2K_HR/000002.png",
        "Flickr2K_HR/002650.png",
    ]


def test_df2k_from_the_command_line(tmp_path, monkeypatch):
    fields, _, _ = df2k(tmp_path, monkeypatch)
    fields |= {"records": str(tmp_path / "records"), "threads": "1"}
    done = run(
        "--config=configs/data_sets.py:df2k",
        f"--workdir={tmp_path / 'run'}",
        "--config.attention.source=edges",
        *(f"--config.data.{field}={value}" for field, value in fields.items()),
    )
    assert done.returncode == 0, done.stderr
    counts = [len(Records(tmp_path / "records" / split)) for split in ("train", "eval")]
    assert counts == [5 * 2 * 3, 2 * 2 * 2]
