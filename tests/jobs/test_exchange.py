"""Weights into a workdir and out again: public files, exported ones, and all that is refused."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from absl.testing import flagsaver
from golden import sr3, srdiff
from golden.recipe import recipe

from configs import demo
from yoda_jax import main
from yoda_jax.diffusion.schedule import linear
from yoda_jax.errors import UserError
from yoda_jax.jobs import build, evaluate, export_weights, import_weights, parts, precompute, train
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.weights.tensor_file import read_metadata, read_tensors

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch, an optional extra, is not installed",
)


def configuration(name="sr3", **fields):
    """That of the golden networks, on the demonstration's photographs."""
    config = demo.get_config()
    config.mode = "train"
    config.data.update(hr_size=32, stride=64, patch=16)
    config.attention.update(source="edges", input_size=64, cell=4)
    config.train.update(batch_size=8, steps=1, checkpoint_every=1, log_every=1, warmup_steps=0)
    config.eval.update(pictures=8, batch_size=8)
    config.model.update(name=name, features=16)
    if name == "sr3":
        config.model.update(attention_resolutions=(8,), groups=8)
    else:
        config.data.border = "srdiff"
        config.diffusion.update(
            formulation="srdiff", schedule="cosine", steps=100, sampling_steps=100
        )
    if name == "rrdb":
        config.mask.enabled, config.model.blocks = False, 2
    config.update_from_flattened_dict(fields)
    return config


def sr3_entries():
    """The golden network as SR3's trainer saves it, with the table of its schedule."""
    shapes = json.loads(sr3.KEYS.read_text())["tiny"]["entries"]
    drawn = recipe([(name, tuple(shape)) for name, shape in shapes.items()], seed=1234)
    betas = np.array(linear(2000, 1e-6, 1e-2), np.float32)
    entries = {f"denoise_fn.{name}": value for name, value in drawn.items()}
    return {"betas": betas, "alphas_cumprod": np.cumprod(1 - betas)} | entries


def save(path, entries):
    if path.suffix == ".npz":
        np.savez(path, **entries)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(entries, path)
    else:
        import torch

        tensors = {name: torch.from_numpy(value) for name, value in entries.items()}
        if path.suffix == ".ckpt":  # SRDiff's trainer
            tensors = {"global_step": 5, "state_dict": {"model": tensors}}
        torch.save(tensors, path)
    return str(path)


def parameters_of(config, workdir):
    params, _, step = evaluate.load_weights(parts.complete(config, str(workdir)), str(workdir))
    assert step == 0
    return params


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """(workdir, file) of an imported SR3."""
    folder = tmp_path_factory.mktemp("sr3")
    file = save(folder / "I640000_E37_gen.npz", sr3_entries())
    import_weights.run(configuration(), str(folder / "run"), file)
    return folder / "run", file


@pytest.fixture(scope="module")
def exported(imported, tmp_path_factory):
    """The files of that workdir in our names and in public ones."""
    stem = tmp_path_factory.mktemp("exported") / "deeper" / "weights"
    export_weights.run(configuration(), str(imported[0]), f"{stem}.safetensors")
    return stem.with_suffix(".safetensors"), stem.with_suffix(".public.safetensors")


def test_the_workdir_holds_the_files_weights_at_step_0(imported):
    assert_equal(parameters_of(configuration(), imported[0]), sr3.parameters())
    with Checkpoints(imported[0] / "checkpoints") as checkpoints:
        assert checkpoints.config()["imported"] == "I640000_E37_gen.npz"


def test_the_imported_network_gives_the_golden_output(imported):
    golden, network = sr3.load_golden(), build.method(configuration()).network

    def forward(params):
        params = {"params": params}
        condition = network.apply(params, golden["cond"], golden["cond"], method="condition")
        level = jnp.asarray(golden["noise_level"][:, 0])
        return network.apply(params, golden["x_noisy"], level, condition)

    params = jax.device_get(parameters_of(configuration(), imported[0]))
    np.testing.assert_allclose(jax.jit(forward)(params), golden["out"], atol=2e-5)


@pytest.mark.parametrize(
    "suffix", [".safetensors", pytest.param(".pth", marks=needs_torch),
               pytest.param(".ckpt", marks=needs_torch)]
)  # fmt: skip
def test_an_encoder_comes_from_every_kind_of_file(suffix, tmp_path):
    entries = srdiff.drawn_entries()
    alone = {k.removeprefix("rrdb."): v for k, v in entries.items() if k.startswith("rrdb.")}
    file = save(tmp_path / f"rrdb{suffix}", alone)
    import_weights.run(configuration("rrdb"), str(tmp_path / "run"), file)
    params = parameters_of(configuration("rrdb"), tmp_path / "run")
    assert_equal(params, srdiff.parameters()["encoder"])


def test_srdiff_brings_its_encoder_along(tmp_path):
    file = save(tmp_path / "celeb.npz", srdiff.drawn_entries())
    config = configuration("srdiff")
    import_weights.run(config, str(tmp_path / "run"), file)
    assert_equal(parameters_of(config, tmp_path / "run"), srdiff.parameters())
    export_weights.run(config, str(tmp_path / "run"), str(tmp_path / "out"))
    back = read_tensors(tmp_path / "out.public.safetensors")
    assert_equal(back, srdiff.drawn_entries())
    import_weights.run(config, str(tmp_path / "again"), str(tmp_path / "out.safetensors"))
    assert_equal(parameters_of(config, tmp_path / "again"), srdiff.parameters())


