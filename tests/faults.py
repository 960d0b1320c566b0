"""Survival of kills: python -m tests.faults --runs=20 [--bucket] [--processes=2].

A small job (pre-computation, training, evaluation) is killed by SIGKILL at random moments and begun
again until it ends, as often as `runs` says in all; then its weights are compared, bit for bit,
with those of a job that nobody disturbed. The moments are drawn from the time that a job takes, and
two of three from those around a checkpoint's writing. Prints a Markdown table.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from command_line import ROOT, TINY, command, free_port

STEPS = 60
JOB = ["--config=configs/demo.py", *TINY, "--mode=train", "--config.data.pictures_per_shard=1"]
JOB += [f"--config.train.steps={STEPS}", "--config.train.checkpoint_every=5"]
# What the log has said last -> where a job was; the last that fits counts.
PHASES = {
    "devices in all": "pre-computation",
    "eval records": "restoring",
    "compiling the step": "compilation",
    r"\[\d+\]": "training",
    "restored step": "evaluation",
}


def start(workdir: str, environment: dict[str, str], processes: int, log: Path) -> list:
    """The processes of a job, whose output goes to a log each."""
    address = f"127.0.0.1:{free_port()},{processes}"
    started = []
    for index in range(processes):
        several = [f"--distributed={address},{index}"] if processes > 1 else []
        with log.with_suffix(f".{index}").open("w") as file:
            started.append(
                subprocess.Popen(
                    command(*JOB, f"--workdir={workdir}", *several),
                    cwd=ROOT,
                    env={**environment, "JAX_NUM_CPU_DEVICES": str(2 // processes)},
                    stdout=file,
                    stderr=file,
                )
            )
    return started


def wait(started: list, log: Path) -> None:
    """Waits for a job's end, which has to be a good one."""
    if any(process.wait() for process in started):
        raise SystemExit(f"A job failed:\n{log.with_suffix('.0').read_text()}")


def phase(log: Path) -> str:
    """Where a job was when its log ended."""
    text, found = log.with_suffix(".0").read_text(), "start"
    for mark, name in PHASES.items():
        if re.search(mark, text):
            found = name
    return found


def weights(workdir: str, environment: dict[str, str], folder: Path) -> bytes:
    """The averaged parameters of a run, exported."""
    subprocess.run(
        command("--mode=export", f"--workdir={workdir}", f"--output={folder / 'weights'}"),
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    return (folder / "weights.safetensors").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="kills")
    parser.add_argument("--bucket", action="store_true", help="on an object-store emulator")
    parser.add_argument("--processes", type=int, default=1, help="of which one is killed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment, root = dict(os.environ), str(folder)
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
        if options.bucket:
            from bucket import NAME, bucket

            environment |= stack.enter_context(bucket(folder)).environment()
            root = f"gs://{NAME}"
        log = folder / "log"
        undisturbed, killed = f"{root}/undisturbed", f"{root}/killed"
        begun = time.monotonic()
        wait(start(undisturbed, environment, options.processes, log), log)
        length = time.monotonic() - begun
        expected = weights(undisturbed, environment, folder)
        where, equal, jobs, kills = Counter(), 0, 0, 0
        while kills < options.runs:
            workdir, jobs, ended = f"{killed}{jobs}", jobs + 1, False
            while not ended:
                begun = time.monotonic()
                job = start(workdir, environment, options.processes, log)
                moment = draw.uniform(0, length)
                saves = draw.choice((0, 1, 2))  # to wait for instead, if any
                while not (ended := all(process.poll() is not None for process in job)):
                    said = log.with_suffix(".0").read_text().count("saving the checkpoint")
                    due = said >= saves if saves else time.monotonic() - begun > moment
                    if due and kills < options.runs:
                        time.sleep(draw.uniform(0, 0.4))
                        draw.choice(job).kill()
                        for process in job:
                            process.wait()
                        kills += 1
                        where["a checkpoint's write" if saves else phase(log)] += 1
                        break
                    time.sleep(0.01)
            wait(job, log)
            equal += weights(workdir, environment, folder) == expected
        print(
            f"\n{kills} kills of {jobs} jobs of {STEPS} steps, {options.processes} process(es), ",
            end="",
        )
        print(f"{'a bucket' if options.bucket else 'a disk'}, seed {options.seed}\n")
        print("| killed in | times |\n|---|---|")
        for name, count in where.most_common():
            print(f"| {name} | {count} |")
        print(f"\n{equal} of {jobs} ended with the weights of the undisturbed job, bit for bit.")
        sys.exit(equal != jobs)


if __name__ == "__main__":
    main()
