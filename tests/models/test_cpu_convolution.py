"""The convolution for a CPU against the plain one: values and derivatives of both kinds."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_near

from yoda_jax.models.cpu_convolution import convolution

# What the networks ask for: (kernel, strides, padding, dilation of the input).
CASES = {
    "1x1": (1, 1, ((0, 0), (0, 0)), 1),
    "zeros around": (3, 1, ((1, 1), (1, 1)), 1),
    "nothing around": (3, 1, "VALID", 1),
    "strided": (3, 2, ((1, 1), (1, 1)), 1),
    "strided, nothing around": (3, 2, "VALID", 1),
    "transposed, 2": (4, 1, ((2, 2), (2, 2)), 2),
    "transposed, 4": (8, 1, ((5, 5), (5, 5)), 4),
}


def functions(case):
    """(ours, plain, size of the kernel) of a case."""
    size, stride, padding, dilation = CASES[case]
    strides = (stride, stride)
    options = dict(
        padding=padding,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    plain = partial(jax.lax.conv_general_dilated, window_strides=strides, **options)
    return partial(convolution, strides=strides, **options), plain, size


def cost(function, x, kernel):
    """A sum weighted unevenly over the output."""
    out = function(x, kernel)
    weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
    return (out.astype(jnp.float32) * weights).sum(), out


def value_and_gradients(function, x, kernel):
    return jax.jit(jax.grad(partial(cost, function), (0, 1), has_aux=True))(x, kernel)


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_all_near(ours, theirs, tolerance=2e-6):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert_near(a, b, tolerance)


@given(
    st.sampled_from(list(CASES)),
    st.integers(1, 2),
    st.integers(3, 6),
    st.integers(3, 6),
    st.integers(1, 3),
    st.integers(1, 3),
)
@settings(max_examples=8, deadline=None)
def test_values_and_gradients_are_the_plain_ones(case, batch, height, width, before, after):
    ours, plain, size = functions(case)
    x, kernel = draw(0, batch, height, width, before), draw(1, size, size, before, after)
    assert_all_near(*(value_and_gradients(f, x, kernel) for f in (ours, plain)))


@pytest.mark.parametrize("case", ["nothing around", "strided", "transposed, 2"])
def test_forward_mode_and_second_derivatives(case):
    """Along a direction: of the value, and of the gradient (a Hessian times a vector)."""
    ours, plain, size = functions(case)
    point = draw(2, 1, 4, 5, 2), draw(3, size, size, 2, 2)
    direction = jax.tree.map(jnp.cos, point)

    def along(function):
        def curved(x, kernel):
            return jnp.sin(function(x, kernel)).sum()

        value = jax.jvp(curved, point, direction)[1]
        return value, jax.jvp(jax.grad(curved, (0, 1)), point, direction)[1]

    assert_all_near(*(jax.jit(partial(along, f))() for f in (ours, plain)), tolerance=1e-5)


def test_a_gradient_for_each_of_many_pictures():
    ours, plain, size = functions("zeros around")
    x, kernel = draw(4, 3, 1, 4, 5, 2), draw(5, size, size, 2, 2)

    def gradients(function):
        return jax.vmap(lambda x: jax.grad(lambda k: cost(function, x, k)[0])(kernel))(x)

    assert_all_near(*(jax.jit(partial(gradients, f))() for f in (ours, plain)))


@pytest.mark.parametrize("case", CASES)
def test_accelerators_get_plain_convolutions(case):
    """What is lowered for a TPU: no products of matrices, neither forwards nor backwards.

    With a stride a CPU gets them too.
    """
    ours, _, size = functions(case)
    arguments = draw(6, 1, 8, 8, 4), draw(7, size, size, 4, 4)
    traced = jax.jit(jax.grad(partial(cost, ours), (0, 1), has_aux=True)).trace(*arguments)
    tpu, cpu = (traced.lower(lowering_platforms=(p,)).as_text() for p in ("tpu", "cpu"))
    assert ("stablehlo.dot_general" in cpu) == ("strided" not in case)
    assert "stablehlo.dot_general" not in tpu
    assert tpu.count("stablehlo.convolution") == 3


def test_bfloat16_gives_its_own_type():
    ours, _, size = functions("zeros around")
    x, kernel = draw(8, 2, 8, 8, 4), draw(9, size, size, 4, 4)
    half = value_and_gradients(ours, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    for a, b in zip(
        jax.tree.leaves(half), jax.tree.leaves(value_and_gradients(ours, x, kernel)), strict=True
    ):
        assert a.dtype == jnp.bfloat16
        assert_near(a.astype(jnp.float32), b, 0.03)