def without(name):
    def change(entries):
        del entries[name]

    return change


def reshaped(name, shape):
    def change(entries):
        entries[name] = np.zeros(shape, np.float32)

    return change


MID = "denoise_fn.mid.1.res_block.block1.block.3.weight"


@pytest.mark.parametrize(
    ("fields", "change", "words"),
    [
        ({"model.features": 32, "model.multipliers": (1, 2)}, dict,
         ["another configuration", "--config.model.features=16",
          '"--config.model.multipliers=(1, 2, 2)"']),
        ({"model.attention_resolutions": ()}, dict,
         ['"--config.model.attention_resolutions=(8,)"']),
        ({"model.name": "rrdb", "mask.enabled": False}, dict, ["--config.model.name=sr3"]),
        ({"data.border": "matlab", "diffusion.formulation": "srdiff"}, dict,
         ["--config.data.border=pil", "--config.diffusion.formulation=sr3"]),
        ({"diffusion.beta_end": 2e-2}, dict, ["betas from 1e-06 to 0.01", "0.02"]),
        ({"diffusion.steps": 1999, "diffusion.sampling_steps": 10}, dict,
         ["2000 steps", "1999", "--config.diffusion.schedule"]),
        ({}, without(MID), [f"{MID.removeprefix('denoise_fn.')} is missing"]),
        ({}, without("denoise_fn.downs.0.bias"), ["downs.0.bias is missing"]),
        ({}, reshaped(MID, (32, 32, 1, 1)), [MID.removeprefix("denoise_fn."), "(32, 32, 1, 1)"]),
        ({}, reshaped("denoise_fn.extra.weight", (3,)), ["extra.weight is unknown"]),
        ({}, without("denoise_fn.noise_level_mlp.1.weight"), ["SR3, SRDiff or RRDB", "found"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_written(fields, change, words, tmp_path):
    entries = sr3_entries()
    change(entries)
    file = save(tmp_path / "file.safetensors", entries)
    with pytest.raises(UserError) as error:
        import_weights.run(configuration(**fields), str(tmp_path / "run"), file)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not (tmp_path / "run").exists()


def test_a_workdir_with_checkpoints_stays_untouched(imported):
    workdir, file = imported
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    with pytest.raises(UserError, match="holds checkpoints already; name another --workdir"):
        import_weights.run(configuration(), str(workdir), file)
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_fine_tuning_starts_from_the_imported_weights_with_the_mask_on(tmp_path, imported):
    """Adam's first step moves no weight by more than the learning rate."""
    config = configuration(**{"mask.enabled": False})
    import_weights.run(config, str(tmp_path), imported[1])
    rate = 1e-4
    masked = configuration(**{"train.learning_rate": rate, "mask.loss_norm": "area"})
    assert masked.mask.enabled
    precompute.run(masked, str(tmp_path))
    train.fit(masked, str(tmp_path))
    params, trained_masked, step = evaluate.load_weights(masked, str(tmp_path))
    assert step == 1 and trained_masked
    moved = [
        np.abs(np.asarray(a) - b)
        for a, b in zip(
            jax.tree.leaves(params), jax.tree.leaves(sr3.parameters()), strict=True
        )
    ]
    assert max(m.max() for m in moved) < 1.01 * rate
    # The average takes over most of the first step.
    assert np.median(np.concatenate([m.ravel() for m in moved])) > 0.5 * rate


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
        ({"data.border": "matlab"}, "--config.data.border=pil"),
        ({"data.scale": 8}, "--config.data.scale=4"),
        ({"diffusion.beta_end": 2e-2}, "betas from 1e-06 to 0.01"),
    ],
)
def test_an_exported_file_wants_its_own_configuration(which, fields, word, exported, tmp_path):
    with pytest.raises(UserError) as error:
        import_weights.run(configuration(**fields), str(tmp_path / "run"), str(exported[which]))
    assert word in str(error.value) and not (tmp_path / "run").exists()


def test_exported_files_hold_their_configuration(exported):
    for file, names in zip(exported, ("ours", "public"), strict=True):
        found = json.loads(read_metadata(file)[import_weights.METADATA])
        assert found["names"] == names and found["step"] == 0
        assert found["config"] == json.loads(json.dumps(configuration().to_dict()))


def test_an_empty_workdir_exports_nothing(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        export_weights.run(configuration(), str(tmp_path / "none"), str(tmp_path / "out" / "file"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--mode=import"], "--mode=import needs --input=FILE, found neither."),
        (["--mode=import", "--output=x"], "--mode=import needs --input=FILE, found output."),
        (["--mode=export"], "--mode=export needs --output=FILE, found neither."),
        (["--mode=train", "--input=x.pth"],
         "--mode=train needs neither --input nor --output, found input."),
        (["--mode=import", "--input=/nowhere/x.pth"],
         "/nowhere/x.pth must be a weights file, found: no such file or directory"),
        (["--mode=import", "--input=x.txt"], "found the ending '.txt'"),
    ],
)  # fmt: skip
def test_a_mistake_at_the_command_line_is_one_sentence(
    arguments, sentence, tmp_path, monkeypatch, capsys
):
    workdir = tmp_path / "run"
    monkeypatch.setattr(
        "sys.argv",
        ["yoda_jax", "--config=configs/demo.py", f"--workdir={workdir}", *arguments],
    )
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    *_, message = capsys.readouterr().err.strip().splitlines()
    assert message.startswith("yoda_jax: ") and sentence in message
    assert not workdir.exists()
