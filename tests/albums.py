"""A folder of real photographs, and the records that are made of it."""

from pathlib import Path

from skimage import data
from sklearn.datasets import load_sample_image

from configs import default
from yoda_jax.data.records import Records

GOOD = ("a/china.jpg", "a/flower.jpg", "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def photograph(name):
    stem = Path(name).stem
    if stem in ("china", "flower"):
        return load_sample_image(f"{stem}.jpg")[100:180, 200:264]
    return getattr(data, stem)()[60:140, 150:250]


def configuration(folder, **changes):
    """A small configuration; `data__scale=2` changes data.scale."""
    config = default.get_config()
    config.data.update(
        train=f"folder:{folder}",
        holdout=2,
        hr_size=32,
        stride=32,
        scale=4,
        threads=2,
        pictures_per_shard=1,
    )
    config.attention.update(source="edges", input_size=32, cell=4)
    for name, value in changes.items():
        group, field = name.split("__")
        config[group][field] = value
    return config


def all_files(folder):
    return {p.relative_to(folder).as_posix(): p for p in Path(folder).rglob("*") if p.is_file()}


def contents(folder):
    """Bytes of all shards with their indices and manifests."""
    return {
        name: path.read_bytes()
        for name, path in all_files(folder).items()
        if "tfrecord" in name or name.endswith("manifest.json")
    }


def records(workdir, split):
    found = Records(Path(workdir) / "records" / split)
    return [found[i] for i in range(len(found))], found.manifest
