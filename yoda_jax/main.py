"""The command line: `python -m yoda_jax.main --config=FILE [--mode=...] [--workdir=...]`."""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is first imported

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from yoda_jax import logs
from yoda_jax.configuration import fields, restore
from yoda_jax.errors import UserError
from yoda_jax.preemption import stopping_in_order
from yoda_jax.processes import ending_together, join_processes
from yoda_jax.runs import Run, check_bucket, located, on_a_disk
from yoda_jax.training.checkpoint_folder import CheckpointFolder
from yoda_jax.training.sharding import start_devices, use_all_cpu_cores

# Mode -> module in yoda_jax.jobs.
JOBS = {
    "train": "train",
    "compare": "compare",
    "study": "study",
    "precompute": "precompute",
    "eval": "evaluate",
    "show": "show",
    "compile": "compile",
    "import": "import_weights",
    "export": "export_weights",
    "upscale": "upscale",
    "sweep": "sweep",
}
_OF_A_RUN = ("eval", "export", "show", "sweep")  # take a run's own configuration
_MODEL = "photos_x4"  # that pictures are up-scaled with, unless another is named
_WITHOUT_SOURCE = ("show", "compile", "import", "export", "upscale")  # need no pictures to be named
# Of mode upscale, as `Sampling`: what the checkpoint says where they are left out.
_SAMPLING = {
    "seed": (flags.DEFINE_integer, "the noise's (0)"),
    "steps": (flags.DEFINE_integer, "steps of the chain (at most 20)"),
    "sampler": (flags.DEFINE_string, "ddpm, ddpm_beta, ddim or multistep"),
    "mask": (flags.DEFINE_bool, "the area mask, or --nomask"),
    "lower_bound": (flags.DEFINE_float, "least share of the steps at every pixel"),
    "truncate": (flags.DEFINE_float, "share of the pixels that start later, with the next"),
    "late_start": (flags.DEFINE_float, "share of the steps for the whole picture, without a map"),
    "tile": (flags.DEFINE_integer, "side of a tile in pixels of the result"),
    "batch": (flags.DEFINE_integer, "tiles at once (8)"),
}
# What only some modes take: flag -> modes.
_TAKEN_BY = {
    "input": ("import", "upscale"),
    "output": ("export", "upscale"),
    "step": ("eval", "export", "upscale", "sweep"),
    "against": ("eval",),
    "topology": ("compile",),
    "max_batch": ("compile",),
    "weights": ("upscale",),
    "half": ("export",),
    "quality": ("upscale",),
    "trajectory": ("upscale",),
    **dict.fromkeys(_SAMPLING, ("upscale",)),
}
_NEEDED = {
    ("import", "input"): "FILE",
    ("upscale", "input"): "FILE",
    ("export", "output"): "FILE",
    ("compile", "topology"): "SLICE",
}
# Packages of the extra [train].
_OF_TRAINING = {
    *("clu", "google_crc32c", "matplotlib", "tensorboard", "tensorflow", "tensorflow_datasets")
}
# Errors of a file that a user can mend; others are ours and keep their traceback.
_OF_THE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

_MODE = flags.DEFINE_enum("mode", None, list(JOBS), "What to do; default: the configuration's.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Of checkpoints, logs and reports.")
_DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    "none",
    "Several processes: none, auto (TPU pods, clusters), or "
    "HOST:PORT,COUNT,INDEX with the address of process 0.",
)
flags.DEFINE_string("input", None, "Of mode import: a checkpoint file; upscale: pictures.")
flags.DEFINE_string("output", None, "Of modes export and upscale (default: beside the input).")
flags.DEFINE_string("topology", None, "Of mode compile: a slice of TPUs, as v5e:4x4.")
flags.DEFINE_bool("max_batch", None, "Of mode compile: look for the largest batch that fits.")
flags.DEFINE_integer("step", None, "Of modes eval, export, upscale and sweep: an older one.")
flags.DEFINE_string("against", None, "Of mode eval with eval.sets: another run's workdir.")
flags.DEFINE_string(
    "weights", None, f"Of mode upscale: a file of mode export, or a name ({_MODEL}, the default)."
)
flags.DEFINE_bool("half", None, "Of mode export: in half precision.")
flags.DEFINE_integer("quality", None, "Of mode upscale: of JPEG and WebP, 1..100 (95).", 1, 100)
flags.DEFINE_string("trajectory", None, "Of mode upscale: a .gif of the chain.")
for _name, (_define, _help) in _SAMPLING.items():
    _define(_name, None, f"Of mode upscale: {_help}.")


