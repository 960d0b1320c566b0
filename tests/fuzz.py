"""Hostile files: python -m tests.fuzz --format=png --inputs=100000 --seed=0.

Small real files of a format (all of them without --format) are altered, and read as a job reads
them: by bits, by numbers that may be lengths, by pieces that are cut off, repeated, moved or taken
from another file; every other input in a part whose length and checksum are then put right. Input i
depends on the seed and i alone. Anything but a result or a UserError of one line is a finding, and
so are a crash, more than --seconds of a processor for an input, and more than --megabytes of memory
above what reading took before. Prints a Markdown table; what was found lies in --output.
"""

import argparse
import contextlib
import json
import mmap
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from foreign_files import Format, formats

_NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x10000, 1 << 24, (1 << 31) - 1)
_NUMBERS += (1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_TEXTS = (b"0", b"-1", b"1e999", b"null", b"true", b"[]", b"{}", b'""', b"[0]", b"99999999999")
_TEXTS += (b"NaN", b"\xff", b"\0", b'"\\ud800"', b"../x", b"[[[[")
_ADDRESSES = 4 << 30  # that an input may ask for: most are never used
_KEPT = 3  # inputs of a finding
_MEMORY = Path("/dev/shm")  # where files are written at once, if there is such a place
_PROGRESS = struct.Struct("<qd")  # the input that is read, and the processor time before it


def altered(random: np.random.Generator, file: bytes, others: Sequence[bytes]) -> bytes:
    """A file with one to four alterations; pieces of others may come into it."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        kind, size = random.integers(8), len(file)
        at = int(random.integers(size + 1))
        if random.random() < 0.3:  # where formats have their lengths
            at = min(at, int(random.integers(64)))
        length = int(random.integers(1, 1 + min(size or 1, random.choice((4, 64, 4096)))))
        before, piece, after = file[:at], file[at : at + length], file[at + length :]
        if kind == 0 and at < size:
            file = before + bytes([file[at] ^ 1 << int(random.integers(8))]) + file[at + 1 :]
        elif kind == 1:
            file = before + random.bytes(len(piece)) + after
        elif kind == 2:  # a number, as it may stand for a length
            width = int(random.choice((1, 2, 4, 8)))
            order = ("little", "big")[random.integers(2)]
            number = int.from_bytes(file[at : at + width], order) + int(random.integers(-2, 3))
            if random.random() < 0.6:
                number = _NUMBERS[random.integers(len(_NUMBERS))]
            number %= 1 << 8 * width
            file = before + number.to_bytes(width, order) + file[at + width :]
        elif kind == 3:
            file = before
        elif kind == 4:
            file = before + after
        elif kind == 5:
            file = before + piece * int(random.choice((2, 3, 50))) + after
        elif kind == 6:
            other = others[random.integers(len(others))]
            start = int(random.integers(len(other) + 1))
            file = before + other[start : start + length] + after
        elif kind == 7:
            file = before + _TEXTS[random.integers(len(_TEXTS))] + file[at + int(length % 9) :]
    return file


def made(format: Format, files: Sequence[bytes], seed: int, index: int) -> bytes:
    """The input of an index."""
    random = np.random.default_rng([seed, index])
    file = files[random.integers(len(files))]
    if format.split and format.join and index % 2:
        try:
            parts, others = format.split(file), format.split(files[random.integers(len(files))])
        except zipfile.BadZipFile:  # the legacy stream of torch is no archive
            return altered(random, file, files)
        changed = int(random.integers(len(parts)))
        parts[changed] = altered(random, parts[changed], others)
        return format.join(parts)
    return altered(random, file, files)


def problem(format: Format, file: bytes) -> str | None:
    """What is wrong with how a file is read, if anything: what came out, and from where."""
    from yoda_jax.errors import UserError

    try:
        format.read(file)
        return None
    except UserError as error:
        if "\n" not in str(error):
            return None
        what: Exception = error
    except Exception as error:  # all of them are findings
        what = error
    frames = [f for f in traceback.extract_tb(what.__traceback__) if "tests/" not in f.filename]
    ours = [frame for frame in frames if "yoda_jax/" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "the result"
    return f"{type(what).__name__} at {where}"


def child(options: argparse.Namespace) -> None:
    """Reads inputs from the first on, tells each beforehand, and prints the findings."""
    warnings.simplefilter("ignore")
    format = formats(options.progress.parent)[options.format]
    files = format.files()
    for file in files:  # loads the libraries, too
        if what := problem(format, file):
            sys.exit(f"An unaltered file: {what}")
    said = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    limit = said + _ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = used = _kilobytes()
    with options.progress.open("r+b") as opened, mmap.mmap(opened.fileno(), 16) as progress:
        longest = 0.0
        for index in range(options.first, options.inputs):
            file = made(format, files, options.seed, index)
            begun = time.process_time()
            progress[:] = _PROGRESS.pack(index, begun)  # at one go: it is read meanwhile
            what = problem(format, file)
            longest = max(longest, time.process_time() - begun)
            if not what and _kilobytes() - used > options.megabytes << 10:
                what = f"more than {options.megabytes} MB"
            used = max(used, _kilobytes() if what else 0)
            if what:
                print(json.dumps({"index": index, "what": what}), flush=True)
        progress[:] = _PROGRESS.pack(options.inputs, time.process_time())
    print(json.dumps({"longest": longest, "megabytes": _kilobytes() - before >> 10}), flush=True)


def _kilobytes() -> int:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _processor_seconds(process: int) -> float:
    """What a process has used so far; 0 where it has just ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0


def watched(options: argparse.Namespace, name: str, first: int) -> tuple[int, list[dict]]:
    """(where a child that began at `first` came to, what it said)."""
    command = [sys.executable, "-m", "tests.fuzz", f"--format={name}", f"--inputs={options.inputs}"]
    command += [f"--seed={options.seed}", f"--megabytes={options.megabytes}", f"--first={first}"]
    with (
        tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder,
        tempfile.TemporaryFile("w+") as said,
    ):
        progress = Path(folder) / "progress"
        progress.write_bytes(_PROGRESS.pack(first, -1))
        child = subprocess.Popen(
            [*command, f"--progress={progress}"], stdout=said, stderr=subprocess.DEVNULL
        )
        hangs = False
        while child.poll() is None:
            time.sleep(0.1)
            index, since = _PROGRESS.unpack(progress.read_bytes())
            used = _processor_seconds(child.pid) - since if since >= 0 else 0
            same = index == _PROGRESS.unpack(progress.read_bytes())[0]
            if hangs := same and used > options.seconds and index < options.inputs:
                child.kill()
                child.wait()
        index, since = _PROGRESS.unpack(progress.read_bytes())
        said.seek(0)
        lines = [json.loads(line) for line in said]
    if child.returncode:
        if since < 0:
            sys.exit(f"The unaltered files of {name} are not read: {' '.join(command)}")
        what = f"more than {options.seconds:g} s" if hangs else f"ended by {-child.returncode}"
        lines.append({"index": index, "what": what})
        index += 1
    return index, lines


def report(options: argparse.Namespace, name: str) -> int:
    """Feeds a format, prints a line of the table, and returns the number of findings."""
    begun, index, lines = time.monotonic(), 0, []
    while index < options.inputs:
        index, more = watched(options, name, index)
        lines += more
    seconds = time.monotonic() - begun
    found: dict[str, list[int]] = {}
    for line in lines:
        if "what" in line:
            found.setdefault(line["what"], []).append(line["index"])
    longest, most = (max((x.get(k, 0) for x in lines), default=0) for k in ("longest", "megabytes"))
    print(
        f"| {name} | {options.inputs:,} | {options.inputs / seconds:.0f} | {longest:.2f} s | "
        f"{most} MB | {sum(map(len, found.values()))} |",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        format = formats(Path(folder))[name]
        files = format.files() if found else []
    for number, (what, indices) in enumerate(sorted(found.items())):
        print(f"    {what}: {len(indices)} times, as of {indices[:_KEPT]}", file=sys.stderr)
        for index in indices[:_KEPT]:
            options.output.mkdir(parents=True, exist_ok=True)
            path = options.output / f"{name}-{number}-{index}"
            path.write_bytes(made(format, files, options.seed, index))
    return len(found)


def main() -> None:
    known = list(formats(Path()))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--format", choices=known)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10, help="an input may take")
    parser.add_argument("--megabytes", type=int, default=200, help="an input may take")
    parser.add_argument("--output", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.progress:
        child(options)
        return
    print("| format | inputs | a second | longest | memory above the start | findings |")
    print("|---|---|---|---|---|---|")
    sys.exit(
        sum(report(options, name) for name in ([options.format] if options.format else known)) > 0
    )


if __name__ == "__main__":
    main()
