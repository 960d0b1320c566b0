"""Altered files of every format are read or refused in a sentence; what once was not, still is."""

import subprocess
import sys

import foreign_weights
import numpy as np
import pytest
import safetensors.numpy
from command_line import ROOT
from extras import needs_onnx, needs_torch
from foreign_files import Format, formats

from tests.fuzz import made, problem
from yoda_jax.errors import UserError

INPUTS = 60
MARKS = {"pt": needs_torch, "onnx": needs_onnx}
NAMES = [pytest.param(n, marks=MARKS.get(n, ())) for n in formats(ROOT)]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", NAMES)
def test_altered_files_are_read_or_refused_in_a_sentence(name, tmp_path):
    format = formats(tmp_path)[name]
    files = format.files()
    assert sum(map(len, files)) < 80_000
    for file in files:
        assert problem(format, file) is None
    found = {index: problem(format, made(format, files, 1, index)) for index in range(INPUTS)}
    assert {index: what for index, what in found.items() if what} == {}


def with_network(**entries):
    """SR3's entries, and more."""
    (sr3, *_) = foreign_weights.networks()
    return safetensors.numpy.save({**sr3, **entries})


NINES = "9" * 5000  # more digits than Python makes a number of
FOUND = {
    "a member that is no array": ("npz", lambda: foreign_weights.join_zip([b"w.npy", b"text"])),
    "a name of two lines": ("safetensors", lambda: with_network(**{"a\nb": np.ones(2)})),
    "a name of a page": (
        "safetensors",
        lambda: with_network(**{f"denoise_fn.downs.{NINES}": np.ones(2)}),
    ),
    "a layer 99999999999": (
        "safetensors",
        lambda: with_network(**{"denoise_fn.downs.99999999999.conv.weight": np.ones(2, "f")}),
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_is_refused_in_a_sentence(what, tmp_path):
    name, file = FOUND[what]
    format = formats(tmp_path)[name]
    assert problem(format, file()) is None
    with pytest.raises(UserError):
        format.read(file())


def test_half_of_the_altered_parts_get_past_the_checksum(tmp_path):
    format = formats(tmp_path)["png"]
    (file, *_) = format.files()
    parts = format.split(file)
    assert format.join(parts) == file
    assert made(format, [file], 0, 3) == made(format, [file], 0, 3) != file
    joined = [made(format, [file], 0, index) for index in range(1, 41, 2)]
    assert all(format.join(format.split(other)) == other for other in joined)


def raising(error):
    def read(file):
        raise error

    return Format(lambda: [b""], read)


def test_what_is_no_sentence_is_a_finding():
    assert problem(raising(UserError("one line")), b"") is None
    assert "KeyError at " in problem(raising(KeyError("a")), b"")
    assert "UserError at " in problem(raising(UserError("two\nlines")), b"")


@pytest.mark.slow
def test_the_command_says_how_many_it_fed():
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--format=gif", "--inputs=50"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("| gif | 50 | ")
