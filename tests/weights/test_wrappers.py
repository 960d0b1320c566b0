"""A network is found by its mark, however its trainer wrapped it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_files import flat

from yoda_jax.errors import UserError
from yoda_jax.weights.wrappers import below, prefix_of

MARK = "stem.conv.weight"
NETWORK = {MARK: np.float32([1]), "blocks.0.bias": np.float32([2])}
OUTSIDE = ["state_dict", "params", "model", "net", "netG", "generator", "G", "unet", "a.b"]
WITHIN = ["module", "_orig_mod", "_fsdp_wrapped_module"]
WRAPPINGS = st.lists(st.tuples(st.booleans(), st.sampled_from(OUTSIDE + WITHIN)), max_size=5)


def changed(entries, by):
    return {name: value + np.float32(by) for name, value in entries.items()}


def wrapped(entries, wrappings):
    """Each wrapping is a dictionary around all, or a prefix before every name."""
    for nested, name in wrappings:
        if nested:
            entries = {"epoch": 3, name: entries, "optimizer": {"state": {0: np.zeros(2)}}}
        else:
            entries = {f"{name}.{key}": value for key, value in entries.items()}
    return entries


def found(tensors):
    entries = flat(tensors)
    return below(entries, prefix_of(entries, MARK))


def assert_network(entries, by=0):
    assert entries.keys() == NETWORK.keys()
    for name, value in entries.items():
        np.testing.assert_array_equal(value, NETWORK[name] + np.float32(by))


@settings(max_examples=60, deadline=None)
@given(WRAPPINGS)
def test_the_network_is_the_same_in_every_nesting_of_wrappers(wrappings):
    assert_network(found(wrapped(NETWORK, wrappings)))


@settings(max_examples=40, deadline=None)
@given(WRAPPINGS, st.sampled_from(["params_ema", "ema", "netG_ema", "EMA", "swa", "teacher"]))
def test_the_average_is_taken_and_not_what_it_averages(wrappings, name):
    both = {"params": NETWORK, name: changed(NETWORK, 7)}
    assert_network(found(wrapped(both, wrappings)), 7)


def test_an_average_that_keeps_what_it_averages_beside_it_is_told_apart():
    ema = {"online_model": NETWORK, "ema_model": changed(NETWORK, 7), "initted": np.bool_(True)}
    assert_network(found({"model": NETWORK, "ema": ema, "ema_decay": 0.99}), 7)


def test_what_an_averaging_wrapper_counts_is_left_out():
    entries = {f"module.{name}": value for name, value in NETWORK.items()}
    assert_network(found({"n_averaged": np.int64(5)} | entries))


def test_a_discriminator_beside_the_network_is_left_out():
    tensors = {"netG.stem.conv.weight": np.zeros(1), "netD.stem.weight": np.ones(1)}
    assert found(tensors).keys() == {MARK}


def test_wrappers_within_a_network_are_left_out():
    tensors = {"stem.module.conv.weight": np.zeros(1), "blocks.0._orig_mod.bias": np.ones(1)}
    assert found(tensors).keys() == NETWORK.keys()


def test_a_network_listed_twice_is_one_and_two_networks_are_refused():
    assert_network(found({"net": NETWORK, "diffusion": {"net": NETWORK}}))
    with pytest.raises(UserError, match="differ, under net_a., net_b.; save one of them alone"):
        found({"net_a": NETWORK, "net_b": changed(NETWORK, 7)})


def test_a_file_without_the_mark_has_no_prefix():
    assert prefix_of(flat({"state_dict": {"xstem.conv.weight": np.zeros(1)}}), MARK) is None
    assert prefix_of({}, MARK) is None
