"""What is read from the text of compiled programs."""

import jax
import jax.numpy as jnp

from yoda_jax.compiled import collectives, traffic
from yoda_jax.training import sharding


def test_collectives_are_counted_with_their_bytes():
    mesh = sharding.make_mesh()
    rows, whole = sharding.by_rows(mesh), sharding.replicated(mesh)
    given = jax.ShapeDtypeStruct((8, 16, 32), jnp.float32, sharding=rows)
    step = jax.jit(lambda x: x.sum(0), out_shardings=whole).lower(given).compile()
    assert collectives(step.as_text()) == {"all-reduce": (1, 4 * 16 * 32)}


def test_collectives_of_a_tpus_program_are_read():
    program = """
  %all-reduce = (f32[64]{0:T(128)}, bf16[8,4]{1,0:T(8,128)(2,1)}) all-reduce-start(%a, %b)
  %done = (f32[64]{0:T(128)}, bf16[8,4]{1,0}) all-reduce-done(%all-reduce)
  %all-gather.5 = f32[16,8]{0,1:T(8,128)S(1)} all-gather(%fusion), channel_id=3, dimensions={0}
  %copy = f32[16,8]{0,1:T(8,128)} copy(%all-gather.5)
"""
    found = {"all-reduce": (1, 4 * 64 + 2 * 32), "all-gather": (1, 4 * 16 * 8)}
    assert collectives(program) == found


def test_what_is_fused_is_not_traffic():
    """A product of matrices and what follows it: operands and result, each once."""
    left, right = jnp.ones((64, 128)), jnp.ones((128, 32))
    step = jax.jit(lambda a, b: jnp.tanh(a @ b) + 1).lower(left, right).compile()
    moved = 4 * (64 * 128 + 128 * 32 + 64 * 32)
    assert moved <= traffic(step.as_text()) <= moved + 2 * 4 * 64 * 32


def test_traffic_of_a_tpus_program_leaves_the_memory_on_the_chip_out():
    program = """
%body (p: (bf16[4,64])) -> (bf16[4,64]) {
  %p = (bf16[4,64]{1,0:T(8,128)(2,1)}) parameter(0)
  %item = bf16[4,64]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=0
  %next = bf16[4,64]{1,0:T(8,128)(2,1)} fusion(%item), kind=kLoop, calls=%fused
  ROOT %tuple = (bf16[4,64]{1,0:T(8,128)(2,1)}) tuple(%next)
}

%fused (q: f32[1000]) -> f32[1000] {
  ROOT %inside = f32[1000]{0} negate(%q)
}

ENTRY %main (a: f32[16,128]) -> f32[16,128] {
  %a = f32[16,128]{1,0:T(8,128)} parameter(0)
  %copy = (f32[16,128]{1,0:T(8,128)S(1)}, f32[16,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %here = f32[16,128]{1,0:T(8,128)S(1)} copy-done(%copy)
  %slice = ((f32[16,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%a)
  %part = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%slice)
  %sum = f32[16,128]{1,0:T(8,128)S(1)} fusion(%here, %part), kind=kLoop, calls=%fused
  %loop = (bf16[4,64]{1,0:T(8,128)(2,1)}) while(%init), condition=%less, body=%body
  ROOT %out = f32[16,128]{1,0:T(8,128)} copy(%sum)
}
"""
    fetched, sliced, written = 4 * 16 * 128, 4 * 8 * 128, 4 * 16 * 128
    in_loop = 2 * 2 * 8 * 128  # read and written, filled up to a tile
    assert traffic(program) == fetched + sliced + written + in_loop
