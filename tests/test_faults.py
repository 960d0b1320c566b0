"""Whatever happens to a run, it ends as if nothing had, or with a sentence that helps."""

import re

import pytest
from disturbances import DISTURBANCES
from laboratory import Laboratory

pytestmark = pytest.mark.slow
# How a job ends by a fault, and what it says, of four; the command of `faults.py` makes all.
EXPECTED = {
    "full disk in training": (2, "could not be written .*make room there and run again"),
    "failing disk": (2, "could not be written .*mend the disk or mount it anew"),
    "state flipped": (0, r"60 is damaged \(its training\): step 55 is used"),
    "clock": (0, ""),
}


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    made = Laboratory(tmp_path_factory.mktemp("laboratory"))
    made.disturb_nothing()
    return made


@pytest.mark.parametrize("name", EXPECTED)
def test_a_disturbed_run_ends_with_the_weights_of_an_undisturbed_one(laboratory, name):
    status, sentence = EXPECTED[name]
    outcome = DISTURBANCES[name](laboratory)
    assert outcome.status == status, outcome.said
    assert outcome.equal, outcome.said
    assert re.search(sentence, outcome.said), outcome.said
