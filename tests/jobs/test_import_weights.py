"""Public files into a workdir: their weights bit for bit, and all that is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extras import needs_torch
from golden import sr3, srdiff
from golden.recipe import recipe
from public_weights import assert_equal, configuration, parameters_of, sr3_entries
from reference import assert_near
from tensor_files import save

from yoda_jax.configuration import inference, restore
from yoda_jax.errors import UserError
from yoda_jax.jobs import export_weights, import_weights, precompute, train
from yoda_jax.runs import Run
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.weights import public
from yoda_jax.weights.tensor_file import read_tensors

pytestmark = pytest.mark.usefixtures("one_device")


def test_the_workdir_holds_the_files_weights_at_step_0(imported):
    assert_equal(parameters_of(configuration(), imported[0]), sr3.parameters())
    with Checkpoints(imported[0] / "checkpoints") as checkpoints:
        assert checkpoints.config()["imported"] == "I640000_E37_gen.npz"


def test_the_imported_network_gives_the_golden_output(imported):
    golden, network = sr3.load_golden(), inference.method(configuration()).network

    def forward(params):
        params = {"params": params}
        condition = network.apply(params, golden["cond"], golden["cond"], method="condition")
        level = jnp.asarray(golden["noise_level"][:, 0])
        return network.apply(params, golden["x_noisy"], level, condition)

    params = jax.device_get(parameters_of(configuration(), imported[0]))
    assert_near(jax.jit(forward)(params), golden["out"])


@pytest.mark.parametrize(
    "suffix",
    [
        ".safetensors",
        pytest.param(".pth", marks=needs_torch),
        pytest.param(".ckpt", marks=needs_torch),
    ],
)
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
    config = restore.with_encoder(config, Run(tmp_path / "run"))
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
        (
            {"model.features": 32, "model.multipliers": (1, 2)},
            dict,
            [
                "another configuration",
                "--config.model.features=16",
                '"--config.model.multipliers=(1, 2, 2)"',
            ],
        ),
        (
            {"model.attention_resolutions": ()},
            dict,
            ['"--config.model.attention_resolutions=(8,)"'],
        ),
        ({"model.name": "rrdb", "mask.enabled": False}, dict, ["--config.model.name=sr3"]),
        (
            {"data.resampling": "matlab", "diffusion.formulation": "srdiff"},
            dict,
            ["--config.data.resampling=pil", "--config.diffusion.formulation=sr3"],
        ),
        ({"diffusion.beta_end": 2e-2}, dict, ["; add --config.diffusion.beta_end=0.01, or"]),
        (
            {"diffusion.steps": 1999, "diffusion.sampling_steps": 10},
            dict,
            ["; add --config.diffusion.steps=2000, or"],
        ),
        ({}, without(MID), [f"{MID.removeprefix('denoise_fn.')} is missing"]),
        ({}, without("denoise_fn.downs.0.bias"), ["downs.0.bias is missing"]),
        ({}, reshaped(MID, (32, 32, 1, 1)), [MID.removeprefix("denoise_fn."), "(32, 32, 1, 1)"]),
        ({}, reshaped("denoise_fn.extra.weight", (3,)), ["extra.weight is unknown"]),
        ({}, without("denoise_fn.noise_level_mlp.1.weight"), ["SR3, SRDiff or RRDB", "found"]),
    ],
)
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
    method = inference.method(config)
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
        "model.features": 8,
        "model.multipliers": (1,),
        "model.groups": 4,
        "model.attention_resolutions": (),
        "train.batch_size": 8,
        "train.learning_rate": rate,
    }
    plain = configuration(**tiny, **{"mask.enabled": False})
    file, source = drawn(plain, tmp_path)
    import_weights.run(plain, workdir, file)
    masked = configuration(**tiny)
    precompute.run(masked, workdir, splits=("train",))
    train.fit(masked, workdir)
    params, mask, step = restore.weights(masked, Run(workdir))
    assert step == 1 and mask["enabled"]
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(source), strict=True)
    moved = np.concatenate([np.abs(np.asarray(a) - b).ravel() for a, b in pairs])
    assert moved.max() < 1.01 * rate and np.median(moved) > 0.9 * rate
