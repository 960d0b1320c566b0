"""Reading entries under the reference's names: everything or nothing."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from golden.sr3 import network, parameters

from yoda_jax.errors import UserError
from yoda_jax.weights.public import from_public
from yoda_jax.weights.sr3 import reference_names


@pytest.fixture(scope="module")
def params():
    return parameters()


@pytest.fixture
def entries(params):
    """Our parameters in the reference's layout."""
    flat = flatten_dict(params)
    back = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    return {
        name: np.asarray(flat[path]).transpose(back[flat[path].ndim])
        for path, name in reference_names(network(), params).items()
    }


def test_there_and_back_is_bit_equal(params, entries):
    loaded = flatten_dict(from_public(network(), entries, params))
    expected = flatten_dict(params)
    assert loaded.keys() == expected.keys()
    for path, value in loaded.items():
        np.testing.assert_array_equal(value, expected[path])


def test_a_missing_entry_is_named(params, entries):
    del entries["mid.0.attn.qkv.weight"]
    with pytest.raises(UserError, match=r"1 places: mid\.0\.attn\.qkv\.weight is missing"):
        from_public(network(), entries, params)


def test_an_unknown_entry_is_named(params, entries):
    entries["downs.9.conv.weight"] = np.zeros((1, 1, 3, 3), np.float32)
    with pytest.raises(UserError, match=r"downs\.9\.conv\.weight is unknown"):
        from_public(network(), entries, params)


def test_another_width_names_five_entries_and_both_shapes(params, entries):
    wide = {name: np.repeat(value, 2, axis=0) for name, value in entries.items()}
    with pytest.raises(UserError) as error:
        from_public(network(), wide, params)
    assert str(error.value).count(" has the shape ") == 5
    assert "noise_level_mlp.1.weight has the shape (128, 16), expected (64, 16)" in str(error.value)
