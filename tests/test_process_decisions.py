"""Processes that decide together and end together, as real processes with a tiny script each."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import free_port

from yoda_jax.processes import decided, together
from yoda_jax.training.checkpoint_folder import CheckpointFolder

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

# What main does around a job.
SCRIPT = """
import sys, time
import jax
from absl import logging
from yoda_jax.errors import UserError
from yoda_jax.processes import decided, ending_together, is_first, join_processes, together
from yoda_jax.training.sharding import start_devices

logging.set_verbosity(logging.INFO)

def collective():
    together(lambda: None)

def run():
    join_processes(sys.argv[1], float(sys.argv[2]))
    with ending_together():
        start_devices()
        exec(sys.argv[3], globals())

try:
    run()
except (UserError, OSError) as error:
    print(f"yoda_jax: {error}", file=sys.stderr)
    sys.exit(2)
"""


def start(distributed, job, time_limit=60, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, distributed, str(time_limit), job],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", **environment},
    )


def start_all(job, count=2):
    port = free_port()
    return [start(f"127.0.0.1:{port},{count},{index}", job) for index in range(count)]


def finish(processes, timeout=120):
    """(status, output, errors) of each."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *output) for p, output in zip(processes, outputs, strict=True)]


def last_line(errors):
    return errors.strip().splitlines()[-1]


@pytest.mark.parametrize("value", [None, True, 3, 0.1, "Übung", [1, [2]], {"a": [None, "b"]}])
def test_a_decision_is_what_was_decided(value):
    assert decided(lambda: value) == value


def test_a_decision_is_alike_with_one_process_and_with_several():
    assert decided(lambda: {"a": (1, 2), 3: 4}) == {"a": [1, 2], "3": 4}
    with pytest.raises(TypeError, match="JSON"):
        decided(lambda: object())
    with pytest.raises(ZeroDivisionError):
        together(lambda: 1 / 0)


def test_all_know_what_the_first_decides():
    job = (
        "print([decided(lambda: [jax.process_index(), text]) "
        "for text in ('', 'Übung 图片', 'x' * 1000)] == "
        "[[0, ''], [0, 'Übung 图片'], [0, 'x' * 1000]]);"
        "print(decided(lambda: None), together(jax.process_index))"
    )
    done = finish(start_all(job))
    for index, (status, output, errors) in enumerate(done):
        assert status == 0, errors
        lines = [line for line in output.splitlines() if "[Gloo]" not in line]
        assert lines == ["True", f"None {index}"]


def test_where_one_cannot_do_its_part_all_say_so():
    job = (
        "def step():\n    if not is_first(): raise UserError('This disk is full.')\ntogether(step)"
    )
    (status0, _, errors0), (status1, _, errors1) = finish(start_all(job))
    assert status0 == status1 == 2
    assert re.search("Process 1 (could not do its part|has failed: This disk)", errors0)
    assert last_line(errors1) == "yoda_jax: This disk is full."
    assert "Traceback" not in errors0 + errors1


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_ends_the_one_that_waits_for_it(failing):
    job = (
        "collective()\n"
        f"if jax.process_index() == {failing}: raise UserError('No such picture.')\n"
        "collective()"
    )
    start = time.monotonic()
    done = finish(start_all(job))
    assert time.monotonic() - start < 60  # their start takes most of it
    assert [status for status, _, _ in done] == [2, 2]
    assert last_line(done[failing][2]) == "yoda_jax: No such picture."
    waiting = last_line(done[1 - failing][2])
    assert waiting == f"yoda_jax: Process {failing} has failed: No such picture."
    assert "Traceback" not in done[0][2] + done[1][2]


def test_a_fault_of_the_program_keeps_its_traceback_and_ends_the_others():
    (status0, _, errors0), (status1, _, errors1) = finish(
        start_all("collective(); 1 / is_first(); collective()")
    )
    assert (status0, status1) == (2, 1)
    assert "Process 1 has failed: division by zero" in last_line(errors0)
    assert "ZeroDivisionError" in errors1


