"""What lies in a folder of checkpoints: damaged, partial and foreign things, and other writers."""

import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from yoda_jax.errors import UserError
from yoda_jax.training import sharding
from yoda_jax.training.checkpoint_folder import CheckpointFolder
from yoda_jax.training.checkpoints import Checkpoints
from yoda_jax.training.state import create

STATE = create({"w": jax.random.normal(jax.random.key(0), (64, 64))}, optax.adam(0.1), ema=True)
MESH = sharding.make_mesh()
ABSTRACT = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding.replicated(MESH)),
    jax.eval_shape(lambda: STATE),
)


def at(step):
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(step, leaf.dtype), STATE)


def write(folder, *steps):
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in steps:
            checkpoints.save(at(step), step, {"seed": step})


def restored_step(folder):
    with Checkpoints(folder) as checkpoints:
        state = checkpoints.restore(ABSTRACT)
        step = checkpoints.latest()
        assert int(state.step) == step == checkpoints.config()["seed"]
        np.testing.assert_array_equal(state.params["w"], at(step).params["w"])
        np.testing.assert_array_equal(
            checkpoints.restore_weights(ABSTRACT.ema)["w"], at(step).ema["w"]
        )
    return step


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    write(folder, 2, 4, 6)
    return folder


@pytest.fixture
def folder(three, tmp_path):
    return Path(shutil.copytree(three, tmp_path / "checkpoints"))


def largest_array(item):
    return max(item.rglob("d/*"), key=lambda path: path.stat().st_size)


def cut_short(checkpoint, item):
    path = largest_array(checkpoint / item)
    os.truncate(path, path.stat().st_size // 2)


DAMAGES = {
    "weights cut short": ("weights", lambda c: cut_short(c, "weights")),
    "training cut short": ("training", lambda c: cut_short(c, "training")),
    "an array gone": ("weights", lambda c: largest_array(c / "weights").unlink()),
    "an array empty": ("weights", lambda c: largest_array(c / "weights").write_bytes(b"")),
    "no index": ("weights", lambda c: (c / "weights/manifest.ocdbt").unlink()),
    "index cut short": ("training", lambda c: os.truncate(c / "training/manifest.ocdbt", 9)),
    "structure cut short": ("weights", lambda c: os.truncate(c / "weights/_METADATA", 40)),
    "an item gone": ("training", lambda c: shutil.rmtree(c / "training")),
    "configuration empty": ("config", lambda c: (c / "config/metadata").write_text("")),
    "configuration of bytes": ("config", lambda c: (c / "config/metadata").write_bytes(b"\xff\0")),
    "an empty folder": ("config", lambda c: [shutil.rmtree(p) for p in c.iterdir() if p.is_dir()]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_newest_is_named_once_and_the_one_before_is_used(folder, caplog, name):
    item, damage = DAMAGES[name]
    damage(folder / "6")
    assert restored_step(folder) == 4
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert [w for w in warnings if "damaged" in w] == [
        f"The checkpoint {folder}/6 is damaged (its {item}): step 4 is used."
    ]
    with pytest.raises(UserError, match="whole checkpoint of step 6, found those of steps 2, 4;"):
        Checkpoints(folder).config(6)
    assert (folder / "6").exists()  # who only reads moves nothing


def test_a_run_goes_on_over_a_damaged_checkpoint_and_keeps_it(folder, caplog):
    cut_short(folder / "6", "training")
    cut_short(folder / "2", "weights")
    write(folder, 6)
    text = " ".join(r.getMessage() for r in caplog.records)
    assert "6 is damaged (its training): step 4 is used, and it is kept as 6.damaged." in text
    assert "2 is damaged (its weights): it is left out, and it is kept as 2.damaged." in text
    assert restored_step(folder) == 6
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == [
        "2.damaged",
        "4",
        "6",
        "6.damaged",
    ]


def test_a_flipped_bit_and_a_missing_file_of_any_kind_are_damage(folder):
    """Unseen, one in an array changes weights, and one in what describes it ends in a trace."""
    files = [path for path in (folder / "6").glob("*/**/*") if path.is_file()]
    files.append(folder / "6/checksums.json")
    assert {p.parent.name for p in files} >= {"config", "weights", "training", "d"}
    rng = random.Random(0)
    for path in files:
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(changed))
        assert CheckpointFolder(folder).whole() == [2, 4], path
        path.unlink()
        older = path.name == "checksums.json"  # as checkpoints were before there were any
        assert CheckpointFolder(folder).whole() == ([2, 4, 6] if older else [2, 4]), path
        path.write_bytes(whole)
    assert restored_step(folder) == 6
    path = largest_array(folder / "6/weights")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert restored_step(folder) == 4


def test_a_configuration_with_a_flipped_bit_is_not_used(folder):
    path = folder / "6/config/metadata"
    path.write_bytes(path.read_bytes().replace(b"6", b"7"))
    assert CheckpointFolder(folder).configuration() == {"seed": 4}


def test_a_flipped_bit_in_an_older_checkpoint_is_seen_when_it_is_asked_for(folder):
    path = largest_array(folder / "2" / "weights")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert restored_step(folder) == 6
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(UserError, match="of step 2, found those of steps 4, 6; choose one"):
            checkpoints.restore_weights(ABSTRACT.ema, 2)
        weights = checkpoints.restore_weights(ABSTRACT.ema, 4)
    np.testing.assert_array_equal(weights["w"], at(4).ema["w"])


def test_checkpoints_from_before_there_were_checksums_are_restored(folder):
    for path in folder.glob("*/checksums.json"):
        path.unlink()
    assert restored_step(folder) == 6
    (folder / "6/weights/_METADATA").write_text("{")
    assert restored_step(folder) == 4


def test_damage_that_only_reading_shows_is_one_sentence_whose_advice_helps(folder):
    (folder / "6" / "checksums.json").unlink()  # as in older checkpoints
    path = largest_array(folder / "6" / "weights")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match="checkpoints/6 is damaged, .* delete it"):
        restored_step(folder)
    shutil.rmtree(folder / "6")
    assert restored_step(folder) == 4


def test_nothing_whole_is_one_sentence_and_nothing_is_touched(folder):
    for step in ("2", "4", "6"):
        cut_short(folder / step, "weights")
    for keep in (None, 3):
        with pytest.raises(UserError, match="found those of steps 2, 4, 6 damaged; bring back"):
            Checkpoints(folder, keep=keep)
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"2", "4", "6"}
    for step in ("2", "4", "6"):
        shutil.rmtree(folder / step)
    write(folder, 8)  # the advice
    assert restored_step(folder) == 8


