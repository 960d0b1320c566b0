"""Every network keeps to the protocol, in its dtype and its precision."""

import re
from functools import partial
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from reference import assert_near

from yoda_jax.models.blocks import Remat
from yoda_jax.models.networks import NETWORKS, make_network

SIZES = {
    "features": 4,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention_resolutions": (8,),
    "image_size": 16,
    "groups": 2,
    "encoder_features": 4,
    "encoder_blocks": 2,
    "scale": 4,
}


def made(name, **changes):
    """(forward pass of parameters, parameters) of a tiny network."""
    network = make_network(name, SIZES | changes)
    lr, lr_up, z = (
        np.random.default_rng(i).uniform(-1, 1, (1, size, size, 3)).astype(np.float32)
        for i, size in enumerate((4, 16, 16))
    )

    def run(network):
        if not network.diffuses:
            return network(lr)
        return network(z, jnp.ones(1), network.condition(network.encode(lr), lr_up))

    shapes = jax.eval_shape(nn.init(run, network), jax.random.key(0))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)
    return jax.jit(nn.apply(run, network)), params


@pytest.mark.parametrize("name", NETWORKS)
def test_hyper_parameters_are_chosen_by_name_and_right_ones_have_no_problem(name):
    network = make_network(name, SIZES | {"unknown": 1})
    assert network.problem() is None and network.features == 4
    assert network.reduction in (1, 2) and isinstance(network.diffuses, bool)
    if network.diffuses:
        assert isinstance(network.continuous_level, bool)
    assert set(network.parts.values()) <= set(NETWORKS)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sr3", {"groups": 3}),
        ("sr3", {"attention_resolutions": (5,)}),
        ("srdiff", {"features": 5}),
        ("srdiff", {"encoder_blocks": 3}),
        ("srdiff", {"scale": 2}),
        ("rrdb", {"features": 5}),
        ("rrdb", {"scale": 2}),
    ],
)
def test_a_problem_begins_with_the_hyper_parameter(name, changes):
    problem = make_network(name, SIZES | changes).problem()
    assert problem.startswith(next(iter(changes))) and problem.endswith(".")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_bfloat16_computes_its_last_layer_in_float32(name):
    forward, params = made(name, dtype=jnp.bfloat16)
    out = forward(params)
    assert out.dtype == np.float32
    out = np.asarray(out if name != "rrdb" else (out[abs(out) < 1] + 1) / 2)
    assert out.size > 20
    rounded = out.astype(jnp.bfloat16).astype(np.float32)
    assert (out != rounded).mean() > 0.5


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("precision", "lowered"), [("default", "DEFAULT"), ("highest", "HIGHEST")])
def test_every_product_is_computed_in_the_chosen_precision(name, precision, lowered):
    """Of the forward pass and of the gradient, on a TPU and on a CPU."""
    forward, params = made(name, precision=precision)
    gradient = jax.jit(jax.grad(lambda params: forward(params).sum())).trace(params)
    for platform in ("tpu", "cpu"):
        text = gradient.lower(lowering_platforms=(platform,)).as_text()
        products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", text)
        kernels = sum(path[-1] == "kernel" for path in flatten_dict(params))
        assert len(products) > kernels
        for product in products:
            assert set(re.findall(r"DEFAULT|HIGHEST|HIGH", product)) <= {lowered}, product
            assert lowered == "DEFAULT" or lowered in product, product


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_computed_anew_is_not_kept_and_changes_no_gradient(name):
    kept, gradients = {}, {}
    for remat in get_args(Remat):
        forward, params = made(name, remat=remat)
        kept[remat] = residual_bytes(forward, params)
        gradients[remat] = jax.grad(lambda params, f=forward: jnp.sin(f(params)).sum())(params)
    assert kept["blocks"] < 0.7 * kept["none"], kept
    near = partial(assert_near, tolerance=1e-5)
    jax.tree.map(near, gradients["blocks"], gradients["none"])


def residual_bytes(forward, params):
    """Of all that the forward pass keeps for the backward pass, but the parameters."""
    backward = jax.eval_shape(lambda params: jax.vjp(forward, params)[1], params)
    of_parameters = {leaf.shape for leaf in jax.tree.leaves(params)}
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape not in of_parameters]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept)


def test_dropout_leaves_the_same_out_when_a_block_is_computed_anew():
    lr_up = z = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    rngs = {"dropout": jax.random.key(1)}
    _, params = made("sr3")

    def gradient(remat):
        network = make_network("sr3", SIZES | {"dropout": 0.5, "remat": remat})

        def run(network):
            return network(z, jnp.ones(1), network.condition(z, lr_up), train=True)

        loss = jax.jit(lambda p: jnp.sin(nn.apply(run, network)(p, rngs=rngs)).sum())
        return jax.grad(loss)(params)

    jax.tree.map(partial(assert_near, tolerance=1e-5), gradient("blocks"), gradient("none"))
