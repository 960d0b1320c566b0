"""Times training around its step: python -m tests.bench.train [--pictures FOLDER].

A run of the demonstration's network on crops of 128x128 records, as a user starts it: steps/s,
share of time that they wait for input, memory of the host, what a checkpoint stalls, and how long
a killed run takes from its start to its next step. Then the input alone, from records to batches
of 128x128, by threads and processes that take turns. Prints a Markdown table.
"""

import argparse
import itertools
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

# Before JAX and TensorFlow are first imported; the processes inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from configs import default

ROOT = Path(__file__).parents[2]
SIZE, BATCH = 128, 64  # of the input alone
SECONDS, ROUNDS, RESTARTS = 1.5, 7, 3
CORES = 8  # that the input is extrapolated to
DEFAULTS = default.get_config()
JOB = [sys.executable, "-m", "yoda_jax.main", "--config=configs/demo.py", "--mode=train"]
JOB += [f"--config.data.hr_size={SIZE}", "--config.data.stride=64", "--config.eval.pictures=1"]
JOB += [
    "--config.attention.source=edges",
    "--config.attention.cell=8",
    "--config.eval.batch_size=2",
]
STEP = re.compile(r" step (\d+) of \d+, ([\d.]+) steps/s")
alone = partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"))  # a new process

Line = tuple[float, float, str]  # seconds since the start, MiB of memory, text


def job(cache: str, *arguments: str) -> Iterator[Line]:
    """The lines of a job's log as they come; who stops reading kills it."""
    begun = time.perf_counter()
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*JOB, *arguments], cwd=ROOT, env=environment, **options) as process:
        try:
            for line in process.stderr:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
                yield time.perf_counter() - begun, memory, line.strip()
        finally:
            process.kill()


