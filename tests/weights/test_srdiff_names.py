"""Reading SRDiff's entries under the reference's names: everything or nothing."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from golden.srdiff import drawn_entries, encoder, network, shapes_of

from yoda_jax.errors import UserError
from yoda_jax.weights.public import from_public
from yoda_jax.weights.srdiff import reference_names, transposed


@pytest.fixture(scope="module")
def shapes():
    return shapes_of(network())


@pytest.fixture
def entries():
    return drawn_entries()


def test_there_and_back_is_bit_equal(shapes, entries):
    loaded = flatten_dict(from_public(network(), entries, shapes))
    assert loaded.keys() == flatten_dict(shapes).keys()
    for path, name in reference_names(shapes).items():
        value = loaded[path]
        assert value.shape == flatten_dict(shapes)[path].shape
        if transposed(path) and value.ndim == 4:
            back = (2, 3, 0, 1)
        else:
            back = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
        np.testing.assert_array_equal(value.transpose(back), entries.pop(name))
    assert not entries


def test_transposed_convolutions_are_the_projection_and_the_way_up(shapes):
    kernels = {path[0] for path in reference_names(shapes) if transposed(path)}
    assert kernels == {"projection", "up1_conv", "up2_conv"}
    assert not any(transposed(path) for path in reference_names(shapes_of(encoder())))


def test_an_encoder_alone_loads_from_its_own_checkpoint(shapes, entries):
    alone = {k.removeprefix("rrdb."): v for k, v in entries.items() if k.startswith("rrdb.")}
    loaded = from_public(encoder(), alone, shapes_of(encoder()))
    inside = from_public(network(), entries, shapes)["encoder"]
    jax.tree.map(np.testing.assert_array_equal, loaded, inside)
    with pytest.raises(UserError, match=r"The entries of RRDBNet .* conv_first\.weight is missing"):
        from_public(encoder(), entries, shapes_of(encoder()))


def test_a_missing_entry_is_named(shapes, entries):
    del entries["denoise_fn.ups.0.2.conv.0.weight"]
    with pytest.raises(
        UserError,
        match=r"of SRDiffUNet .* 1 places: denoise_fn\.ups\.0\.2\.conv\.0\.weight is missing",
    ):
        from_public(network(), entries, shapes)


def test_an_unknown_entry_is_named(shapes, entries):
    entries["denoise_fn.mid_attn.fn.g"] = np.zeros(1, np.float32)
    with pytest.raises(UserError, match=r"1 places: denoise_fn\.mid_attn\.fn\.g is unknown"):
        from_public(network(), entries, shapes)


@pytest.mark.parametrize("shape", [(16, 16, 4, 8), (16, 16, 4), ()])
def test_a_misshapen_entry_is_named_with_both_shapes(shapes, entries, shape):
    entries["denoise_fn.ups.1.2.conv.0.weight"] = np.zeros(shape, np.float32)
    with pytest.raises(UserError) as error:
        from_public(network(), entries, shapes)
    name = "denoise_fn.ups.1.2.conv.0.weight"
    assert f"1 places: {name} has the shape {shape}, expected (16, 16, 4, 4)" in str(error.value)


def test_another_encoder_names_five_entries(entries):
    with pytest.raises(UserError) as error:
        larger = network(encoder_blocks=5, encoder_features=32)
        from_public(larger, entries, shapes_of(larger))
    assert str(error.value).count(" is missing") == 5
    assert "name a whole file" in str(error.value)