def _define_config(argv: Sequence[str]) -> None:
    """Defines the flag --config: a file, or a run's own configuration.

    Without a file, eval and export of a workdir take the configuration of its checkpoint, so that
    --config.field=... can change a field of it.
    """
    given = flags.FlagValues()
    for name in ("config", "mode", "workdir", "weights"):
        flags.DEFINE_string(name, "", "", flag_values=given)
    flags.DEFINE_integer("step", None, "", flag_values=given)
    given(argv, known_only=True)
    path = given.config.partition(":")[0]  # a variant may follow
    if path and Path(path).is_file():
        config_flags.DEFINE_config_file("config", None, "Configuration file, see configs/.")
    elif path:
        raise UserError(f"--config={path} does not exist; give a file, see configs/.")
    elif given.workdir and given.mode in _OF_A_RUN:
        run = Run(given.workdir)
        config = restore.configuration(run, given.step)
        if config is None:
            steps = CheckpointFolder(run.checkpoints).steps()
            found = f" of step {given.step}, but of {', '.join(map(str, steps))}" if steps else ""
            raise UserError(
                f"{run} holds no checkpoint{found}; give the --workdir of a run that saved one, or "
                "a --config."
            )
        config_flags.DEFINE_config_dict("config", config)
    elif given.mode == "upscale":
        from yoda_jax.upscaler import configuration_of

        if not (given.weights or given.workdir):
            flags.FLAGS.set_default("weights", _MODEL)
        config = configuration_of(given.weights or given.workdir or _MODEL, given.step)
        config_flags.DEFINE_config_dict("config", config)
    else:
        raise UserError(
            "--config is not set; give a file, for example --config=configs/demo.py (eval, export, "
            "show and sweep of a --workdir need none, and upscale does not)."
        )


def _run(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"Unknown argument {argv[1]!r}; every option starts with --.")
    config = flags.FLAGS.config
    mode = _MODE.value or config.mode
    if mode not in JOBS:
        raise UserError(f"--config.mode must be one of {', '.join(JOBS)}, found {mode!r}.")
    fields.validate(config, mode)
    if mode not in _WITHOUT_SOURCE and not (mode == "eval" and config.eval.sets):
        fields.require_source(config)
    options = _options(mode)
    workdir = options.pop("weights", None) or _WORKDIR.value or config.workdir
    if not workdir:
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        workdir = f"runs/{Path(file.partition(':')[0]).stem}"
    for path in (workdir, config.data.records, config.model.encoder):
        check_bucket(path)
    train = config.train
    sizes = train.batch_size // train.accumulate, config.eval.batch_size
    use_all_cpu_cores((options["sampling"].get("batch", 8),) if mode == "upscale" else sizes)
    join_processes(_DISTRIBUTED.value, train.join_seconds)
    cache = os.path.expanduser(os.environ.get("JAX_COMPILATION_CACHE_DIR", "~/.cache/yoda_jax"))
    if not cache.startswith("~"):  # who has no home folder has no cache
        jax.config.update("jax_compilation_cache_dir", os.fspath(located(cache)))
    with ending_together(), stopping_in_order():
        start_devices()
        logging.info(
            "%s in %s: process %d of %d, %d %s devices in all",
            *(mode, workdir, jax.process_index(), jax.process_count(), jax.device_count()),
            jax.default_backend(),
        )
        if mode not in ("precompute", "import", "upscale"):  # these look for no encoder
            run = Run(workdir)
            config = restore.with_encoder(config, run, run.within("base"), run.within("yoda"))
        import_module(f"yoda_jax.jobs.{JOBS[mode]}").run(config, workdir, **options)


def _options(mode: str) -> dict[str, Any]:
    """What the mode takes besides; raises UserError for one too many or too few."""
    options = {}
    for name, modes in _TAKEN_BY.items():
        value = flags.FLAGS[name].value
        if mode in modes:
            options[name] = value
            if not value and (mode, name) in _NEEDED:
                raise UserError(f"--mode={mode} needs --{name}={_NEEDED[mode, name]}, found none.")
            if name == "input" and value:
                on_a_disk("--input", value)
        elif value is not None:
            raise UserError(f"--{name} is of --mode={' or '.join(modes)}, found --mode={mode}.")
    if mode == "upscale":
        for name, value in (("step", options["step"]), ("workdir", _WORKDIR.value)):
            if value is not None and options["weights"]:
                raise UserError(f"--{name} is of a run, found --weights={options['weights']} too.")
        given = {name: options.pop(name) for name in _SAMPLING}
        options["sampling"] = {k: v for k, v in given.items() if v is not None}
    return options


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """Parses the flags; a wrong one ends the program like any other mistake."""
    try:
        _define_config(argv)
        return flags.FLAGS(argv)
    except UserError as error:
        _fail(error)
    except AttributeError as error:  # what ml_collections raises for an unknown field
        _fail(f"The configuration has no such field: {' '.join(str(error).split())}")
    except (flags.Error, ImportError, SyntaxError, TypeError, ValueError) as error:
        _fail(str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: "))


def _fail(message: object) -> NoReturn:
    print(f"yoda_jax: {message}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Runs a job; a user's mistake ends it with one sentence and status 2."""
    logs.set_up_log()
    jax.config.config_with_absl()

    def run(argv: Sequence[str]) -> None:
        try:
            _run(argv)
        except UserError as error:
            _fail(error)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in _OF_TRAINING:
                raise
            _fail(
                f"{package} is not installed, which training and evaluation need; type "
                'pip install -e ".[train]" in the checkout.'
            )
        except OSError as error:
            if error.errno not in _OF_THE_SYSTEM or not error.filename:
                raise
            _fail(f"{error.filename} cannot be used: {error.strerror.lower()}.")
        except Exception as error:
            # What a bucket answers comes as a kind of TensorFlow's own.
            if not type(error).__module__.startswith("tensorflow."):
                raise
            answer = " ".join(str(error).split())
            _fail(f"A bucket's answer: {answer}; check its name, your permission and the network.")

    app.run(run, flags_parser=_parse)


if __name__ == "__main__":
    main()
