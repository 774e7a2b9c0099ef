"""Counts in compiled programs agree with XLA's own, and with TPU's programs by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.layers.attention.flops import named_loop
from jaxft.planning import hlo, hlo_flops

TPU_TEXT = """HloModule jit_step, is_scheduled=true, num_partitions=8

%all-reduce-scatter.1 (p: f32[64,32]) -> f32[8,32] {
  %p = f32[64,32]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = f32[64,32]{1,0:T(8,128)} all-reduce(%p), channel_id=3, replica_groups=[1,8]<=[8], to_apply=%add
  %i = s32[] constant(0)
  ROOT %dynamic-slice.1 = f32[8,32]{1,0:T(8,128)} dynamic-slice(%all-reduce.1, %i, %i), dynamic_slice_sizes={8,32}
}

%overlap.1 (q: f32[8,32]) -> f32[64,32] {
  %q = f32[8,32]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.1 = f32[64,32]{1,0:T(8,128)} all-gather(%q), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
}

%overlap.2 (q: f32[8,32]) -> f32[64,32] {
  %q = f32[8,32]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.2 = f32[64,32]{1,0:T(8,128)} all-gather(%q), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}, frontend_attributes={chain_id="0"}
}

%overlap.3 (q: f32[8,32]) -> f32[64,32] {
  %q = f32[8,32]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.3 = f32[64,32]{1,0:T(8,128)} all-gather(%q), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}, frontend_attributes={chain_id="1"}
}

%body (t: (s32[], f32[64,32], bf16[4,16,8])) -> (s32[], f32[64,32], bf16[4,16,8]) {
  %t = (s32[], /*index=1*/f32[64,32]{1,0:T(8,128)}, bf16[4,16,8]{2,1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %x = f32[64,32]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %w = bf16[4,16,8]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%t), index=2
  %scattered = f32[8,32]{1,0:T(8,128)} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %chain.1 = f32[64,32]{1,0:T(8,128)} fusion(%scattered), kind=kCustom, calls=%overlap.1
  %chain.2 = f32[64,32]{1,0:T(8,128)} fusion(%scattered), kind=kCustom, calls=%overlap.2
  %chain.3 = f32[64,32]{1,0:T(8,128)} fusion(%scattered), kind=kCustom, calls=%overlap.3
  %start = (f32[8,32]{1,0}, f32[16,32]{1,0}) all-gather-start(%scattered), replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, dimensions={0}
  %done = f32[16,32]{1,0} all-gather-done(%start)
  %batched = bf16[4,16,16]{2,1,0} convolution(%w, %w), window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0oi->0bf
  %k = s32[]{:T(128)} get-tuple-element(%t), index=0
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%k, %two)
  ROOT %r = (s32[], f32[64,32]{1,0}, bf16[4,16,8]{2,1,0}) tuple(%next, %x, %w)
}

%condition (t: (s32[], f32[64,32], bf16[4,16,8])) -> pred[] {
  %t = (s32[], f32[64,32]{1,0}, bf16[4,16,8]{2,1,0}) parameter(0)
  %n = s32[]{:T(128)} constant(10)
  %k = s32[]{:T(128)} get-tuple-element(%t), index=0
  ROOT %c = pred[] compare(%k, %n), direction=LT
}

ENTRY %main (a: (s32[], f32[64,32], bf16[4,16,8])) -> (s32[], f32[64,32], bf16[4,16,8]) {
  %a = (s32[], f32[64,32]{1,0}, bf16[4,16,8]{2,1,0}) parameter(0)
  ROOT %loop = (s32[], f32[64,32]{1,0}, bf16[4,16,8]{2,1,0}) while(%a), condition=%condition, body=%body
}
"""  # noqa: E501


@settings(max_examples=300)
@given(*[st.integers(1, 9), st.integers(1, 5)] * 2, st.integers(0, 12), st.integers(1, 9), st.integers(1, 6))
def test_where_a_convolutions_kernel_meets_data(places, stride, taps, rate, pad, size, dilation):
    at = np.arange(places)[:, None] * stride + np.arange(taps) * rate - pad
    want = ((at >= 0) & (at <= (size - 1) * dilation) & (at % dilation == 0)).sum()
    assert hlo_flops.count_meetings(places, stride, taps, rate, pad, size, dilation) == want


def test_flops_and_traffic_are_xlas_where_nothing_loops():
    def function(x, w):
        return jnp.tanh(x @ w).sum(), jnp.einsum("bij,bjk->bik", x[None], w[None])

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (128, 256))]
    compiled = jax.jit(function).lower(*shapes).compile()
    program, cost = hlo.Program(compiled.as_text()), compiled.cost_analysis()
    assert program.flops() == pytest.approx(cost["flops"], rel=0.02)
    assert program.traffic() == pytest.approx(cost["bytes accessed"], rel=0.1)


def test_loops_over_data_count_their_most_trips():
    def double_often(x, times):
        with named_loop(5):
            return jax.lax.fori_loop(0, times, lambda _, x: x @ x, x)

    def pull(x, times):
        double = jax.custom_vjp(double_often)
        double.defvjp(lambda *x: (double_often(*x), x), lambda x, g: (double_often(*x) @ g, None))
        return jax.grad(lambda x: double(x, times).sum())(x)

    shapes = jax.ShapeDtypeStruct((64, 64), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    for function, products in ((double_often, 5), (pull, 6)):
        program = hlo.Program(jax.jit(function).lower(*shapes).compile().as_text())
        assert program.unknown_loops == 0 and program.flops() == products * 2 * 64**3


def test_collectives_as_tpus_compiler_writes_them():
    """An all-reduce that a fusion slices is a reduce-scatter; what starts and ends apart counts once.

    So does what several fusions overlap, a chain; products under `shard_map` share a channel, not a chain. The loop
    counts to ten by twos.
    """
    program = hlo.Program(TPU_TEXT)
    assert sorted(program.collectives()) == [
        hlo.Collective("all-gather", 5, 2 * 8 * 32 * 4, 2),
        *[hlo.Collective("all-gather", 5, 64 * 32 * 4, 8)] * 2,
        hlo.Collective("reduce-scatter", 5, 64 * 32 * 4, 8),
    ]
    assert [round(collective.sent) for collective in sorted(program.collectives())] == [
        5 * 1024,
        *[5 * 7168] * 3,
    ]
    assert program.flops() == 5 * 2 * 4 * 16 * 16 * 8  # a batched product, not a convolution of all with all
    assert program.unknown_loops == 0
    for groups, size in (
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("[2,4]<=[8]", 4),
        ("{}", 8),
        ("mesh['a'=8] {'a':(2)4}", 4),
    ):
        other = hlo.Program(TPU_TEXT.replace("[1,8]<=[8]", groups)).collectives()
        assert [collective.group for collective in other if collective.kind == "reduce-scatter"] == [size]
    with pytest.raises(ValueError, match="not a form of replica groups that is known"):
        hlo.Program(TPU_TEXT.replace("[1,8]<=[8]", "<<8>>")).collectives()
