"""Survival of faults: python -m tests.faults [--runs=20] [--processes=2] [--bucket].

A small job (pre-computation, training, evaluation) is disturbed in every way of `disturbances` and
begun again; in the end its weights are compared, bit for bit, with those of a job that nobody
disturbed. Then jobs are killed by SIGKILL at random moments and begun again until they end, as
often as `runs` says in all. The moments are drawn from the time that a job takes, and two of three
from those around a checkpoint's writing. Prints a Markdown table. Of several processes and in a
bucket, what makes a difference there is done alone.
"""

import argparse
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from disturbances import DISTURBANCES, store_that_is_down
from laboratory import Laboratory

# What the log has said last -> where a job was; the last that fits counts.
PHASES = {
    "devices in all": "pre-computation",
    "eval records": "restoring",
    "compiling the step": "compilation",
    r"\[\d+\]": "training",
    "restored step": "evaluation",
}


def phase(text: str) -> str:
    """Where a job was when its log ended."""
    found = "start"
    for mark, name in PHASES.items():
        if re.search(mark, text):
            found = name
    return found


def kill(laboratory: Laboratory, runs: int, length: float, draw: random.Random) -> tuple:
    """(jobs, those that ended as the undisturbed one, kills by where the job was)."""
    where, equal, jobs = Counter(), 0, 0
    log = laboratory.log.with_suffix(".0")
    while where.total() < runs:
        workdir, jobs, ended = f"{laboratory.root}/killed{jobs}", jobs + 1, False
        while not ended:
            begun = time.monotonic()
            job = laboratory.start(workdir)
            moment = draw.uniform(0, length)
            saves = draw.choice((0, 1, 2))  # to wait for instead, if any
            while not (ended := all(process.poll() is not None for process in job)):
                said = log.read_text().count("saving the checkpoint")
                due = said >= saves if saves else time.monotonic() - begun > moment
                if due and where.total() < runs:
                    time.sleep(draw.uniform(0, 0.4))
                    draw.choice(job).kill()
                    for process in job:
                        process.wait()
                    where["a checkpoint's write" if saves else phase(log.read_text())] += 1
                    break
                time.sleep(0.01)
        if any(process.returncode for process in job):
            raise SystemExit(f"A job failed:\n{log.read_text()}")
        equal += laboratory.as_expected(workdir)
    return jobs, equal, where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="kills")
    parser.add_argument("--bucket", action="store_true", help="on an object-store emulator")
    parser.add_argument("--processes", type=int, default=1, help="of which one is killed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root, environment, disturbances = "", {}, dict(DISTURBANCES)
        if options.bucket:
            from bucket import NAME, bucket

            store = stack.enter_context(bucket(folder))
            root, environment = f"gs://{NAME}", store.environment()
            os.environ.update(environment)  # this process reads weights there
            disturbances = {"store": lambda laboratory: store_that_is_down(laboratory, store)}
            disturbances["store"].__doc__ = store_that_is_down.__doc__
        if options.processes > 1:
            disturbances = {name: DISTURBANCES[name] for name in ("stop", "clock")}
        laboratory = Laboratory(folder, root, options.processes, **environment)
        begun = time.monotonic()
        laboratory.disturb_nothing()
        length = time.monotonic() - begun
        print("| fault | status | said | the weights in the end |\n|---|---|---|---|", flush=True)
        failed = False
        for disturb in disturbances.values():
            try:
                outcome = disturb(laboratory)
            except pytest.skip.Exception as skipped:
                print(f"| {disturb.__doc__} | not done: {skipped} |  |  |", flush=True)
                continue
            said = outcome.said.replace(str(folder), "...").replace("|", "\\|")
            end = "equal" if outcome.equal else "NOT EQUAL"
            print(f"| {disturb.__doc__} | {outcome.status} | {said} | {end} |", flush=True)
            failed |= not outcome.equal
        jobs, equal, where = kill(laboratory, options.runs, length, random.Random(options.seed))
        moments = ", ".join(f"{name} {count}" for name, count in where.most_common())
        killed = f"{where.total()} SIGKILLs at random, seed {options.seed}: {moments}"
        print(f"| {killed} | -9 |  | equal in {equal} of {jobs} jobs |")
        sys.exit(failed or equal != jobs)


if __name__ == "__main__":
    main()
