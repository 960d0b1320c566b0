"""Whatever happens to a run, it ends as if nothing had, or with a sentence that helps."""

import re

import pytest
from disturbances import DISTURBANCES
from laboratory import Laboratory

pytestmark = pytest.mark.slow
# How a job ends by a fault, and what it says.
EXPECTED = {
    "stop": (75, "stopped by a signal; what was trained is saved"),
    "full disk in pre-computation": (2, "could not be written .*make room"),
    "full disk in training": (2, "could not be written .*make room there and run again"),
    "read-only at the start": (2, "cannot be used: read-only file system"),
    "read-only at the resumption": (2, "cannot be used: read-only file system"),
    "configuration flipped": (0, r"60 is damaged \(its config\): step 55 is used"),
    "weights flipped": (0, r"60 is damaged \(its weights\): step 55 is used"),
    "structure flipped": (0, r"60 is damaged \(its weights\): step 55 is used"),
    "state flipped": (0, r"60 is damaged \(its training\): step 55 is used"),
    "index missing": (0, r"60 is damaged \(its training\): step 55 is used"),
    "weights missing": (0, r"60 is damaged \(its weights\): step 55 is used"),
    "shard flipped": (2, r"Record \d+ at byte \d+ of .*tfrecord-.* is damaged .*delete that file"),
    "network changed": (2, "features"),
    "records changed": (2, "hr_size"),
    "clock": (0, ""),
}


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    made = Laboratory(tmp_path_factory.mktemp("laboratory"))
    made.disturb_nothing()
    return made


@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_disturbed_run_ends_with_the_weights_of_an_undisturbed_one(laboratory, name):
    status, sentence = EXPECTED[name]
    outcome = DISTURBANCES[name](laboratory)
    assert outcome.status == status, outcome.said
    assert outcome.equal, outcome.said
    assert re.search(sentence, outcome.said), outcome.said
