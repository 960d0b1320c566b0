"""The command line: `python -m yoda_jax.main --config=FILE [--mode=...] [--workdir=...]`."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is first imported

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from yoda_jax.errors import UserError
from yoda_jax.jobs import console, validation
from yoda_jax.training.sharding import join_processes, use_all_cpu_cores

# Mode -> module in yoda_jax.jobs.
JOBS = {
    "train": "train",
    "compare": "compare",
    "study": "study",
    "precompute": "precompute",
    "eval": "evaluate",
    "show": "show",
    "import": "import_weights",
    "export": "export_weights",
}

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, see configs/.")
_MODE = flags.DEFINE_enum("mode", None, list(JOBS), "What to do; default: the configuration's.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Of checkpoints, logs and reports.")
_DISTRIBUTED = flags.DEFINE_string(
    "distributed",
    "none",
    "Several processes: none, auto (TPU pods, clusters), or "
    "HOST:PORT,COUNT,INDEX with the address of process 0.",
)
_PATHS = {
    "import": flags.DEFINE_string("input", None, "Of mode import: a checkpoint file."),
    "export": flags.DEFINE_string("output", None, "Of mode export: a .safetensors file."),
}


def _configuration() -> tuple[ConfigDict, str, str]:
    """The validated configuration with mode and workdir. Raises UserError."""
    if _CONFIG.value is None:
        raise UserError("--config is not set; give a file, for example --config=configs/demo.py.")
    # A variant may follow the file's name after a colon.
    path = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if not Path(path).is_file():
        raise UserError(f"--config={path} does not exist; give a file, see configs/.")
    config = _CONFIG.value
    mode = _MODE.value or config.mode
    if mode not in JOBS:
        raise UserError(f"--config.mode must be one of {', '.join(JOBS)}, found {mode!r}.")
    validation.validate(config)
    if mode not in ("show", *_PATHS):
        validation.require_source(config)
    return config, mode, _WORKDIR.value or config.workdir or f"runs/{Path(path).stem}"


def _run(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"Unknown argument {argv[1]!r}; every option starts with --.")
    config, mode, workdir = _configuration()
    paths = _paths(mode)
    use_all_cpu_cores(config.train.batch_size)
    join_processes(_DISTRIBUTED.value)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", "~/.cache/yoda_jax")
    jax.config.update("jax_compilation_cache_dir", str(Path(cache).expanduser()))
    logging.info(
        "%s in %s: process %d of %d, %d %s devices in all",
        mode,
        workdir,
        jax.process_index(),
        jax.process_count(),
        jax.device_count(),
        jax.default_backend(),
    )
    import_module(f"yoda_jax.jobs.{JOBS[mode]}").run(config, workdir, **paths)


def _paths(mode: str) -> dict[str, str]:
    """The mode's own path, if it has one. Raises UserError for one too many or too few."""
    given = {flag.name: flag.value for flag in _PATHS.values() if flag.value}
    wanted = [_PATHS[mode].name] if mode in _PATHS else []
    if list(given) != wanted:
        expected = f"--{wanted[0]}=FILE" if wanted else "neither --input nor --output"
        raise UserError(f"--mode={mode} needs {expected}, found {', '.join(given) or 'neither'}.")
    return given


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """Parses the flags; a wrong one ends the program like any other mistake."""
    try:
        return flags.FLAGS(argv)
    except AttributeError as error:  # what ml_collections raises for an unknown field
        _fail(f"The configuration has no such field: {' '.join(str(error).split())}")
    except (flags.Error, ImportError, SyntaxError, TypeError, ValueError) as error:
        _fail(str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: "))


def _fail(message: object) -> NoReturn:
    print(f"yoda_jax: {message}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Runs a job; a user's mistake ends it with one sentence and status 2."""
    console.set_up_log()
    jax.config.config_with_absl()

    def run(argv: Sequence[str]) -> None:
        try:
            _run(argv)
        except (UserError, OSError) as error:
            _fail(error)

    app.run(run, flags_parser=_parse)


if __name__ == "__main__":
    main()