def test_one_that_is_killed_ends_the_others_within_45_seconds():
    processes = start_all("collective(); print('there', flush=True); time.sleep(2); collective()")
    for process in processes:
        assert "there\n" in iter(process.stdout.readline, "")
    processes[1].send_signal(signal.SIGKILL)
    start = time.monotonic()
    (status, _, errors), _ = finish(processes)
    assert time.monotonic() - start < 45
    assert status == 2 and "Another process has ended" in last_line(errors)
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("here", "none, auto or HOST:PORT,COUNT,INDEX .*found 'here'"),
        ("localhost:99999,2,0", "found 'localhost:99999,2,0'"),
        ("localhost:1234,2,2", "INDEX from 0 to COUNT - 1, found"),
        ("localhost:1234,0,0", "found 'localhost:1234,0,0'"),
        ("no.such.host.invalid:1234,2,1", "no.such.host.invalid has no address .*IP address"),
        ("auto", "auto must run on a TPU pod or .*found neither; use HOST:PORT,COUNT,INDEX"),
    ],
)
def test_a_wrong_address_is_one_sentence(value, expected):
    ((status, output, errors),) = finish([start(value, "print('ran')")])
    assert (status, output) == (2, "")
    assert re.search(expected, last_line(errors)) and "Traceback" not in errors


def test_a_port_that_is_taken_is_one_sentence():
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        ((status, _, errors),) = finish([start(f"localhost:{port},2,0", "print('ran')")])
    assert status == 2
    assert f"found {port} is not (Address already in use); choose another" in last_line(errors)


@pytest.mark.parametrize(
    ("index", "partner"), [(0, "the other 2 of 3 processes at port"), (1, "process 0 at 127.0.0.1")]
)
def test_one_that_is_left_alone_says_for_whom_it_waits_and_gives_up(index, partner):
    begun = time.monotonic()
    process = start(f"127.0.0.1:{free_port()},3,{index}", "print('ran')", time_limit=12)
    ((status, output, errors),) = finish([process])
    assert time.monotonic() - begun < 45
    assert (status, output) == (2, "")
    assert f"waiting for {partner}" in errors
    assert f"has waited 12 s for {partner}" in last_line(errors)
    assert "Traceback" not in errors


def test_a_platform_that_is_not_there_is_one_sentence():
    ((status, _, errors),) = finish([start("none", "print('ran')", JAX_PLATFORMS="cuda")])
    assert status == 2 and "JAX_PLATFORMS=cuda must name devices" in last_line(errors)


def test_double_precision_of_the_shell_changes_nothing():
    job = "import jax.numpy as jnp; print(jnp.arange(3.0).dtype, jnp.float32(1) * jnp.ones(1))"
    ((status, output, errors),) = finish([start("none", job, JAX_ENABLE_X64="1")])
    assert status == 0 and output.split() == ["float32", "[1.]"]
    assert "JAX_ENABLE_X64 is set; all is computed in float32 all the same" in errors


CHECKPOINTS = """
import os
import jax.numpy as jnp
import optax
from yoda_jax.training import sharding
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.state import create

mesh = sharding.make_mesh()
folder, steps = {folder!r}, {steps!r}

def init():
    return create(dict(w=jnp.ones((512, 512)), b=jnp.zeros(3)), optax.adam(0.1), ema=True)

shapes = jax.eval_shape(init)
where = sharding.state_shardings(mesh, shapes, "fsdp")
abstract = jax.tree.map(
    lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), shapes, where
)
with Checkpoints(folder, keep=3) as checkpoints:
    state = jax.jit(init, out_shardings=where)()
    if checkpoints.latest():
        state = checkpoints.restore(abstract)
    print("found", checkpoints.latest(), float(state.params["w"].sum()))
    for step in steps:
        checkpoints.save(state, step, dict(seed=step))
"""


def test_checkpoints_of_two_processes_in_a_folder_with_brackets_survive_damage(tmp_path):
    folder = tmp_path / "run[1]"

    def found(steps):
        done = finish(start_all(CHECKPOINTS.format(folder=str(folder), steps=steps)))
        for status, _, errors in done:
            assert status == 0, errors
        return [re.findall("found (.*)", output) for _, output, _ in done], done[0][2]

    assert found([2, 4])[0] == [["None 262144.0"]] * 2
    largest = max((folder / "4" / "weights").rglob("d/*"), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    lines, errors = found([4])
    assert lines == [["2 262144.0"]] * 2
    assert "4 is damaged (its weights): step 2 is used, and it is kept as 4.damaged." in errors
    assert found([])[0] == [["4 262144.0"]] * 2


def test_a_second_job_of_two_processes_is_refused_in_both(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.take()
    done = finish(start_all(CHECKPOINTS.format(folder=str(tmp_path), steps=[2])))
    assert [status for status, _, _ in done] == [2, 2]
    assert "must be written by one job, found another one" in last_line(done[0][2])
    folder.close()
