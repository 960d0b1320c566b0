"""What the tests of records and of public files begin with: made once for each file of tests."""

import albums
import jax
import public_weights
import pytest
from jax.sharding import AxisType
from PIL import Image
from tensor_files import save

from yoda_jax.jobs import export_weights, import_weights, precompute
from yoda_jax.training import sharding


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder of good photographs, JPEG and PNG."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "a").mkdir()
    for name in albums.GOOD:
        Image.fromarray(albums.photograph(name)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def reference(album, tmp_path_factory):
    """What one uninterrupted run writes of them."""
    workdir = tmp_path_factory.mktemp("reference")
    precompute.run(albums.configuration(album), str(workdir))
    return workdir


@pytest.fixture(scope="module")
def one_device():
    """Eight copies of every weight would take several times as long to write."""
    with pytest.MonkeyPatch.context() as patch:
        mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.devices()[:1])
        patch.setattr(sharding, "make_mesh", lambda: mesh)
        yield


@pytest.fixture(scope="module")
def imported(one_device, tmp_path_factory):
    """(workdir, file) of an imported SR3."""
    folder = tmp_path_factory.mktemp("sr3")
    file = save(folder / "I640000_E37_gen.npz", public_weights.sr3_entries())
    averaged = public_weights.configuration(**{"train.ema_decay": 0.9})
    import_weights.run(averaged, str(folder / "run"), file)
    return folder / "run", file


@pytest.fixture(scope="module")
def exported(imported, tmp_path_factory):
    """The files of that workdir in our names and in public ones."""
    stem = tmp_path_factory.mktemp("exported") / "deeper" / "weights"
    export_weights.run(public_weights.configuration(), str(imported[0]), f"{stem}.safetensors")
    return stem.with_suffix(".safetensors"), stem.with_suffix(".public.safetensors")
