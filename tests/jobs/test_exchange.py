"""Weights into a workdir and out again: public files, exported ones, and all that is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from extras import needs_torch
from golden import sr3, srdiff
from golden.recipe import recipe
from jax.sharding import AxisType
from tensor_files import save

from configs import demo
from yoda_jax.diffusion.schedule import linear
from yoda_jax.errors import UserError
from yoda_jax.jobs import build, evaluate, export_weights, import_weights, parts, precompute, train
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.weights import public
from yoda_jax.weights.tensor_file import read_metadata, read_tensors


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Eight copies of every weight would take several times as long to write."""
    with pytest.MonkeyPatch.context() as patch:
        mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.devices()[:1])
        patch.setattr(sharding, "make_mesh", lambda: mesh)
        yield


def configuration(name="sr3", **fields):
    """That of the golden networks, on the demonstration's photographs."""
    config = demo.get_config()
    config.mode = "train"
    config.data.update(hr_size=32, stride=64, patch=16)
    config.attention.update(source="edges", input_size=64, cell=4)
    config.train.update(batch_size=2, steps=1, checkpoint_every=1, log_every=1, warmup_steps=0,
                        ema_decay=0.0)  # fmt: skip
    config.eval.update(pictures=2, batch_size=2)
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
    averaged = configuration(**{"train.ema_decay": 0.9})
    import_weights.run(averaged, str(folder / "run"), file)
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
    if suffix == ".ckpt":  # SRDiff's trainer
        alone = {"global_step": 5, "state_dict": {"model": alone}}
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


def drawn(config, folder):
    """(a public file of a configuration's network, its weights)."""
    method = build.method(config)
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), 8))
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    names = [(name, v.shape) for name, v in public.to_public(method.network, zeros).items()]
    entries = recipe(names, seed=5)
    source = public.from_public(method.network, public.entries_of(entries)[1], shapes)
    return save(folder / "drawn.npz", entries), source


def test_fine_tuning_starts_from_the_imported_weights_with_the_mask_on(tmp_path):
    """Adam's first step moves a weight by no more than the learning rate."""
    rate, workdir = 1e-4, str(tmp_path / "run")
    tiny = {
        "model.features": 8, "model.multipliers": (1,), "model.groups": 4,
        "model.attention_resolutions": (), "train.batch_size": 8, "train.learning_rate": rate,
    }  # fmt: skip
    plain = configuration(**tiny, **{"mask.enabled": False})
    file, source = drawn(plain, tmp_path)
    import_weights.run(plain, workdir, file)
    masked = configuration(**tiny)
    precompute.run(masked, workdir, splits=("train",))
    train.fit(masked, workdir)
    params, trained_masked, step = evaluate.load_weights(masked, workdir)
    assert step == 1 and trained_masked
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(source), strict=True)
    moved = np.concatenate([np.abs(np.asarray(a) - b).ravel() for a, b in pairs])
    assert moved.max() < 1.01 * rate and np.median(moved) > 0.9 * rate


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
    metadata = {import_weights.METADATA: text}
    safetensors.numpy.save_file(read_tensors(exported[0]), file, metadata)
    with pytest.raises(UserError, match="must hold the configuration .*; export it again.$"):
        import_weights.run(configuration(), str(tmp_path / "run"), str(file))
    assert not (tmp_path / "run").exists()


def test_an_exported_file_with_a_field_unknown_here_is_refused_by_it(exported, tmp_path):
    file = tmp_path / "file.safetensors"
    written = json.loads(read_metadata(exported[0])[import_weights.METADATA])
    written["config"]["model"]["widget"] = 3
    metadata = {import_weights.METADATA: json.dumps(written)}
    safetensors.numpy.save_file(read_tensors(exported[0]), file, metadata)
    with pytest.raises(UserError, match="found model.widget=3; import it with the version"):
        import_weights.run(configuration(), str(tmp_path / "run"), str(file))
    assert not (tmp_path / "run").exists()


def test_exported_files_hold_the_configuration_of_their_run(exported, imported):
    with Checkpoints(imported[0] / "checkpoints") as checkpoints:
        expected = checkpoints.config()
    del expected["imported"]
    assert expected["train"] != configuration().train.to_dict()  # that which it was exported with
    for file, names in zip(exported, ("ours", "public"), strict=True):
        found = json.loads(read_metadata(file)[import_weights.METADATA])
        assert found["names"] == names and found["step"] == 0
        assert found["config"] == expected


def test_an_empty_workdir_exports_nothing(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        export_weights.run(configuration(), str(tmp_path / "none"), str(tmp_path / "out" / "file"))
    assert not list(tmp_path.iterdir())