def train(workdir: str, cache: str, source: list[str], steps: int) -> None:
    """Prints the figures of a run."""
    window, every = max(steps // 50, 1), max(steps // 10, 1)
    often = [f"--config.train.log_every={window}", f"--config.train.checkpoint_every={every}"]
    lines, memory, speeds, saves = [], {}, [], []
    for _, used, line in job(
        cache, *source, *often, f"--workdir={workdir}", f"--config.train.steps={steps}"
    ):
        lines.append(line)
        if found := STEP.search(line):
            memory[int(found[1])] = used
            speeds.append(float(found[2]))
        elif found := re.search(r" checkpoint: ([\d.]+) s", line):
            saves.append(float(found[1]))
        elif found := re.search(r"waited for input ([\d.]+) %", line):
            waited = found[1]
    if len(memory) < 3:
        raise SystemExit("The run failed:\n" + "\n".join(lines[-20:]))
    at = [min(memory, key=lambda step: abs(step - share * steps)) for share in (0.2, 0.6, 1)]
    every, speed, save = DEFAULTS.train.checkpoint_every, np.median(speeds), np.median(saves)
    stall = save / (save + every / speed)
    row("steps/s", f"{spread(speeds)}, windows of {window} steps")
    row("waited for input", f"{waited} % of the time")
    row("host memory", ", ".join(f"{memory[s]:.0f} MiB at step {s}" for s in at))
    row("a checkpoint stalls", f"{spread(saves)} s, one every {every} steps {stall:.2%}")


def restart(workdir: str, caches: dict[str, str], source: list[str], steps: int) -> None:
    """Prints how long a run takes from its start to the end of the first step that it adds."""
    seconds = {name: [] for name in caches}
    for _, (name, cache) in itertools.product(range(RESTARTS), caches.items()):
        with tempfile.TemporaryDirectory() as empty:
            arguments = [*source, f"--workdir={workdir}", "--config.train.log_every=1"]
            started = job(cache or empty, *arguments, "--config.train.steps=1000000")
            first = (s for s, _, text in started if f" step {steps + 1} of" in text)
            seconds[name].append(next(first))
            started.close()
    for name, found in seconds.items():
        row(f"restart to first step, {name}", f"{spread(found)} s")


def input_alone(records: str, threads: int, wait: float = 0.0) -> tuple[float, float]:
    """Examples a second, of wall time and of CPU time, that a process makes as training does.

    With `wait` decoding takes neither core nor interpreter for so many seconds, as on a core of its
    own: what remains is at least what threads cannot share.
    """
    from yoda_jax.attention.maps import Reading
    from yoda_jax.data.batches import Batches
    from yoda_jax.data.records import FEATURES, Records
    from yoda_jax.prefetch import prefetch

    encoding, decoded = type(FEATURES["hr"]), {}
    decode = encoding.decode_example_np

    def waiting(feature: object, png: bytes) -> np.ndarray:
        key = len(png), png[-99:]  # a hash of the whole would take time of its own
        if key not in decoded:
            decoded[key] = decode(feature, png)
        time.sleep(wait)
        return decoded[key]

    asked = {"batch_size": BATCH, "seed": 0, "reading": Reading(), "threads": threads}
    batches = Batches(Records(records), **asked)
    with patch.object(encoding, "decode_example_np", waiting if wait else decode):
        for step in range(-(-len(batches.examples) // BATCH) if wait else 1):
            batches(step)
        stream = prefetch(batches, itertools.count(), DEFAULTS.data.prefetch)
        next(stream)
        wall, cpu, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - wall < SECONDS:
            next(stream)
            count += BATCH
        rates = count / (time.perf_counter() - wall), count / (time.process_time() - cpu)
        stream.close()
    return rates


def decoding(records: str) -> float:
    """CPU seconds that a picture of an example, HR or LR, takes to decode in the mean."""
    from yoda_jax.data.records import FEATURES, Records

    examples, spent = Records(records), 0.0
    for i, name in itertools.product(range(min(len(examples), BATCH)), ("hr", "lr")):
        png = FEATURES[name].encode_example(examples[i][name])
        begun = time.thread_time()
        FEATURES[name].decode_example_np(png)
        spent += time.thread_time() - begun
    return spent / (2 * min(len(examples), BATCH))


def measure_input(records: str) -> None:
    """Prints examples a second by threads and by processes, and what eight cores would give."""
    rates: dict[str, list] = {}
    elsewhere = f"{CORES} threads, decoding elsewhere"
    with alone() as one, alone() as other:
        wait = one.submit(decoding, records).result()
        asked = {
            "1 thread": [(one, 1)],
            "2 threads": [(one, 2)],
            "4 threads": [(one, 4)],
            "2 processes of 1 thread": [(one, 1), (other, 1)],
            elsewhere: [(one, CORES, wait)],
        }
        for _, (name, calls) in itertools.product(range(ROUNDS), asked.items()):
            begun = [pool.submit(input_alone, records, *given) for pool, *given in calls]
            found = np.array([future.result() for future in begun])
            rates.setdefault(name, []).append((found[:, 0].sum(), found[:, 1].mean()))
    for name, found in rates.items():
        wall, cpu = np.transpose(found)
        row(f"input, {name}", f"{spread(wall)} examples/s, {spread(cpu)} a CPU second")
    most, each = (np.median(rates[name], 0)[1] for name in (elsewhere, "1 thread"))
    row(
        f"input, {CORES} cores by extrapolation",
        f"{min(CORES * each, most):.0f} examples/s: {CORES} times a core's ({CORES * each:.0f}), "
        f"but no more than if all but decoding came one after another ({most:.0f})",
    )


def row(name: str, figures: str) -> None:
    print(f"| {name} | {figures} |", flush=True)


def spread(values: list[float]) -> str:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{middle:.4g} ({low:.4g} - {high:.4g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--pictures", metavar="FOLDER", help="default: sample photographs")
    flags = parser.parse_args()
    source = []
    if flags.pictures:
        folder = os.path.abspath(flags.pictures)
        source = [f"--config.data.train=folder:{folder}", "--config.data.on_bad=skip"]
    packages = ", ".join(f"{p} {version(p)}" for p in ("jax", "tensorflow-datasets", "pillow"))
    print(
        f"{os.environ['JAX_PLATFORMS']}, {len(os.sched_getaffinity(0))} cores of "
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"{packages}; load {os.getloadavg()[0]:.1f}; medians (range)\n\n"
        "| what | figures |\n|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        workdir, cache = f"{folder}/run", f"{folder}/cache"
        train(workdir, cache, source, flags.steps)
        caches = {"with the compile cache": cache, "without": ""}
        restart(workdir, caches, source, flags.steps)
        measure_input(f"{workdir}/records/train")


if __name__ == "__main__":
    main()
