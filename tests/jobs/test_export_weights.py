"""Weights out of a workdir and in again, and exported files that are refused."""

import json

import numpy as np
import pytest
import safetensors.numpy
from golden import sr3
from public_weights import assert_equal, configuration, parameters_of, sr3_entries

from yoda_jax.configuration import restore
from yoda_jax.errors import UserError
from yoda_jax.jobs import export_weights, import_weights
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.weights.foreign import METADATA
from yoda_jax.weights.tensor_file import read_metadata, read_tensors

pytestmark = pytest.mark.usefixtures("one_device")


def test_exported_public_entries_are_the_files_bit_for_bit(exported):
    entries = {k: v for k, v in sr3_entries().items() if k.startswith("denoise_fn.")}
    assert_equal(read_tensors(exported[1]), entries)


@pytest.mark.parametrize("which", [0, 1], ids=["ours", "public"])
def test_either_exported_file_is_imported_with_equal_parameters(which, exported, tmp_path):
    import_weights.run(configuration(), str(tmp_path / "run"), str(exported[which]))
    assert_equal(parameters_of(configuration(), tmp_path / "run"), sr3.parameters())


@pytest.mark.parametrize("which", [0, 1], ids=["ours", "public"])
@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"model.multipliers": (1, 2)}, '"--config.model.multipliers=(1, 2, 2)"'),
        ({"model.groups": 4}, "--config.model.groups=8"),
        ({"model.attention_resolutions": ()}, '"--config.model.attention_resolutions=(8,)"'),
        ({"data.resampling": "matlab"}, "--config.data.resampling=pil"),
        ({"data.scale": 8}, "--config.data.scale=4"),
        ({"diffusion.beta_end": 2e-2}, "; add --config.diffusion.beta_end=0.01, or"),
    ],
)
def test_an_exported_file_wants_its_own_configuration(which, fields, word, exported, tmp_path):
    with pytest.raises(UserError) as error:
        import_weights.run(configuration(**fields), str(tmp_path / "run"), str(exported[which]))
    assert word in str(error.value) and not (tmp_path / "run").exists()


def test_a_damaged_entry_of_an_exported_file_is_named(exported, tmp_path):
    entries, metadata = read_tensors(exported[0]), read_metadata(exported[0])
    del entries["stem.kernel"]
    entries["mid_block1.conv1.kernel"] = np.zeros((1, 2), np.float32)
    file = tmp_path / "file.safetensors"
    safetensors.numpy.save_file(entries, file, metadata)
    with pytest.raises(UserError) as error:
        import_weights.run(configuration(), str(tmp_path / "run"), str(file))
    assert "stem.kernel is missing" in str(error.value) and "2 places" in str(error.value)
    assert "mid_block1.conv1.kernel has the shape (1, 2)" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"names": "ours", "config": {"model": {}}}'])
def test_a_damaged_configuration_of_an_exported_file_is_one_sentence(text, exported, tmp_path):
    file = tmp_path / "file.safetensors"
    metadata = {METADATA: text}
    safetensors.numpy.save_file(read_tensors(exported[0]), file, metadata)
    with pytest.raises(UserError, match="must hold the configuration .*; export it again.$"):
        import_weights.run(configuration(), str(tmp_path / "run"), str(file))
    assert not (tmp_path / "run").exists()


def test_an_exported_file_with_a_field_unknown_here_is_refused_by_it(exported, tmp_path):
    file = tmp_path / "file.safetensors"
    written = json.loads(read_metadata(exported[0])[METADATA])
    written["config"]["model"]["widget"] = 3
    metadata = {METADATA: json.dumps(written)}
    safetensors.numpy.save_file(read_tensors(exported[0]), file, metadata)
    with pytest.raises(UserError, match="found model.widget=3; import it with the version"):
        import_weights.run(configuration(), str(tmp_path / "run"), str(file))
    assert not (tmp_path / "run").exists()


def test_exported_files_hold_the_configuration_of_their_run(exported, imported):
    with Checkpoints(imported[0] / "checkpoints") as checkpoints:
        expected = checkpoints.config()
    del expected["imported"]
    # Folders of this machine.
    expected["workdir"] = expected["data"]["records"] = expected["eval"]["beside"] = ""
    assert expected["train"] != configuration().train.to_dict()  # that which it was exported with
    for file, names in zip(exported, ("ours", "public"), strict=True):
        found = json.loads(read_metadata(file)[METADATA])
        assert found["names"] == names and found["step"] == 0
        assert found["config"] == expected


def test_exported_files_name_no_folders(imported, tmp_path, monkeypatch):
    saved = restore.saved_configuration

    def with_folders(run, step):
        found = saved(run, step)
        found["workdir"] = found["data"]["records"] = found["data"]["tfds_dir"] = "/home/someone"
        found["model"]["encoder"] = found["eval"]["beside"] = "/home/someone/run"
        found["data"]["train"] = "folder:/home/someone/pictures"
        found["eval"]["sets"] = "mine:folder:/home/someone/others"
        return found

    monkeypatch.setattr(restore, "saved_configuration", with_folders)
    export_weights.run(configuration(), str(imported[0]), str(tmp_path / "file"))
    text = read_metadata(tmp_path / "file.safetensors")[METADATA]
    assert "someone" not in text
    assert json.loads(text)["config"]["data"]["eval"].startswith("samples:")


def test_how_pictures_are_sampled_is_as_given_and_how_it_was_trained_as_saved(imported, tmp_path):
    given = configuration(**{"mask.lower_bound": 0.4, "diffusion.sampling_steps": 7})
    given.train.steps = 12345
    export_weights.run(given, str(imported[0]), str(tmp_path / "file"))
    found = json.loads(read_metadata(tmp_path / "file.safetensors")[METADATA])["config"]
    assert found["mask"]["lower_bound"] == 0.4 and found["diffusion"]["sampling_steps"] == 7
    assert found["train"]["steps"] != 12345


def test_in_half_precision_it_is_half_as_large_and_rounded(exported, imported, tmp_path):
    export_weights.run(configuration(), str(imported[0]), str(tmp_path / "half"), half=True)
    half = tmp_path / "half.safetensors"
    assert half.stat().st_size < 0.55 * exported[0].stat().st_size
    for name, values in read_tensors(exported[0]).items():
        np.testing.assert_array_equal(read_tensors(half)[name], values.astype(np.float16), name)


def test_numbers_that_half_precision_does_not_hold_are_refused():
    with pytest.raises(UserError, match="up to 65504, found 7e.04"):
        export_weights._halved(np.array([1.0, -7e4]))


def test_an_empty_workdir_exports_nothing(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        export_weights.run(configuration(), str(tmp_path / "none"), str(tmp_path / "out" / "file"))
    assert not list(tmp_path.iterdir())