def test_what_a_killed_job_left_goes_and_what_is_foreign_stays(folder):
    killed = [folder / "8.orbax-checkpoint-tmp", folder / "9.orbax-checkpoint-tmp"]
    for path in killed:
        (path / "weights.orbax-checkpoint-tmp").mkdir(parents=True)
    foreign = ["notes.txt", "6 (copy)", "best", "007", "-3", "1e3", "6.5", "٣", ".DS_Store"]
    for name in foreign[1:-1]:
        (folder / name).mkdir()
        (folder / name / "mine").write_text("mine")
    for name in (foreign[0], foreign[-1], "99"):
        (folder / name).write_text("mine")
    (folder / "link").symlink_to(folder / "4")
    assert restored_step(folder) == 6 and killed[0].exists()
    write(folder, 8)
    assert not any(path.exists() for path in killed)
    assert restored_step(folder) == 8
    names = {p.name for p in folder.iterdir()} - {".lock"}
    assert names == {"4", "6", "8", *foreign, "99", "link"}


NAMES = [
    "run[1]",
    "run [a-z] *?",
    "**",
    "with blank ",
    "Übung 图片",
    "a%20b#c?d=e&f",
    "{x}$HOME`'\"",
    "back\\slash",
    "two\nlines",
    "-x",
    "~",
    "gs:",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_folder_will_do(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    write(folder, 2)
    write(folder, 4)
    assert restored_step(folder) == 4
    assert (folder / "4").is_dir() and len(list(tmp_path.iterdir())) == 1


def test_paths_are_relative_to_here_to_home_or_to_a_bucket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given, expected in {
        "runs/x": tmp_path / "runs/x",
        "runs/[x]/../y": tmp_path / "runs/y",
        "~/runs": tmp_path / "home/runs",
        Path("runs/x"): tmp_path / "runs/x",
        "gs://bucket/a run[1]/x": "gs://bucket/a run[1]/x",
        epath.Path("gs://bucket/x"): "gs://bucket/x",
    }.items():
        folder = CheckpointFolder(given)
        assert str(folder.path) == str(expected)
        assert folder.plain == folder.path
    assert not list(tmp_path.iterdir())


WRITER = """
import sys, time
from yoda_jax.training.checkpoint_folder import CheckpointFolder
folder = CheckpointFolder(sys.argv[1])
print(folder.take(), flush=True)
time.sleep(300)
"""


@pytest.fixture
def writer(folder):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert json.loads(process.stdout.readline()) == [2, 4, 6]
        yield process
        process.kill()


def test_a_second_job_is_refused_until_the_first_one_is_gone(folder, writer):
    (folder / "8.orbax-checkpoint-tmp").mkdir()  # being written
    with pytest.raises(UserError, match="written by one job, found another .*--workdir") as error:
        Checkpoints(folder, keep=3)
    assert f"delete {folder}/.lock" in str(error.value)
    assert (folder / "8.orbax-checkpoint-tmp").exists()
    assert restored_step(folder) == 6  # reading is free
    writer.kill()
    writer.wait()
    start = time.monotonic()
    write(folder, 8)
    assert restored_step(folder) == 8 and time.monotonic() - start < 60


def test_the_lock_of_a_lost_machine_can_be_deleted(folder, writer):
    (folder / ".lock").unlink()
    write(folder, 8)
    assert restored_step(folder) == 8


def test_where_a_disk_knows_no_locks_a_second_job_is_seen_by_its_checkpoint(folder, tmp_path):
    with (
        pytest.raises(UserError, match="found the checkpoint of step 8 of another one; end one"),
        Checkpoints(folder, keep=3) as checkpoints,
    ):
        write(tmp_path / "other", 8)
        (tmp_path / "other" / "8").rename(folder / "8")
        checkpoints.save(at(8), 8, {"seed": 8})
    assert restored_step(folder) == 8


def test_a_job_leaves_the_folder_to_the_next(folder):
    for step in (8, 10):
        write(folder, step)
    with pytest.raises(RuntimeError, match="anything"), Checkpoints(folder, keep=3):
        raise RuntimeError("anything")
    write(folder, 12)
    assert restored_step(folder) == 12
