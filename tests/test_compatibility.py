"""What lies on a disk is compared with what is asked for; older runs with what they did."""

import copy
import json
from pathlib import Path

import pytest

from configs import default
from yoda_jax import compatibility
from yoda_jax.errors import UserError

OLD_RUN = Path(__file__).parent / "golden" / "run_before_renaming"


def test_a_checkpoint_of_another_run_is_refused_by_the_field():
    config = default.get_config().to_dict()
    saved = json.loads(json.dumps(config))
    compatibility.check_trained_with(config, saved, "runs/a", training=True)
    for name, value in {
        "mask.enabled": False,
        "diffusion.beta_end": 0.02,
        "model.blocks": 3,
        "data.patch": 64,
    }.items():
        group, field = name.split(".")
        other = copy.deepcopy(saved)
        other[group][field] = value
        with pytest.raises(UserError, match=rf"runs/a was trained with {name}={value}"):
            compatibility.check_trained_with(config, other, "runs/a", training=True)
        if name.startswith(("mask", "data")):  # sampling may choose these anew
            compatibility.check_trained_with(config, other, "runs/a", training=False)
    saved["model"]["multipliers"] = [1, 2]
    with pytest.raises(UserError, match=r'add "--config.model.multipliers=\(1, 2\)", or use'):
        compatibility.check_trained_with(config, saved, "runs/a", training=True)
    saved["model"]["multipliers"] = list(config["model"]["multipliers"])
    with pytest.raises(UserError, match="seed=7"):
        compatibility.check_trained_with(config, saved | {"seed": 7}, "runs/a", training=True)


def test_a_run_from_before_a_field_goes_on_as_it_did():
    config = default.get_config().to_dict()
    saved = json.loads(json.dumps(config))
    del saved["mask"]["times"]
    saved = compatibility.completed(saved)
    message = "runs/a was trained with mask.times='uniform'.*add --config.mask.times=uniform, or"
    with pytest.raises(UserError, match=message):
        compatibility.check_trained_with(config, saved, "runs/a", training=True)
    config["mask"]["times"] = "uniform"
    compatibility.check_trained_with(config, saved, "runs/a", training=True)
    # Without a mask the other fields of it mean nothing.
    config["mask"].update(times="area", enabled=False)
    saved["mask"]["enabled"] = False
    compatibility.check_trained_with(config, saved, "runs/a", training=True)


def test_a_run_that_is_finished_cannot_follow_a_change():
    config = default.get_config().to_dict()
    saved = json.loads(json.dumps(config))
    compatibility.check_finished(config, saved, "runs/a")
    config["train"]["learning_rate"] = 1e-2
    with pytest.raises(UserError, match="has its 1000000 steps .*learning_rate=0.0001, .*0.01;"):
        compatibility.check_finished(config, saved, "runs/a")


def test_every_field_that_came_later_is_completed():
    """A configuration saved before has all of today's fields, and no other."""
    saved = json.loads((OLD_RUN / "config.json").read_text())
    before = copy.deepcopy(saved)
    found, today = compatibility.completed(saved), default.get_config().to_dict()
    assert saved == before
    for group, fields in today.items():
        if isinstance(fields, dict):
            assert found[group].keys() == fields.keys(), (
                f"{group}: a new field needs what runs did before it in compatibility.LATER"
            )
    assert found["data"]["resampling"] == before["data"]["border"]
    assert compatibility.completed(found) == found
